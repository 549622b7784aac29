"""The app: a photo and a phrase in; raw text, descriptor grid and mask out, side by side, as the model writes.

    python app.py                     http://127.0.0.1:7860 (or GRADIO_SERVER_NAME, GRADIO_SERVER_PORT)

Two Space variables choose the model: T4S_CHECKPOINT (a Hub id or a folder; unset: the embedded checkpoint) and
T4S_REFINER (a name of t4s/refine.py, or "sam:SOURCE"; unset: the checkpoint's own).

Here is what needs Gradio: the theme, the components, one function a tab, and who calls whom. What it shows and does is
in t4s: `desk` asks the model, `page` makes what the panels show, `parcel` the downloads, `endpoints` answers scripts,
`showcase` holds the examples; the panels themselves are in assets/app.
"""

from __future__ import annotations

import html
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial, wraps
from pathlib import Path
from typing import Any

import gradio as gr
import spaces

from t4s import Segmenter, codec
from t4s.app import downloads, examples, explainer, views
from t4s.app.api import Endpoints
from t4s.app.service import Answers, InferenceService, batch, gpu_seconds, refiners, replay, sam_source
from t4s.decoding.generate import MODES
from t4s.errors import QueryError, T4SError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_BYTES, MAX_LABELS, MAX_QUERY, MAX_SIDE
from t4s.records import Prediction
from t4s.refine import sam

# --- constants ----------------------------------------------------------------------------------------

ASSETS = Path(__file__).resolve().parent / "assets"
TITLE = "Text4Seg: a language model draws"
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}
QUICK = {"concurrency_id": "quick", "concurrency_limit": 4}
PRIVATE = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
KEEP = 3600  # seconds that an answer is kept for downloads and other refiners
Answered = tuple[str, Prediction]  # a photo's path and the answer about it
FETCH = """(file) => { const link = document.createElement("a"); link.href = file.url; link.download = file.orig_name;
document.body.append(link); link.click(); link.remove(); }"""

COLOURS = json.loads((ASSETS / "app" / "theme.json").read_text("utf-8"))  # Gradio's names: (light, dark)
THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    font=["Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
    font_mono=["ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "Menlo", "monospace"],
).set(
    block_radius="12px", block_border_width="1px", block_shadow="none", button_primary_shadow="none",
    block_title_text_weight="600", color_accent=COLOURS["input_border_color_focus"][0],
    **{name: light for name, (light, _) in COLOURS.items()},
    **{f"{name}_dark": dark for name, (_, dark) in COLOURS.items()},
)  # fmt: skip

# --- components ---------------------------------------------------------------------------------------


class Photo(gr.Image):
    """An image field that hands over the file as it came: `t4s.imaging.loading` opens it, with its limits and its sentences."""

    is_template = True  # the browser shows it as the gr.Image that it is

    def preprocess(self, payload: Any) -> str | None:
        if payload is not None and (payload.url or "").startswith("data:"):
            return gr.processing_utils.save_base64_to_cache(payload.url, self.GRADIO_CACHE)
        return payload and payload.path


class Panels(gr.HTML):
    """Raw text, grid and mask, linked. Its value is what `t4s.app.views` makes; `assets/app/view.js` draws it."""

    is_template = True

    def __init__(self, value: dict[str, Any] | None = None, *, label: str = "Answer", elem_id: str | None = None):
        super().__init__(
            value,
            label=label,
            elem_id=elem_id,
            html_template=(ASSETS / "app" / "view.html").read_text("utf-8"),
            js_on_load=(ASSETS / "app" / "view.js").read_text("utf-8"),
            apply_default_css=False,
        )

    def postprocess(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "what the three panels show"}

    def flag(self, payload: Any, flag_dir: str | Path = "") -> str:
        return json.dumps(payload)

    def read_from_flag(self, payload: str) -> Any:
        return json.loads(payload)


# --- private helpers ----------------------------------------------------------------------------------


def _plain(problem: T4SError) -> str:
    """A toast renders HTML, and messages quote what people typed."""
    return html.escape(str(problem), quote=False)


def as_gradio_error(function: Callable) -> Callable:
    """Turns our errors into toasts. Inside GPU functions too: only Gradio's errors come back from their process."""

    def error(problem: T4SError) -> gr.Error:
        return gr.Error(_plain(problem), print_exception=False)

    @wraps(function)
    def plain(*args: Any) -> Any:
        try:
            return function(*args)
        except T4SError as problem:
            raise error(problem) from problem

    @wraps(function)
    def growing(*args: Any) -> Iterator[Any]:
        try:
            yield from function(*args)
        except T4SError as problem:
            raise error(problem) from problem

    return growing if inspect.isgeneratorfunction(function) else plain


@lru_cache(maxsize=64)
def _preview(path: str) -> tuple[str, tuple[int, int]]:
    """(data URL, (h, w)) of an uploaded photo. Gradio's paths hold the file's digest, so a path is a photo."""
    photo = open_photo(path)
    return views.preview(photo), photo.size[::-1]


def _check(photo: str | None, good: bool, sentence: str, others: int) -> list[dict[str, Any]]:
    """Messages beside the fields, before anything runs: photo, query, and nothing for so many others."""
    told = gr.validate(photo is not None, "Choose a photo first: drop one here, paste one, or take an example.")
    return [told, gr.validate(good, sentence), *(gr.validate(True, "") for _ in range(others))]


def _check_phrase(photo: str | None, phrase: str, *others: Any) -> list[dict[str, Any]]:
    length = len(phrase.strip())
    sentence = f"Write what to find, in 1 to {MAX_QUERY} characters; this has {length}."
    return _check(photo, 1 <= length <= MAX_QUERY, sentence, len(others))


def _check_names(photo: str | None, names: str, *others: Any) -> list[dict[str, Any]]:
    count, longest = len(views.names(names)), max(map(len, views.names(names)), default=0)
    sentence = (
        f"Give 1 to {MAX_LABELS} names of up to {MAX_QUERY} characters, parted by commas; these are {count}, "
        f"the longest has {longest}."
    )
    return _check(photo, 1 <= count <= MAX_LABELS and longest <= MAX_QUERY, sentence, len(others))


@as_gradio_error
def _save(kind: str, answered: Answered | None) -> str:
    if answered is None:
        raise QueryError("There is nothing to save yet: segment a photo first.")
    path, answer = answered
    name, data = downloads.make(kind, answer, path)
    file = downloads.place(name)
    file.write_bytes(data)
    return str(file)


# --- what runs the model ------------------------------------------------------------------------------


class Model:
    """The desk as ZeroGPU wants it: whatever runs a model is decorated; off ZeroGPU the decorator does nothing."""

    def __init__(self, desk: InferenceService):
        self.tokenizer, self.layout, self.shape = desk.tokenizer, desk.layout, desk.shape
        self.refiner, self.metrics = desk.refiner, desk.metrics
        self.write = spaces.GPU(duration=gpu_seconds)(as_gradio_error(desk.write))
        self.write_all = spaces.GPU(duration=gpu_seconds)(as_gradio_error(desk.write_all))
        self.refine_here = as_gradio_error(desk.refine)
        self.refine_on_gpu = spaces.GPU(duration=20)(as_gradio_error(desk.refine))

    def refine(self, path: str, answer: Prediction, refiner: str) -> Prediction:
        """SAM alone is worth a GPU."""
        return (self.refine_on_gpu if sam_source(refiner) else self.refine_here)(path, answer, refiner)


class TabController:
    """What happens on a tab with a model: look at a photo, ask about it, stop, refine again."""

    def __init__(self, model: Model, read: Callable[[str], str | list[str]]):
        self.model, self.read, self.answers = model, read, Answers()

    def look(self, path: str | None) -> dict[str, Any]:
        """The photo under an empty grid; a file that is no photo is said to be none, and the drawing stays."""
        if path is None:
            return views.sample_view(examples.DRAWING)
        try:
            return views.photo_view(*_preview(path), self.model.shape)
        except T4SError as problem:
            gr.Warning(_plain(problem))
            return views.sample_view(examples.DRAWING) | {"kind": "fault", "message": str(problem)}

    @as_gradio_error
    def begin(self, path: str, *_: str) -> tuple[Any, ...]:
        """The empty grid, no answer, and the path of a file that will mean "stop"."""
        view = views.photo_view(*_preview(path), self.model.shape)
        return views.waiting_view(view), None, str(downloads.place("stop"))

    @as_gradio_error
    def ask(self, path: str, query: str, refiner: str, sam_id: str, decoding: str, flag: str) -> Iterator[Any]:
        refiner = self.named(refiner, sam_id)
        yield from self.show(path, refiner, self.model.write(path, self.read(query), refiner, decoding, flag))

    @as_gradio_error
    def ask_example(
        self, index: int, path: str, query: str, refiner: str, sam_id: str, decoding: str, flag: str
    ) -> Iterator[Any]:
        """As `ask`, but the first visitor's answer serves the others: the model is asked once."""
        key = index, query, decoding
        kept = self.answers.get(key)
        if kept is None:
            for shown in self.ask(path, query, refiner, sam_id, decoding, flag):
                yield shown
            _, answer = shown[1]
            if answer.stats["ended"] == "complete":
                self.answers.keep(key, answer)
            return
        refiner = self.named(refiner, sam_id)
        if kept.stats.get("refiner") != refiner:
            kept = self.model.refine(path, kept, refiner)
        yield from self.show(path, refiner, replay(kept))

    def show(self, path: str, refiner: str, answers: Iterator[Prediction]) -> Iterator[tuple[Any, Any]]:
        url, _ = _preview(path)
        for answer in answers:
            if answer.stats["ended"]:
                yield views.finished_view(answer, url, self.model.layout, refiner), (path, answer)
            else:
                yield views.growing_view(answer, url, self.model.layout), gr.skip()

    @as_gradio_error
    def refine(self, photo: str | None, answered: Answered | None, refiner: str, sam_id: str) -> tuple[Any, Any]:
        """The answer on show with another refiner; nothing where no answer, or one about another photo, is kept."""
        if answered is None or answered[0] != photo:
            return gr.skip(), gr.skip()
        path, answer = answered
        refiner = self.named(refiner, sam_id)
        answer = self.model.refine(path, answer, refiner)
        return views.finished_view(answer, _preview(path)[0], self.model.layout, refiner), (path, answer)

    def named(self, refiner: str, sam_id: str) -> str:
        return f"sam:{sam_id.strip() or sam.DEFAULT_SAM}" if refiner == "sam" else refiner


def _halt(flag: str | None) -> None:
    if flag and Path(flag).parent.is_dir():
        Path(flag).touch()


# --- the page -----------------------------------------------------------------------------------------


def build(segmenter: Segmenter, refiner: str = "") -> gr.Blocks:
    """The whole app around one segmenter. `refiner`: the app's own; "": the checkpoint's."""
    model = Model(InferenceService(segmenter, refiner))
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 14400)) as app:
        gr.HTML((ASSETS / "app" / "heading.html").read_text("utf-8"), apply_default_css=False, js_on_load=None)
        with gr.Tabs():
            with gr.Tab("Segment", id="segment"):
                _segment_tab(model)
            with gr.Tab("Everything", id="everything"):
                _everything_tab(model)
            with gr.Tab("Text ↔ mask", id="text"):
                _text_tab(model)
            with gr.Tab("Batch", id="batch"):
                _batch_tab(model)
            with gr.Tab("About", id="about") as about:
                _about_tab(model, about)
        _endpoints(model)
    return app


@dataclass(frozen=True)
class Fields:
    """What the tabs with a model ask for, and where the answer goes."""

    photo: Photo
    query: gr.Textbox
    go: gr.Button
    stop: gr.Button
    shelf: gr.Dataset
    refiner: gr.Radio
    sam_id: gr.Textbox
    decoding: gr.Radio
    panels: Panels
    answer: gr.State


def _segment_tab(model: Model) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            photo = _photo("photo")
            phrase = gr.Textbox(
                label="What to find", placeholder="the dog on the left", max_length=MAX_QUERY, elem_id="phrase", lines=1
            )
            go, stop = _buttons("Segment", "go")
            shelf = _shelf("examples")
            options = _options(model, "refiner")
        with gr.Column(scale=9, min_width=300):
            answered = _answer("panels", "save")
    fields = Fields(photo, phrase, go, stop, shelf, *options, *answered)
    taken = shelf.click(partial(examples.example, ASSETS), shelf, [photo, phrase], queue=False, **QUIET)
    _wire(fields, TabController(model, str), [go.click, phrase.submit], taken, _check_phrase)


def _everything_tab(model: Model) -> None:
    lists = examples.presets(model.metrics)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            photo = _photo("photo-all")
            names = gr.Textbox(
                next(iter(lists.values()), ""),
                label="Names",
                info=f"Up to {MAX_LABELS}, parted by commas.",
                lines=2,
                placeholder="cat, dog, grass",
                elem_id="names",
            )
            with gr.Row(visible=bool(lists), elem_classes="t4s-small", elem_id="lists"):
                gr.HTML("<span>Lists</span>", apply_default_css=False, js_on_load=None)
                for title in lists:
                    take = gr.Button(title, size="sm", min_width=60)
                    take.click(partial(lists.get, title), None, names, queue=False, **QUIET)
            go, stop = _buttons("Segment", "go-all")
            shelf = _shelf("examples-all")
            options = _options(model, "refiner-all")
        with gr.Column(scale=9, min_width=300):
            answered = _answer("panels-all", "save-all")
    fields = Fields(photo, names, go, stop, shelf, *options, *answered)
    taken = shelf.click(lambda index: examples.example(ASSETS, index)[0], shelf, photo, queue=False, **QUIET)
    _wire(fields, TabController(model, views.names), [go.click], taken, _check_names)


def _photo(elem_id: str) -> Photo:
    return Photo(
        type="filepath",
        label="Photo",
        sources=["upload", "clipboard"],
        height=220,
        elem_id=elem_id,
        placeholder="# Drop a photo here\nor click to choose one",
    )


def _buttons(label: str, elem_id: str) -> tuple[gr.Button, gr.Button]:
    """Start and stop in one place: the style sheet shows the one that can be used."""
    go = gr.Button(label, variant="primary", elem_id=elem_id, elem_classes="t4s-go")
    stop = gr.Button("Stop", variant="secondary", elem_id=f"stop-{elem_id}", elem_classes="t4s-stop")
    return go, stop


def _shelf(elem_id: str) -> gr.Dataset:
    return gr.Dataset(
        label="Or take an example",
        components=[Photo(type="filepath", visible=False)],
        type="index",
        layout="gallery",
        elem_id=elem_id,
        elem_classes="t4s-shelf",
        samples=[[examples.example(ASSETS, index)[0]] for index in range(len(examples.EXAMPLES))],
    )


def _options(model: Model, elem_id: str) -> tuple[gr.Radio, gr.Textbox, gr.Radio]:
    with gr.Accordion("Options", open=False):
        refiner, sam_id = _refiner(model, elem_id)
        decoding = gr.Radio(
            list(MODES),
            value="fast",
            label="Decoding",
            info="fast and constrained give the same valid text; free is plain greedy, and faults are mended.",
        )
    return refiner, sam_id, decoding


def _refiner(model: Model, elem_id: str) -> tuple[gr.Radio, gr.Textbox]:
    refiner = gr.Radio(
        refiners(model.refiner),
        value=model.refiner.partition(":")[0],
        label="Refiner",
        elem_id=elem_id,
        info="Turns the grid into pixels; changing it does not ask the model again.",
    )
    sam_id = gr.Textbox(
        sam_source(model.refiner) or sam.DEFAULT_SAM,
        label="SAM",
        elem_id=f"{elem_id}-sam",
        max_length=200,
        info="The Hub id of a SAM, SAM-HQ or SAM 2; Enter takes it.",
        visible=bool(sam_source(model.refiner)),
    )
    refiner.change(lambda name: gr.update(visible=name == "sam"), refiner, sam_id, queue=False, **QUIET)
    return refiner, sam_id


def _answer(panels_id: str, save_id: str) -> tuple[Panels, gr.State]:
    """The panels, and one small button a download: a file is made when it is asked for, then the browser fetches it."""
    panels = Panels(views.sample_view(examples.DRAWING), elem_id=panels_id)
    answer = gr.State(None, time_to_live=KEEP)
    with gr.Row(elem_classes=["t4s-small", "t4s-downloads"]):
        gr.HTML("<span>Download</span>", apply_default_css=False, js_on_load=None)
        ready = gr.File(visible="hidden")
        for kind, (label, *_) in downloads.FILES.items():
            button = gr.Button(label, size="sm", min_width=60, elem_id=f"{save_id}-{kind}")
            saved = button.click(partial(_save, kind), answer, ready, **QUICK, **QUIET)
            saved.success(None, ready, js=FETCH, **PRIVATE)
    return panels, answer


def _wire(fields: Fields, talk: TabController, triggers: list[Callable], taken: Any, check: Callable) -> None:
    """Look, ask, stop, refine again. `taken`: an example has filled the fields in."""
    flag = gr.State(None)
    how = [fields.refiner, fields.sam_id, fields.decoding]
    asked, shown = [fields.photo, fields.query, *how], [fields.panels, fields.answer]
    fields.photo.change(talk.look, fields.photo, fields.panels, **QUICK, **QUIET)
    typed = gr.on(triggers, talk.begin, asked, [*shown, flag], validator=check, **QUICK, **QUIET)
    picked = taken.then(talk.begin, asked, [*shown, flag], **QUICK, **QUIET)
    for begun, ask, inputs in ((typed, talk.ask, asked), (picked, talk.ask_example, [fields.shelf, *asked])):
        done = begun.success(ask, [*inputs, flag], shown, **ONE_AT_A_TIME, **QUIET)
        done.failure(talk.look, fields.photo, fields.panels, **QUICK, **QUIET)  # the toast says why
    fields.stop.click(_halt, flag, queue=False, **QUIET)
    gr.on(
        [fields.refiner.input, fields.sam_id.submit],
        talk.refine,
        [fields.photo, fields.answer, *how[:2]],
        shown,
        show_progress="hidden",
        **ONE_AT_A_TIME,
        **PRIVATE,
    )


def _text_tab(model: Model) -> None:
    start = views.read_text(examples.FAULTY, model.shape, "rows")[0]
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            with gr.Tabs():
                with gr.Tab("Text → mask", id="read"):
                    text = gr.Textbox(
                        examples.FAULTY,
                        label="Text",
                        lines=12,
                        max_lines=18,
                        elem_id="rle",
                        elem_classes="t4s-mono",
                        info="Without <seg> and </seg>. A row of this one is a cell short.",
                    )
                    go = gr.Button("Draw the mask", variant="primary", elem_id="decode")
                    shape = _sides(model.shape, 1, "rows", "columns")
                    layout = gr.Radio(list(codec.LAYOUTS), value="rows", label="Layout", elem_id="layout")
                with gr.Tab("Mask → text", id="write"):
                    mask = Photo(
                        type="filepath",
                        label="Mask",
                        sources=["upload", "clipboard"],
                        height=220,
                        elem_id="mask",
                        placeholder="# Drop a mask here\na PNG, black or index 0 where nothing is",
                    )
                    labels = gr.Textbox("cat", label="Label, or one for each colour", elem_id="labels", max_length=2000)
                    back = gr.Button("Write the text", variant="primary", elem_id="encode")
                    size = _sides(model.shape, 1, "rows-to", "columns-to")
                    config = gr.Radio(list(codec.LAYOUTS), value="rows", label="Layout", elem_id="layout-to")
        with gr.Column(scale=9, min_width=300):
            panels = Panels(start, elem_id="panels-text")
    _wire_text(model, (text, *shape, layout), (mask, labels, *size, config), go, back, panels)


def _sides(shape: tuple[int, int], least: int, *elem_ids: str) -> list[gr.Slider]:
    names = zip(("Rows", "Columns"), shape, elem_ids, strict=True)
    return [gr.Slider(least, MAX_SIDE, side, step=1, label=name, elem_id=elem_id) for name, side, elem_id in names]


def _wire_text(model: Model, text: tuple, mask: tuple, go: gr.Button, back: gr.Button, panels: Panels) -> None:
    """`text` (text, rows, columns, layout) becomes panels; `mask` (file, labels, rows, columns, layout) both."""

    @as_gradio_error
    def read(text: str, height: float, width: float, layout: str) -> dict[str, Any]:
        return views.read_text(text, (int(height), int(width)), layout)[0]

    @as_gradio_error
    def write(path: str | None, labels: str, height: float, width: float, layout: str) -> tuple[Any, ...]:
        if path is None:
            raise QueryError("Choose a mask first: a PNG that is not black where the thing is, or an indexed PNG.")
        view, grid = views.write_text(model.tokenizer, path, labels, (int(height), int(width)), layout)
        return view, codec.encode(grid, layout), height, width, layout

    def change(*given: Any) -> tuple[Any, ...]:
        return write(*given) if given[0] else (gr.skip(),) * 5

    outputs = [panels, *text]
    gr.on([go.click, *(side.release for side in text[1:3]), text[3].input], read, list(text), panels, **QUICK, **QUIET)
    back.click(write, list(mask), outputs, **QUICK, **QUIET)
    gr.on(
        [mask[0].upload, *(side.release for side in mask[2:4]), mask[4].input],
        change,
        list(mask),
        outputs,
        **QUICK,
        **QUIET,
    )


def _batch_tab(model: Model) -> None:
    @as_gradio_error
    def run(paths: list[str] | None, phrases: str, refiner: str, sam_id: str) -> Iterator[Any]:
        pictures: list[tuple[str, str]] = []
        box = downloads.ResultsZip(downloads.place("text4seg.zip"))
        asked = paths, phrases, talk.named(refiner, sam_id)
        for done, total, path, answers in batch(model.write_all, *asked, box):
            for picture, caption in views.captioned(path, answers):
                file = downloads.place("masks.jpg")  # as a file: what is shown already is not encoded again
                picture.save(file)
                pictures.append((str(file), caption))
            packed = str(box.close()) if done == total else None
            finished = gr.update(value=packed, interactive=done == total)
            yield views.progress(done, total), pictures, views.table(box.rows), finished

    talk = TabController(model, str)
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            files = gr.File(label="Photos", file_count="multiple", type="filepath", height=180, elem_id="batch-files")
            phrases = gr.Textbox(
                "person",
                label="Phrases",
                info="One a line; each is looked for in each photo.",
                lines=3,
                elem_id="batch-phrases",
            )
            with gr.Row():
                go = gr.Button("Segment all", variant="primary", elem_id="go-batch", min_width=80, scale=2)
                stop = gr.Button("Stop", elem_id="stop-go-batch", min_width=60)
            zipped = gr.DownloadButton("Download all as a ZIP", interactive=False, elem_id="batch-zip")
            with gr.Accordion("Options", open=False):
                refiner, sam_id = _refiner(model, "refiner-batch")
        with gr.Column(scale=9, min_width=300):
            progress = gr.HTML("", elem_id="batch-progress", apply_default_css=False, js_on_load=None)
            gallery = gr.Gallery(label="Masks", columns=4, height=360, object_fit="contain", elem_id="batch-gallery")
            table = gr.Dataframe(
                headers=list(views.TABLE),
                label="Results",
                interactive=False,
                elem_id="batch-table",
                wrap=True,
                column_widths=["18%", "16%", "10%", "10%", "10%", "10%", "26%"],
            )
    asked, shown = [files, phrases, refiner, sam_id], [progress, gallery, table, zipped]
    running = go.click(run, asked, shown, **ONE_AT_A_TIME, **QUIET)
    stop.click(None, cancels=[running], **PRIVATE)


def _about_tab(model: Model, tab: gr.Tab) -> None:
    @lru_cache(maxsize=1)
    def pictures() -> str:
        path, phrase = examples.example(ASSETS, 0)
        answers, _ = model.write_all(path, [phrase], model.refiner)
        return views.figures(explainer.pictures(open_photo(path), answers[0]))

    gr.Markdown("## How it works, in five pictures that the code makes from one photo", elem_classes="t4s-prose")
    figures = gr.HTML(views.figures([]), elem_id="story", apply_default_css=False, js_on_load=None)
    text = (ASSETS / "app" / "about.md").read_text("utf-8")
    about = examples.about(text, model.shape, model.metrics)
    gr.Markdown(about, elem_id="about-text", elem_classes="t4s-prose")
    tab.select(pictures, None, figures, **ONE_AT_A_TIME, **QUIET)


# --- the API ------------------------------------------------------------------------------------------


def _endpoints(model: Model) -> None:
    """What scripts and agents call. Nothing of it shows."""
    calls = Endpoints(model)
    with gr.Row(visible=False):
        _model_endpoints(calls)
        _text_endpoints(calls)


def _model_endpoints(calls: Endpoints) -> None:
    image, phrase = Photo(type="filepath", label="image"), gr.Textbox(label="phrase")
    names, lines = gr.Textbox(label="names"), gr.Textbox(label="phrases")
    refiner, decoding = gr.Textbox("", label="refiner"), gr.Radio(list(MODES), value="fast", label="decoding")
    files = gr.File(label="images", file_count="multiple", type="filepath")
    result = gr.JSON(label="result")
    pictures = [gr.Image(label=name, format="png") for name in ("grid", "mask")]
    answer, parcel_out = [gr.Textbox(label="text"), *pictures, result], [gr.File(label="zip"), result]
    _serve(calls.segment, [image, phrase, refiner, decoding], answer, ONE_AT_A_TIME)
    _serve(calls.segment_classes, [image, names, refiner, decoding], answer, ONE_AT_A_TIME)
    _serve(calls.batch, [files, lines, refiner], parcel_out, ONE_AT_A_TIME)


def _text_endpoints(calls: Endpoints) -> None:
    mask, label = Photo(type="filepath", label="mask"), gr.Textbox("object", label="label")
    text, result = gr.Textbox(label="text"), gr.JSON(label="result")
    shape = [gr.Number(16, label=name, precision=0) for name in ("height", "width")]
    layout = gr.Radio(list(codec.LAYOUTS), value="rows", label="layout")
    _serve(calls.encode_mask, [mask, label, *shape, layout], [gr.Textbox(label="text"), result], QUICK)
    _serve(calls.decode_text, [text, *shape, layout], [gr.Image(label="grid", format="png"), result], QUICK)


def _serve(call: Callable, inputs: list[Any], outputs: list[Any], queue: dict[str, Any]) -> None:
    gr.Button().click(as_gradio_error(call), inputs, outputs, api_name=call.__name__, **queue)


# --- main ---------------------------------------------------------------------------------------------

STYLE = (ASSETS / "app" / "style.css").read_text("utf-8") + "\n".join(  # and what each example asks for
    f'#examples .gallery-item:nth-child({place})::after {{ content: "{phrase}"; }}'
    for place, (_, phrase) in enumerate(examples.EXAMPLES, 1)
)
LAUNCH = {
    "theme": THEME,
    "head": f"<style>{STYLE}</style>",  # not through `css`: Gradio rewrites that, and drops container queries
    "max_file_size": MAX_BYTES,
    "allowed_paths": [str(ASSETS / "examples")],
    "footer_links": ["api", "settings"],
    "ssr_mode": False,
    "state_session_capacity": 256,  # visitors whose last answer is kept
}

if __name__ == "__main__":
    try:
        chosen = Segmenter.from_pretrained(os.environ.get("T4S_CHECKPOINT") or None)
        demo = build(chosen, os.environ.get("T4S_REFINER", ""))
    except T4SError as problem:
        sys.exit(str(problem))
    demo.queue(max_size=64).launch(mcp_server=True, **LAUNCH)
