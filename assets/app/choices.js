// A row of buttons: names to ask for, or the answers so far. `props.value` is {title, items: [{text, image}], note, words,
// examples, cells}; the note stands where there are no items yet, and `cells` says which name each cell resembles.
const row = element.querySelector(".t4s-choices");

function showChoices() {
  const { title = "", items = [], note = "" } = props.value || {};
  const made = items.map(({ text, image }, index) => {
    const button = document.createElement("button");
    button.type = "button";
    if (image) {
      const picture = document.createElement("img");
      picture.src = image;
      picture.alt = "";
      button.append(picture);
    }
    const name = document.createElement("span");
    name.textContent = text;
    button.append(name);
    button.addEventListener("click", () => trigger("select", { index, text }));
    return button;
  });
  const heading = document.createElement("b");
  heading.textContent = title;
  row.setAttribute("aria-label", title);
  row.hidden = !items.length && !note;
  const hint = document.createElement("small");
  hint.textContent = note;
  row.replaceChildren(heading, ...(made.length ? made : [hint]));
  if (props.value?.cells) { // for the panels, where one can point at what is named here
    const detail = { names: items.map(({ text }) => text), cells: props.value.cells };
    document.dispatchEvent(new CustomEvent("t4s-seen", { detail }));
  }
}

// --- the phrase: "/" goes to it, known names complete it ----------------------------------------------

function completePhrase(field) {
  const list = document.createElement("ul");
  list.className = "t4s-completions";
  list.id = `${field.id || "phrase"}-completions`;
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Names that the model knows");
  list.hidden = true;
  field.setAttribute("role", "combobox");
  field.setAttribute("aria-autocomplete", "list");
  field.setAttribute("aria-expanded", "false");
  field.setAttribute("aria-controls", list.id);
  field.parentElement.style.position = "relative";
  field.parentElement.append(list);
  let current = -1;
  const close = () => { list.hidden = true; current = -1; field.setAttribute("aria-expanded", "false"); };
  const take = (word) => {
    const start = field.value.slice(0, field.value.length - field.value.split(/\s+/).pop().length);
    field.value = start + word;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    close();
  };
  field.addEventListener("input", (event) => {
    const typed = field.value.split(/\s+/).pop().toLowerCase();
    const words = (props.value?.words || []).filter((word) => word.startsWith(typed) && word !== typed).slice(0, 6);
    if (!event.isTrusted || typed.length < 2 || !words.length) { close(); return; }
    list.replaceChildren(...words.map((word) => {
      const item = document.createElement("li");
      item.setAttribute("role", "option");
      item.textContent = word;
      item.addEventListener("pointerdown", (press) => { press.preventDefault(); take(word); });
      return item;
    }));
    current = -1;
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
  });
  field.addEventListener("keydown", (event) => {
    if (list.hidden) return;
    const items = [...list.children];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      current = (current + (event.key === "ArrowDown" ? 1 : items.length)) % items.length;
      items.forEach((item, index) => item.setAttribute("aria-selected", index === current));
      event.preventDefault();
    } else if (current >= 0 && (event.key === "Enter" || event.key === "Tab")) {
      take(items[current].textContent);
      event.preventDefault();
      event.stopPropagation();
    } else if (event.key === "Escape" || event.key === "Enter") close();
  }, true);
  field.addEventListener("blur", close);
}

function nameForReaders() { // the examples' captions are drawn by the style sheet; an empty gallery is a picture of one
  document.querySelectorAll(".empty[aria-label]:not([role])").forEach((box) => box.setAttribute("role", "img"));
  for (const gallery of document.querySelectorAll(".t4s-shelf")) {
    gallery.querySelectorAll(".gallery-item:not([aria-label])").forEach((item) => {
      const index = [...item.parentElement.querySelectorAll(".gallery-item")].indexOf(item);
      item.setAttribute("aria-label", `Example ${index + 1}: ${props.value.examples[index] || ""}`);
    });
  }
}

if (props.value?.examples) {
  nameForReaders();
  new MutationObserver(nameForReaders).observe(document.body, { childList: true, subtree: true });
}

if (props.value?.words) {
  const attach = () => {
    const field = document.querySelector("#phrase textarea, #phrase input");
    if (!field) { setTimeout(attach, 100); return; }
    completePhrase(field);
  };
  attach();
  document.addEventListener("keydown", (event) => {
    const busy = event.target.closest("input, textarea, [contenteditable]");
    const field = document.querySelector("#phrase textarea, #phrase input");
    if (event.key !== "/" || busy || event.ctrlKey || event.metaKey || !field?.offsetParent) return;
    event.preventDefault();
    field.focus();
  });
}

watch("value", showChoices);
showChoices();
