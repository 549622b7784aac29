// The three linked panels. Gradio runs this once with `element`, `props` and `watch`; `props.value` is what
// `panel_view` in t4s/app/views/panels.py makes. All text goes in through textContent and never as HTML: model text is untrusted.

const root = element.querySelector(".t4s");
const $ = (selector) => root.querySelector(selector);
const all = (selector) => [...root.querySelectorAll(selector)];
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

const headline = $(".t4s-headline"), legend = $(".t4s-legend"), pre = $("pre"), cellsBox = $(".t4s-cells");
const readout = $(".t4s-readout"), canvas = $(".t4s-paint"), rects = $(".t4s-rects"), divider = $(".t4s-divider");
const slide = $(".t4s-slide input"), slideName = $(".t4s-slide span");
const threshold = $(".t4s-threshold input"), thresholdName = $(".t4s-threshold output");
const copyText = $(".t4s-text .t4s-copy"), copyMask = $(".t4s-mask .t4s-copy");
const partList = $(".t4s-parts"), actions = $(".t4s-actions");
const settings = { grid: "photo", confidence: false, mask: "overlay", opacity: 55, compare: 50 };

let view = null;      // the value on show
let cells = [];       // one element a cell, in reading order
let drawn = "";       // the shape that `cells` were made for
let spans = [];       // one element a run of the text
let runOf = [];       // cell → index into view.runs
let index = null;     // {width, height, ids}: the mask's label of every preview pixel
let photoData = null; // the preview photo's pixels, for the cut-out
let removed = new Set(); // parts taken out of the mask: indexes into view.parts
let chosenPart = -1;  // the part singled out, -1 for none
let hoveredPart = -1; // the part under the pointer
let revealed = true;  // false: an answer that the model is not sure of is not drawn yet
let chosen = 0;       // the label singled out, 0 for none
let highlighted = -1; // the run under the pointer
let current = 0;      // the cell that the Tab key comes to
let ticket = 0;       // a newer value makes pictures that are still loading void
let seen = { names: [], cells: [] }; // the names that the photo shows, and of each cell the index of one, or -1
let litCells = false; // some cells are lit

const rgb = (label) => view.colours[label] || [128, 128, 128];
const css = (label, alpha) => `rgb(${rgb(label).join(" ")} / ${alpha})`;
const percent = (value) => `${Math.round(value * 100)} %`;

// --- text ---------------------------------------------------------------------------------------------

function drawText() {
  const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 24;
  const made = document.createDocumentFragment();
  let line = made.appendChild(make("span", "line"));
  spans = [];
  runOf = new Array(view.shape[0] * view.shape[1]).fill(-1);
  view.runs.forEach((run, i) => {
    const span = make("span", run.label === null ? (run.fault ? "fault" : "mark") : run.label ? "run" : "run others");
    if (run.label === null) {
      span.textContent = run.text;
      if (run.fault) span.title = run.fault;
    } else {
      const head = run.text.length - run.text.trimStart().length;
      const star = run.text.lastIndexOf(" *");
      const end = star > 0 && view.layout !== "full" ? star : run.text.length;
      const name = make("b", "", run.text.slice(head, end));
      if (run.label) {
        name.style.setProperty("--tint", css(run.label, 0.34));
        name.style.setProperty("--line", css(run.label, 1));
      }
      span.append(run.text.slice(0, head), name, run.text.slice(end));
      if (run.fault) { span.classList.add("fault"); span.title = run.fault; }
      span.dataset.run = i;
      for (let cell = run.at; cell < run.at + run.count; cell++) runOf[cell] = i;
    }
    spans.push(span);
    line.append(span);
    if (run.text === "\n") line = made.appendChild(make("span", "line"));
  });
  if (view.running) line.append(make("i", "caret"));
  pre.replaceChildren(made);
  if (view.running && atEnd) pre.scrollTop = pre.scrollHeight;
  copyText.disabled = !view.text;
  copyMask.disabled = !view.mask || !view.photo;
  $(".t4s-count").textContent = view.count || "\u00a0";
}

// --- grid ---------------------------------------------------------------------------------------------

function drawGrid() {
  const [height, width] = view.shape;
  if (drawn !== `${height}×${width}`) {
    drawn = `${height}×${width}`;
    cells = [];
    current = 0;
    cellsBox.style.gridTemplate = `repeat(${height}, 1fr) / repeat(${width}, 1fr)`;
    const rows = Array.from({ length: height }, (_, row) => {
      const line = make("div");
      line.setAttribute("role", "row");
      for (let column = 0; column < width; column++) {
        const cell = make("div", "cell waiting");
        cell.setAttribute("role", "gridcell");
        cell.dataset.cell = cells.length;
        cell.tabIndex = cells.length ? -1 : 0;
        cells.push(cell);
        line.append(cell);
      }
      return line;
    });
    cellsBox.replaceChildren(...rows);
  }
  const across = view.size[0] / view.size[1] * height / width; // of a cell, over its height
  cellsBox.classList.toggle("fine", width > 32 || height > 32 || across > 2 || across < 0.5);
  const marks = new Set(view.marks);
  cells.forEach((cell, i) => {
    const label = view.ids[i], waiting = i >= view.written;
    const sure = view.confidence ? view.confidence[i] : 1;
    cell.classList.toggle("waiting", waiting);
    cell.classList.toggle("filled", !waiting && label > 0);
    cell.classList.toggle("unsure", !revealed && !waiting && label > 0);
    cell.classList.toggle("repaired", marks.has(i));
    const plain = settings.grid === "plain" || !view.photo;
    const alpha = settings.confidence ? 0.08 + 0.84 * sure * sure : plain ? 0.9 : 0.62;
    cell.style.background = waiting ? "" : label ? css(label, alpha)
      : settings.confidence ? `rgb(var(--t4s-doubt) / ${0.75 * (1 - sure)})` : plain ? "var(--t4s-cell)" : "";
    cell.setAttribute("aria-label", describe(i));
  });
}

function cellFacts(i) { // what is known of a cell: [what is there, its run, its place]
  const place = `row ${Math.floor(i / view.shape[1]) + 1}, column ${(i % view.shape[1]) + 1}`;
  if (seenAt(i)) return [`looks like ${seenAt(i)}`, touch ? "tap to ask" : "click to ask", place];
  if (i >= view.written) return [isReady() && seen.cells.length ? "nothing it knows by name" : "not written yet", "", place];
  const run = view.runs[runOf[i]], sure = view.confidence ? `, ${percent(view.confidence[i])} sure` : "";
  return [view.labels[view.ids[i]] + sure, run ? `run of ${run.count}` : "", place];
}

const touch = matchMedia("(hover: none)").matches;
const isReady = () => root.dataset.state === "ready";
const seenAt = (i) => (isReady() ? seen.names[seen.cells[i]] : undefined); // what can be asked for by pointing at it

function pick(i) { // a cell was clicked
  if (seenAt(i)) trigger("submit", { text: seenAt(i) });
  else choose(view.ids[i] || chosen);
}

function showReadout(i) { // under the grid: on one line or, where it is narrow, on two
  const [what, run, place] = cellFacts(i);
  readout.replaceChildren(make("b", "", what), make("span", "", [run, place].filter(Boolean).join(", ")));
}

function showHint() { // what can be done, or what the colours of the confidence mean
  if (!settings.confidence || !view?.confidence) {
    const pointing = touch ? "Tap a thing in the photo to ask for it." : "Point at a thing in the photo; a click asks for it.";
    const tapping = touch && view?.hint && !view.sample ? "Tap a cell, a run of the text or a pixel." : view?.hint;
    readout.textContent = (view && isReady() && seen.cells.length ? pointing : tapping) || "\u00a0";
    return;
  }
  const scale = make("i", "t4s-scale"), doubt = make("i", "t4s-doubt");
  const colour = view.legend.length ? view.legend[0].label : 1;
  scale.style.setProperty("--from", css(colour, 0.08));
  scale.style.setProperty("--to", css(colour, 0.92));
  readout.replaceChildren(make("span", "", "unsure"), scale, make("span", "", "sure"), doubt, make("span", "", "background, unsure"));
}

function describe(i) {
  const [what, run, place] = cellFacts(i);
  return `${place}: ${[what, run].filter(Boolean).join(", ")}`;
}

// --- mask ---------------------------------------------------------------------------------------------

const load = (url) => new Promise((done, failed) => {
  const image = new Image();
  image.onload = () => done(image);
  image.onerror = () => failed(new Error("a picture of the page could not be read"));
  image.src = url;
});

function pixels(image, width, height) {
  const sheet = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  sheet.imageSmoothingEnabled = false;
  sheet.drawImage(image, 0, 0, width, height);
  return sheet.getImageData(0, 0, width, height).data;
}

function coarse() { // until the mask is there: the cells themselves
  const [height, width] = view.shape;
  return { width, height, ids: view.ids.map((label, i) => (i < view.written ? label : 0)) };
}

async function fetchMask(mine) {
  let mask = null, photo = null;
  if (view.mask) {
    const image = await load(view.mask);
    const data = pixels(image, image.width, image.height);
    const ids = new Uint8Array(image.width * image.height);
    const parts = new Uint8Array(ids.length);
    for (let i = 0; i < ids.length; i++) { ids[i] = data[4 * i]; parts[i] = data[4 * i + 1]; }
    mask = { width: image.width, height: image.height, ids, parts };
    if (view.photo) photo = pixels(await load(view.photo), mask.width, mask.height);
  }
  if (mine !== ticket) return;
  index = mask;
  photoData = photo;
  root.dataset.mask = mask ? "fine" : "coarse";
  paint();
}

function paint() {
  if (!view) return;
  const { width, height, ids, parts } = index || coarse();
  canvas.width = width;
  canvas.height = height;
  const mode = view.photo ? settings.mask : "overlay", sheet = canvas.getContext("2d"), picture = sheet.createImageData(width, height);
  const out = picture.data, opacity = view.photo ? settings.opacity / 100 : 0.95, thick = Math.max(1, Math.round(1.6 * width / (canvas.clientWidth || width)));
  const table = view.labels.map((_, label) => rgb(label));
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const label = ids[i];
      const part = parts ? parts[i] - 1 : -1;
      if (!label || !revealed || removed.has(part)) continue;
      const single = [hoveredPart, chosenPart].find((one) => one >= 0 && !removed.has(one)) ?? -1;
      const dim = (chosen && label !== chosen) || (single >= 0 && part !== single) ? 0.12 : 1, at = 4 * i, [r, g, b] = table[label] || [128, 128, 128];
      let alpha = opacity;
      if (mode === "outline" || mode === "overlay") {
        const edge = index && view.photo && (x < thick || y < thick || x >= width - thick || y >= height - thick
          || ids[i - thick] !== label || ids[i + thick] !== label
          || ids[i - thick * width] !== label || ids[i + thick * width] !== label);
        alpha = edge ? 1 : mode === "outline" ? 0 : opacity;
      } else if (mode === "compare") alpha = 0.72;
      if (mode === "cutout" && photoData) {
        out[at] = photoData[at]; out[at + 1] = photoData[at + 1]; out[at + 2] = photoData[at + 2];
        out[at + 3] = 255 * dim;
      } else {
        out[at] = r; out[at + 1] = g; out[at + 2] = b;
        out[at + 3] = 255 * (mode === "cutout" ? 1 : alpha) * dim;
      }
    }
  }
  sheet.putImageData(picture, 0, 0);
  canvas.style.clipPath = mode === "compare" ? `inset(0 ${100 - settings.compare}% 0 0)` : "";
  divider.hidden = mode !== "compare";
  divider.style.left = `${settings.compare}%`;
  const slides = view.photo && (mode === "overlay" || mode === "compare");
  slide.disabled = !slides;
  slide.value = mode === "compare" ? settings.compare : settings.opacity;
  slideName.textContent = mode === "compare" ? "before / after" : "opacity";
  slide.setAttribute("aria-label", mode === "compare" ? "Where the mask ends" : "Opacity of the mask");
}

// --- linked hover, choice -----------------------------------------------------------------------------

function highlight(run, cell) {
  if (highlighted >= 0) spans[highlighted]?.classList.remove("lit");
  if (litCells) cells.forEach((node) => node.classList.remove("lit"));
  highlighted = view && view.runs[run] ? run : -1;
  rects.replaceChildren();
  const name = highlighted < 0 && cell >= 0 && seenAt(cell);
  litCells = highlighted >= 0 || Boolean(name);
  if (name) cells.forEach((node, i) => node.classList.toggle("lit", seenAt(i) === name));
  if (highlighted < 0) {
    if (cell >= 0) showReadout(cell); else showHint();
    return;
  }
  const { at, count, label } = view.runs[highlighted], [height, width] = view.shape;
  spans[highlighted].classList.add("lit");
  if (!pre.matches(":hover")) { // bring the run into sight, without moving the page
    const { top, bottom } = spans[highlighted].getBoundingClientRect(), frame = pre.getBoundingClientRect();
    if (top < frame.top) pre.scrollTop -= frame.top - top + 8;
    else if (bottom > frame.bottom) pre.scrollTop += bottom - frame.bottom + 8;
  }
  for (let i = at; i < at + count; i++) cells[i]?.classList.add("lit");
  for (let first = at; first < at + count;) { // a run of the image layout goes on in the next row
    const row = Math.floor(first / width), end = Math.min(at + count, (row + 1) * width);
    const box = make("div");
    box.style.cssText = `left:${100 * (first % width) / width}%;top:${100 * row / height}%;`
      + `width:${100 * (end - first) / width}%;height:${100 / height}%`;
    box.style.setProperty("--line", label ? css(label, 1) : "var(--t4s-ink)");
    rects.append(box);
    first = end;
  }
  showReadout(cell >= 0 ? cell : at);
}

function choose(label) {
  chosen = label === chosen ? 0 : label;
  root.classList.toggle("choosing", chosen > 0);
  spans.forEach((span, i) => span.classList.toggle("dim", chosen > 0 && view.runs[i].label !== chosen));
  cells.forEach((cell, i) => cell.classList.toggle("dim", chosen > 0 && view.ids[i] !== chosen));
  all(".t4s-legend button").forEach((chip) => chip.setAttribute("aria-pressed", Number(chip.dataset.label) === chosen));
  paint();
}

function drawLegend() {
  const chips = view.legend.map(({ label, area }) => {
    const chip = make("button", "chip");
    chip.type = "button";
    chip.dataset.label = label;
    chip.setAttribute("aria-pressed", "false");
    chip.style.setProperty("--line", css(label, 1));
    chip.append(make("i"), make("span", "", view.labels[label]), make("small", "", area));
    return chip;
  });
  legend.replaceChildren(...chips);
}

// --- parts, doubt -------------------------------------------------------------------------------------

function partTitle(part) { // numbered where its label has several
  const same = view.parts.filter((other) => other.label === part.label), label = view.labels[part.label];
  return same.length > 1 ? `${label} ${same.indexOf(part) + 1}` : label;
}

function drawHeadline() { // its figures are of the whole answer, so it says what is taken out
  const out = removed.size ? ` ${removed.size} part${removed.size > 1 ? "s" : ""} taken out.` : "";
  headline.title = view.message + out;
  headline.textContent = headline.title.replaceAll(" %", "\u00a0%");
}

function drawParts() {
  partList.replaceChildren(...(revealed ? view.parts : []).map((part, i) => {
    const item = make("li", removed.has(i) ? "removed" : ""), name = make("button", "t4s-part"), keep = make("input");
    const title = partTitle(part);
    name.type = "button";
    name.style.setProperty("--line", css(part.label, 1));
    name.setAttribute("aria-pressed", i === chosenPart);
    name.title = `box ${part.box.join(", ")}`;
    name.append(make("i"), make("span", "", title), make("small", "", `${part.score} % sure, ${part.area}`));
    name.addEventListener("click", () => choosePart(i));
    item.addEventListener("pointerenter", () => { hoveredPart = i; paint(); });
    item.addEventListener("pointerleave", () => { hoveredPart = -1; paint(); });
    keep.type = "checkbox";
    keep.checked = !removed.has(i);
    keep.setAttribute("aria-label", `Keep ${title}`);
    keep.addEventListener("change", () => {
      if (keep.checked) removed.delete(i); else removed.add(i);
      item.classList.toggle("removed", !keep.checked);
      drawHeadline();
      hoveredPart = -1; // the pointer is on it still, but now the whole mask is of interest
      paint();
      trigger("select", { removed: [...removed] });
    });
    item.append(keep, name);
    return item;
  }));
}

function choosePart(i) { // single it out, or no part any more
  chosenPart = chosenPart === i ? -1 : i;
  drawParts();
  paint();
}

function drawActions() {
  const buttons = view.suggestions.map((word) => {
    const button = make("button", "t4s-action", word);
    button.type = "button";
    button.addEventListener("click", () => trigger("submit", { text: word }));
    return button;
  });
  if (buttons.length) buttons.unshift(make("span", "", "Did you mean"));
  if (!revealed) {
    const button = make("button", "t4s-action t4s-anyway", "Show anyway");
    button.type = "button";
    button.addEventListener("click", () => { revealed = true; drawActions(); drawParts(); drawGrid(); paint(); });
    buttons.push(button);
  }
  actions.replaceChildren(...buttons);
}

// --- everything ---------------------------------------------------------------------------------------

function show() {
  const value = props.value;
  view = value && value.shape ? value : null;
  ticket += 1;
  if (!view) {
    root.dataset.state = "empty";
    headline.textContent = "";
    return;
  }
  cells.forEach((cell) => cell.classList.remove("lit")); // of a run that is no more
  highlighted = -1;
  litCells = false;
  rects.replaceChildren();
  root.dataset.state = view.sample ? "empty" : view.running ? "running" : view.text ? "done" : "ready";
  root.dataset.photo = view.photo ? "yes" : "no";
  root.style.setProperty("--written", view.written / (view.shape[0] * view.shape[1]));
  root.style.setProperty("--ratio", view.size[0] / view.size[1]);
  root.dataset.shape = view.photo && view.size[0] > 2.2 * view.size[1] ? "wide" : "";
  ["Raw text", "Descriptor grid", "Refined mask"].forEach((title, i) => {
    all("h2")[i].textContent = view.photo || view.sample ? title : ["Text", "Grid", "Mask"][i];
  });
  headline.dataset.kind = view.kind;
  for (const image of all(".t4s-photo")) {
    if (view.photo && image.src !== view.photo) image.src = view.photo;
    image.hidden = !view.photo;
  }
  removed = new Set(view.removed || []);
  drawHeadline();
  chosenPart = hoveredPart = -1;
  revealed = !view.hidden;
  threshold.value = Math.round(100 * view.threshold);
  thresholdName.textContent = `${threshold.value} %`;
  threshold.disabled = !view.facts.length || !view.photo;
  drawActions();
  drawParts();
  drawLegend();
  drawText();
  drawGrid();
  const keep = view.labels[chosen] && view.legend.some((entry) => entry.label === chosen) ? chosen : 0;
  chosen = 0;
  if (keep) choose(keep); else choose(0);
  showHint();
  $(".t4s-facts").replaceChildren(...view.facts.map(([name, fact, hint]) => {
    const pair = make("div");
    if (hint) pair.title = hint;
    pair.append(make("dt", "", name), make("dd", "", fact));
    return pair;
  }));
  $(".t4s-faults").replaceChildren(...view.faults.map((fault) => make("li", "", fault)));
  if (!view.mask) { index = null; photoData = null; root.dataset.mask = "coarse"; paint(); }
  fetchMask(ticket);
}

root.addEventListener("pointerover", (event) => {
  const span = event.target.closest("[data-run]"), cell = event.target.closest("[data-cell]");
  if (span) highlight(Number(span.dataset.run), -1);
  else if (cell) highlight(runOf[Number(cell.dataset.cell)] ?? -1, Number(cell.dataset.cell));
});
for (const area of [pre, cellsBox, canvas.parentElement]) area.addEventListener("pointerleave", () => highlight(-1, -1));

function cellUnder(event) {
  const box = canvas.getBoundingClientRect(), [height, width] = view.shape;
  const x = Math.floor((event.clientX - box.left) / box.width * width);
  const y = Math.floor((event.clientY - box.top) / box.height * height);
  return x < 0 || y < 0 || x >= width || y >= height ? -1 : y * width + x;
}
const maskFrame = canvas.parentElement;
maskFrame.addEventListener("pointermove", (event) => {
  if (!view) return;
  if (settings.mask === "compare") {
    const box = canvas.getBoundingClientRect();
    settings.compare = Math.round(100 * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    canvas.style.clipPath = `inset(0 ${100 - settings.compare}% 0 0)`;
    divider.style.left = `${settings.compare}%`;
    slide.value = settings.compare;
  }
  const cell = cellUnder(event);
  if (cell >= 0) highlight(runOf[cell] ?? -1, cell);
});
maskFrame.addEventListener("click", (event) => {
  if (!view) return;
  const box = canvas.getBoundingClientRect(), { width, height, ids } = index || coarse();
  const x = Math.min(width - 1, Math.floor((event.clientX - box.left) / box.width * width));
  const y = Math.min(height - 1, Math.floor((event.clientY - box.top) / box.height * height));
  const part = index?.parts?.[y * width + x] || 0;
  if (isReady()) pick(cellUnder(event));
  else if (part && view.legend.length === 1) choosePart(part - 1);
  else choose(ids[y * width + x] || chosen);
});
root.addEventListener("click", (event) => {
  const chip = event.target.closest(".chip"), cell = event.target.closest("[data-cell]");
  const span = event.target.closest("[data-run]"), button = event.target.closest(".t4s-switch button");
  if (chip) choose(Number(chip.dataset.label));
  else if (cell) pick(Number(cell.dataset.cell));
  else if (span) choose(view.runs[Number(span.dataset.run)].label || chosen);
  else if (button) {
    if (button.dataset.grid) settings.grid = button.dataset.grid;
    else if (button.dataset.mask) settings.mask = button.dataset.mask;
    else settings.confidence = !settings.confidence;
    all("[data-grid]").forEach((other) => other.setAttribute("aria-pressed", other.dataset.grid === settings.grid));
    all("[data-mask]").forEach((other) => other.setAttribute("aria-pressed", other.dataset.mask === settings.mask));
    $("[data-confidence]").setAttribute("aria-pressed", settings.confidence);
    root.dataset.grid = settings.grid;
    root.dataset.maskView = settings.mask;
    if (view) { drawGrid(); choose(0); paint(); highlight(-1, -1); }
  }
});
cellsBox.addEventListener("keydown", (event) => {
  if (!view) return;
  const [height, width] = view.shape, row = Math.floor(current / width), column = current % width;
  const to = { ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column],
               ArrowDown: [row + 1, column], Home: [row, 0], End: [row, width - 1] }[event.key];
  if (event.key === "Enter" || event.key === " ") pick(current);
  else if (event.key === "Escape") { if (chosen) choose(chosen); }
  else if (to && to[0] >= 0 && to[1] >= 0 && to[0] < height && to[1] < width) {
    cells[current].tabIndex = -1;
    current = to[0] * width + to[1];
    cells[current].tabIndex = 0;
    cells[current].focus();
  } else if (!to) return;
  event.preventDefault();
});
cellsBox.addEventListener("focusin", (event) => {
  const cell = event.target.closest("[data-cell]");
  if (!cell || !view) return;
  current = Number(cell.dataset.cell);
  highlight(runOf[current] ?? -1, current);
});
threshold.addEventListener("input", () => {
  thresholdName.textContent = `${threshold.value} %`;
  const least = Number(threshold.value) / 100;
  cells.forEach((cell, i) => cell.classList.toggle("dim", view?.confidence != null && view.confidence[i] < least));
});
threshold.addEventListener("change", () => trigger("release", { threshold: Number(threshold.value) / 100 }));
slide.addEventListener("input", () => {
  settings[settings.mask === "compare" ? "compare" : "opacity"] = Number(slide.value);
  if (view) paint();
});

function say(button, words) { // in place of "Copy", for a moment
  button.textContent = words;
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
copyText.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(view.text);
  } catch { // an insecure address or a refused permission: select the text, so that Ctrl+C takes it
    getSelection().selectAllChildren(pre);
    copyText.textContent = "Press Ctrl+C";
    return;
  }
  say(copyText, "Copied");
});

async function shownPicture() { // the mask panel as a PNG; a cut-out is transparent
  const sheet = new OffscreenCanvas(canvas.width, canvas.height), brush = sheet.getContext("2d");
  if (settings.mask !== "cutout") brush.drawImage(await load(view.photo), 0, 0, sheet.width, sheet.height);
  if (settings.mask === "compare") brush.rect(0, 0, sheet.width * settings.compare / 100, sheet.height);
  if (settings.mask === "compare") brush.clip();
  brush.drawImage(canvas, 0, 0);
  return sheet.convertToBlob({ type: "image/png" });
}
copyMask.addEventListener("click", async () => {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": shownPicture() })]);
    say(copyMask, "Copied");
  } catch { // an insecure address or a refused permission
    say(copyMask, "Not allowed");
  }
});

if (element.closest("#panels")) { // the chips know what the photo shows
  document.addEventListener("t4s-seen", (event) => {
    seen = event.detail;
    root.dataset.pointing = seen.cells.length ? "yes" : "no";
    if (view && isReady()) { drawGrid(); showHint(); }
  });
}

let wasRunning = false;
function bringIntoSight() { // on a phone the panels, and what is wrong with a photo, lie below the button that was pressed
  const running = root.dataset.state === "running" || view?.kind === "fault";
  if (running && !wasRunning && root.getBoundingClientRect().top > innerHeight - 160) {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    root.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
  }
  wasRunning = running;
}

watch("value", () => { show(); bringIntoSight(); });
show();
