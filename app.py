"""The app: a photo and a phrase in; raw text, descriptor grid and mask out, side by side, as the model writes.

    python app.py                     http://127.0.0.1:7860 (or GRADIO_SERVER_NAME, GRADIO_SERVER_PORT)

Two Space variables choose the model: T4S_CHECKPOINT (a Hub id or a folder; unset: the embedded checkpoint) and
T4S_REFINER (a name of t4s/refine.py, or "sam:SOURCE"; unset: the checkpoint's own).
"""

from __future__ import annotations

import dataclasses
import html
import inspect
import json
import os
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import lru_cache, partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import spaces
from PIL import Image

from t4s import Segmenter, codec, export, page, parcel, refine, render, story
from t4s.decoding import MODES
from t4s.errors import QueryError, T4SError
from t4s.limits import MAX_BATCH, MAX_BYTES, MAX_LABELS, MAX_QUERY, MAX_SIDE
from t4s.photo import open_photo
from t4s.samples import Prediction
from t4s.segmenter import check_query

# --- constants ----------------------------------------------------------------------------------------

ASSETS = Path(__file__).resolve().parent / "assets"
EXAMPLES = (
    ("two_cats.jpg", "cat"), ("riders.jpg", "horse"), ("motorcycle.jpg", "motorcycle"), ("elephant.jpg", "person"),
    ("gull.jpg", "bird"), ("buses.jpg", "bus"), ("man_on_wall.jpg", "person"), ("car_and_man.jpg", "car"),
)  # fmt: skip
PRESETS = {
    "animals": "cat, dog, horse, cow, sheep, bird, elephant, person, grass, sky",
    "street": "person, car, bus, motorcycle, bicycle, road, sidewalk, building, tree, sky",
    "clothes": "hair, skin, shirt, pants, dress, shoes, bag",
}
TITLE = "Text4Seg: a language model draws"
SAMPLE_TEXT = (  # with a fault, so that one sees how it is mended
    "others *16\n others *16\n others *16\n others *16\n"
    " others *5| dog *2| others *9\n others *4| dog *4| others *8\n others *4| dog *4| others *8\n"
    " others *4| dog *9| others *2\n others *5| dog *9| others *2\n others *5| dog *8| others *3\n"
    " others *5| dog *2| others *4| dog *2| others *3\n others *5| dog *2| others *4| dog *2| others *3\n"
    " others *16\n others *16\n others *16\n others *16\n"
)
ENCODED_BYTES = 256_000_000  # photos that stay encoded, so that a second phrase answers at once
DRAW_EVERY = 0.08  # seconds between two looks at a growing answer
ONE_AT_A_TIME = {"concurrency_id": "model", "concurrency_limit": 1}
QUICK = {"concurrency_id": "quick", "concurrency_limit": 4}
TABLE = ("file", "phrase", "present", "score", "area", "faults", "error")  # columns of a batch's table
PRIVATE = {"api_visibility": "private"}
FETCH = """(file) => { const link = document.createElement("a"); link.href = file.url; link.download = file.orig_name;
document.body.append(link); link.click(); link.remove(); }"""
HEADING = """<div class="t4s-title">
<svg viewBox="0 0 4 4" aria-hidden="true"><rect width="4" height="4" fill="#e8e4da"/>
<path fill="#E69F00" d="M1 0h1v1h1v2H1V2H0V1h1z"/><path fill="#0072B2" d="M3 1h1v3H3zM1 3h2v1H1z"/></svg>
<div><h1>Text4Seg</h1><p>A language model segments a photo by writing the mask as text. Watch it draw.</p></div>
</div>"""

THEME = gr.themes.Base(
    primary_hue=gr.themes.colors.indigo,
    neutral_hue=gr.themes.colors.stone,
    radius_size=gr.themes.sizes.radius_lg,
    font=["Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
    font_mono=["ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "Menlo", "monospace"],
).set(
    body_background_fill="#fdfcf9", body_background_fill_dark="#14161b",
    background_fill_primary="#ffffff", background_fill_primary_dark="#1b1e25",
    background_fill_secondary="#f6f3ec", background_fill_secondary_dark="#20242c",
    block_background_fill="#ffffff", block_background_fill_dark="#1b1e25",
    block_border_width="1px", block_border_color="#e2dfd7", block_border_color_dark="#31363f",
    border_color_primary="#e2dfd7", border_color_primary_dark="#31363f",
    input_background_fill="#ffffff", input_background_fill_dark="#14161b", input_border_color="#cfcabd",
    input_border_color_dark="#454c58", block_label_text_color="#4c5361", block_label_text_color_dark="#b6bdc9",
    body_text_color="#1d2129", body_text_color_dark="#eceef2", body_text_color_subdued="#626a78",
    body_text_color_subdued_dark="#a0a8b6", block_shadow="none", button_primary_shadow="none",
    button_primary_background_fill="#3d5bd9", button_primary_background_fill_hover="#3049b8",
    button_primary_background_fill_dark="#4a67e4", button_primary_background_fill_hover_dark="#5d78ee",
    button_secondary_background_fill="#ece8df", button_secondary_background_fill_hover="#e2ddd1",
    button_secondary_background_fill_dark="#2b303a", button_secondary_background_fill_hover_dark="#363c48",
    checkbox_label_background_fill="#f1eee7", checkbox_label_background_fill_dark="#2b303a",
    button_primary_text_color="#ffffff", button_primary_text_color_dark="#ffffff",
)  # fmt: skip

ABOUT = """
The photo is cut into a 16×16 grid. A multimodal language model writes one label a cell, row by row, as counted runs
(`others *5| dog *6| others *5`); a refiner turns the grid into pixels. There is no mask decoder and no special token:
whatever can write can segment. The output is always valid, because the decoder allows nothing else, and rows that
repeat are drafted and only checked, which saves most of the model's passes.

**What it cannot do.** The embedded model is small. It knows common things (people, animals, clothes, streets, nature);
it segments and does not chat; small or crowded things come out coarse, and what it has never seen comes out wrong.
Look at the confidence switch, and do not use it where a mistake hurts someone. A larger checkpoint can be set with
`T4S_CHECKPOINT`.

**Credits.** The idea is that of Lan et al., *Text4Seg: Reimagining Image Segmentation as Text Generation*, ICLR 2025,
[arXiv 2410.09855](https://arxiv.org/abs/2410.09855); this is an independent implementation. The example photos are from
COCO and Flickr, CC BY 2.0 (`assets/examples/attribution.json`); the colours are Okabe and Ito's. The code is under
Apache-2.0; the weights have their own terms in their folder.

**To cite the paper:**

```bibtex
@inproceedings{lan2025text4seg,
  title     = {Text4Seg: Reimagining Image Segmentation as Text Generation},
  author    = {Lan, Mengcheng and Chen, Chaofeng and Zhou, Yue and Xu, Jiaxing and Ke, Yiping and Wang, Xinjiang
               and Feng, Litong and Zhang, Wayne},
  booktitle = {International Conference on Learning Representations},
  year      = {2025}
}
```
"""

# --- components ---------------------------------------------------------------------------------------


class Photo(gr.Image):
    """An image field that hands over the file as it came: `t4s.photo` opens it, with its limits and its sentences."""

    is_template = True  # the browser shows it as the gr.Image that it is

    def preprocess(self, payload: Any) -> str | None:
        if payload is None or (payload.url or "").startswith("data:"):
            return super().preprocess(payload)
        return payload.path


class Panels(gr.HTML):
    """Raw text, grid and mask, linked. Its value is what `t4s.page` makes; `assets/app/view.js` draws it."""

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


def _told(function: Callable) -> Callable:
    """Turns our errors into toasts. Inside GPU functions too: only Gradio's errors come back from their process."""

    def error(problem: T4SError) -> gr.Error:  # a toast renders HTML, and messages quote what people typed
        return gr.Error(html.escape(str(problem), quote=False), print_exception=False)

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
    return page.preview(photo), photo.size[::-1]


def _check_phrase(photo: str | None, phrase: str, *_: Any) -> list[dict[str, Any]]:
    """Messages beside the fields, before anything runs."""
    length = len(phrase.strip())
    return [
        gr.validate(photo is not None, "Choose a photo first: drop one here, paste one, or take an example."),
        gr.validate(
            1 <= length <= MAX_QUERY,
            f"Write what to find, in 1 to {MAX_QUERY} characters; this has {length}.",
        ),
        *(gr.validate(True, "") for _ in _),
    ]


def _check_names(photo: str | None, names: str, *_: Any) -> list[dict[str, Any]]:
    count, longest = len(page.names(names)), max(map(len, page.names(names)), default=0)
    return [
        gr.validate(photo is not None, "Choose a photo first: drop one here, paste one, or take an example."),
        gr.validate(
            1 <= count <= MAX_LABELS and longest <= MAX_QUERY,
            f"Give 1 to {MAX_LABELS} names of up to {MAX_QUERY} characters, parted by commas; "
            f"these are {count}, the longest has {longest}.",
        ),
        *(gr.validate(True, "") for _ in _),
    ]


def _refiners(default: str) -> list[str]:
    """The refiners that work here: CRF needs its package, SAM a model that the owner names in T4S_REFINER."""
    able = [name for name in ("edge", "smooth", "guided", "none") if name in refine.NAMES]
    return list(dict.fromkeys([default, *able, *(["crf"] if find_spec("pydensecrf") else [])]))


SCRATCH = tempfile.TemporaryDirectory(prefix="t4s-")  # files on their way to the browser; Gradio keeps its own copy


def _scratch_file(name: str) -> Path:
    """A place for a new file of this name, in a folder of its own; folders older than an hour go."""
    for folder in Path(SCRATCH.name).iterdir():
        if time.time() - folder.stat().st_mtime > 3600:
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=SCRATCH.name)) / name


@_told
def _save(kind: str, path: str | None, answer: Prediction | None) -> str:
    if path is None or answer is None:
        raise QueryError("There is nothing to save yet: segment a photo first.")
    name, data = parcel.make(kind, answer, path)
    file = _scratch_file(name)
    file.write_bytes(data)
    return str(file)


# --- what runs the model ------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Model:
    """The functions that need the model. On ZeroGPU each call is a process of its own, so arguments and results
    pickle: photos are paths, answers are `Prediction`s; the model itself is inherited and never sent.

    write(path, query, refiner, decoding, flag) → Predictions that grow; query is a phrase or a list of names;
        it stops as soon as there is a file `flag` (a file, because another process cannot see a variable)
    write_all(path, phrases, refiner) → one Prediction a phrase
    refine(path, prediction, refiner) → the same answer with other masks; the language model is not asked
    """

    write: Callable[..., Iterator[Prediction]]
    write_all: Callable[..., list[Prediction]]
    refine: Callable[..., Prediction]
    tokenizer: Any
    layout: str
    shape: tuple[int, int]
    refiner: str


def _seconds(path: str, query: str | list[str], *_: Any) -> int:
    """GPU seconds to ask for: a big model writes a row in about a second, a list of names has longer rows."""
    return 30 if isinstance(query, str) else min(120, 40 + 4 * len(query))


def _encoder(segmenter: Segmenter) -> Callable[[str], Any]:
    """path → the photo as the model sees it, from memory if it was among the last ENCODED_BYTES."""
    kept: OrderedDict[str, Any] = OrderedDict()
    lock = threading.Lock()

    def encode(path: str) -> Any:
        with lock:
            if path in kept:
                kept.move_to_end(path)
                return kept[path]
        encoded = segmenter.encode(path)
        with lock:
            kept[path] = encoded
            while len(kept) > 1 and sum(each.nbytes for each in kept.values()) > ENCODED_BYTES:
                kept.popitem(last=False)
        return encoded

    return encode


def _model(segmenter: Segmenter) -> Model:
    encode, form = _encoder(segmenter), segmenter.backbone.format

    @spaces.GPU(duration=_seconds)
    @_told
    def write(path: str, query: str | list[str], refiner: str, decoding: str, flag: str = "") -> Iterator[Prediction]:
        def stop() -> bool:
            return bool(flag) and os.path.exists(flag)

        rows, shown, started = -1, 0.0, time.perf_counter()
        encoded = encode(path)
        seconds = time.perf_counter() - started
        for prediction in segmenter.stream(encoded, query, refine=refiner, decoding=decoding, stop=stop):
            done = prediction.text.count("\n")
            if prediction.stats["ended"] or done > rows or time.monotonic() - shown > DRAW_EVERY:
                rows, shown = done, time.monotonic()
                prediction.stats["encode_seconds"] = seconds
                yield prediction

    @spaces.GPU(duration=_seconds)
    @_told
    def write_all(path: str, phrases: list[str], refiner: str) -> list[Prediction]:
        return [segmenter(encode(path), phrase, refine=refiner) for phrase in phrases]

    @_told
    def refined(path: str, prediction: Prediction, refiner: str) -> Prediction:
        started = time.perf_counter()
        masks = refine.refine(refiner, np.asarray(open_photo(path)), prediction.grid, prediction.confidence)
        mask = np.zeros(prediction.mask.shape, bool)
        for each in masks.values():
            mask |= each
        stats = prediction.stats | {"refine_seconds": time.perf_counter() - started}
        return dataclasses.replace(prediction, masks=masks, mask=mask, box=export.box(mask), stats=stats)

    refined_on_gpu = spaces.GPU(duration=20)(refined)  # SAM alone is worth a GPU

    def refine_again(path: str, prediction: Prediction, refiner: str) -> Prediction:
        return (refined_on_gpu if refiner.startswith("sam") else refined)(path, prediction, refiner)

    refiner = os.environ.get("T4S_REFINER") or form.refiner
    return Model(write, write_all, refine_again, segmenter.backbone.tokenizer, form.layout, tuple(form.grid), refiner)


# --- the page -----------------------------------------------------------------------------------------


def build(segmenter: Segmenter) -> gr.Blocks:
    """The whole app around one segmenter."""
    model = _model(segmenter)
    with gr.Blocks(title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(3600, 14400)) as app:
        gr.HTML(HEADING, apply_default_css=False, js_on_load=None)
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


def _segment_tab(model: Model) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            photo = _photo("photo")
            phrase = gr.Textbox(
                label="What to find", placeholder="the dog on the left", max_length=MAX_QUERY, elem_id="phrase", lines=1
            )
            go, stop = _buttons("Segment", "go")
            shelf = _shelf("examples")
            refiner, decoding = _options(model, "refiner")
        with gr.Column(scale=9, min_width=300):
            panels = Panels(elem_id="panels")
            answer = gr.State(None, time_to_live=3600)
            _downloads(photo, answer, "save")
    take = lambda index: (str(ASSETS / "examples" / EXAMPLES[index][0]), EXAMPLES[index][1])  # noqa: E731
    taken = shelf.click(take, shelf, [photo, phrase], queue=False, show_progress="hidden", **PRIVATE)
    _wire(
        model, photo, phrase, refiner, decoding, panels, answer, [go.click, phrase.submit], taken, stop, _check_phrase
    )


def _everything_tab(model: Model) -> None:
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            photo = _photo("photo-all")
            preset = gr.Radio(list(PRESETS), label="Ready-made lists", elem_id="preset")
            names = gr.Textbox(
                label="Names", info=f"Up to {MAX_LABELS}, parted by commas.", lines=3, elem_id="names",
                value=PRESETS["animals"],
            )  # fmt: skip
            go, stop = _buttons("Segment", "go-all")
            shelf = _shelf("examples-all")
            refiner, decoding = _options(model, "refiner-all")
        with gr.Column(scale=9, min_width=300):
            panels = Panels(elem_id="panels-all")
            answer = gr.State(None, time_to_live=3600)
            _downloads(photo, answer, "save-all")
    preset.input(PRESETS.get, preset, names, queue=False, show_progress="hidden", **PRIVATE)
    take = lambda index: str(ASSETS / "examples" / EXAMPLES[index][0])  # noqa: E731
    taken = shelf.click(take, shelf, photo, queue=False, show_progress="hidden", **PRIVATE)
    _wire(model, photo, names, refiner, decoding, panels, answer, [go.click], taken, stop, _check_names)


def _photo(elem_id: str) -> Photo:
    return Photo(type="filepath", label="Photo", sources=["upload", "clipboard"], height=240, elem_id=elem_id)


def _buttons(label: str, elem_id: str) -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=elem_id, min_width=80, scale=2)
        stop = gr.Button("Stop", variant="secondary", elem_id=f"stop-{elem_id}", min_width=60, scale=1)
    return go, stop


def _shelf(elem_id: str) -> gr.Dataset:
    return gr.Dataset(
        label="Examples", components=[Photo(type="filepath", visible=False)], type="index", layout="gallery",
        samples=[[str(ASSETS / "examples" / name)] for name, _ in EXAMPLES], elem_id=elem_id,
    )  # fmt: skip


def _options(model: Model, elem_id: str) -> tuple[gr.Radio, gr.Radio]:
    with gr.Accordion("Options", open=False):
        refiner = gr.Radio(
            _refiners(model.refiner), value=model.refiner, label="Refiner", elem_id=elem_id,
            info="Turns the grid into pixels; changing it does not ask the model again.",
        )  # fmt: skip
        decoding = gr.Radio(
            list(MODES), value="fast", label="Decoding",
            info="fast and constrained give the same valid text; free is plain greedy, and faults are mended.",
        )  # fmt: skip
    return refiner, decoding


def _wire(model, photo, query, refiner, decoding, panels, answer, triggers, taken, stop, check) -> None:
    """What the two tabs with a model have in common: look, ask, stop, refine again."""

    @_told
    def look(path: str | None) -> dict[str, Any] | None:
        return page.photo_view(*_preview(path), model.shape) if path else None

    @_told
    def begin(path: str, *_: str) -> tuple[Any, ...]:
        waiting = {"running": True, "kind": "running", "message": "Looking at the photo …"}
        return look(path) | waiting, None, str(_scratch_file("stop"))

    @_told
    def ask(path: str, query: str, refiner: str, decoding: str, flag: str) -> Iterator[tuple[Any, Any]]:
        url, _ = _preview(path)
        wanted = page.names(query) if check is _check_names else query
        for prediction in model.write(path, wanted, refiner, decoding, flag):
            if prediction.stats["ended"]:
                yield page.finished_view(prediction, url, model.layout, refiner), prediction
            else:
                yield page.growing_view(prediction, url, model.layout), gr.skip()

    def halt(flag: str | None) -> None:
        if flag and Path(flag).parent.is_dir():
            Path(flag).touch()

    @_told
    def refine_again(path: str | None, answer: Prediction | None, refiner: str) -> tuple[Any, Any]:
        if path is None or answer is None:
            return gr.skip(), gr.skip()
        answer = model.refine(path, answer, refiner)
        return page.finished_view(answer, _preview(path)[0], model.layout, refiner), answer

    flag = gr.State(None)
    asked, shown = [photo, query, refiner, decoding], [panels, answer]
    quiet: dict[str, Any] = {"show_progress": "hidden"} | PRIVATE
    photo.change(look, photo, panels, queue=False, **quiet)
    for start in (
        gr.on(triggers, begin, asked, [*shown, flag], validator=check, **QUICK, **quiet),
        taken.then(begin, asked, [*shown, flag], **QUICK, **quiet),
    ):
        start.success(ask, [*asked, flag], shown, **ONE_AT_A_TIME, **quiet)
    stop.click(halt, flag, queue=False, **quiet)
    refiner.input(refine_again, [photo, answer, refiner], shown, show_progress="hidden", **QUICK, **PRIVATE)


def _downloads(photo: Photo, answer: gr.State, elem_id: str) -> None:
    """One small button a format. A file is made when it is asked for, and the browser then fetches it."""
    with gr.Row(elem_classes="t4s-downloads"):
        ready = gr.File(visible="hidden")
        for kind, (label, *_) in parcel.FILES.items():
            button = gr.Button(label, size="sm", min_width=60, elem_id=f"{elem_id}-{kind}")
            saved = button.click(
                partial(_save, kind), [photo, answer], ready, show_progress="hidden", **QUICK, **PRIVATE
            )
            saved.success(None, ready, js=FETCH, **PRIVATE)


def _text_tab(model: Model) -> None:
    tokenizer = model.tokenizer

    @_told
    def read(text: str, height: float, width: float, layout: str) -> dict[str, Any]:
        return page.read_text(text, (int(height), int(width)), layout)[0]

    @_told
    def write(path: str | None, labels: str, height: float, width: float, layout: str) -> tuple[dict[str, Any], str]:
        if path is None:
            raise QueryError("Choose a mask first: a PNG that is not black where the thing is, or an indexed PNG.")
        view, grid = page.write_text(tokenizer, path, labels, (int(height), int(width)), layout)
        return view, codec.encode(grid, layout)

    rows, columns = model.shape
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=280):
            text = gr.Textbox(
                SAMPLE_TEXT, label="Text", lines=10, max_lines=18, elem_id="rle", info="Without <seg> and </seg>."
            )
            height = gr.Slider(1, MAX_SIDE, rows, step=1, label="Rows", elem_id="rows")
            width = gr.Slider(1, MAX_SIDE, columns, step=1, label="Columns", elem_id="columns")
            layout = gr.Radio(list(codec.LAYOUTS), value="rows", label="Layout", elem_id="layout")
            go = gr.Button("Text → mask", variant="primary", elem_id="decode")
            mask = Photo(
                type="filepath", label="Mask (PNG)", sources=["upload", "clipboard"], height=170, elem_id="mask"
            )
            labels = gr.Textbox(
                "cat", label="Its label, or one name for each colour", elem_id="labels", max_length=2000
            )
            back = gr.Button("Mask → text", elem_id="encode")
        with gr.Column(scale=8, min_width=300):
            panels = Panels(page.read_text(SAMPLE_TEXT, (rows, columns), "rows")[0], elem_id="panels-text")
    read_from, shape = [text, height, width, layout], [height, width, layout]
    gr.on([go.click, height.release, width.release, layout.input], read, read_from, panels, show_progress="hidden",
          **QUICK, **PRIVATE)  # fmt: skip
    back.click(write, [mask, labels, *shape], [panels, text], show_progress="hidden", **QUICK, **PRIVATE)


def _batch_tab(model: Model) -> None:
    @_told
    def run(paths: list[str] | None, phrases: str, refiner: str, progress=gr.Progress()) -> Iterator[Any]:  # noqa: B008
        pictures: list[tuple[Any, str]] = []
        for done, total, path, answers, box in _batch(model, paths, phrases, refiner):
            progress((done, total), desc="photos")
            pictures += [
                (page.thumbnail(open_photo(path), each), f"{Path(path).name}: {each.query}") for each in answers
            ]
            table = [[row[name] for name in TABLE] for row in box.rows]
            finished = done == total
            yield pictures, table, str(box.close()) if finished else None

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280):
            files = gr.File(label="Photos", file_count="multiple", type="filepath", height=180, elem_id="batch-files")
            phrases = gr.Textbox("person", label="Phrases", info="One a line.", lines=3, elem_id="batch-phrases")
            go, stop = _buttons("Segment", "go-batch")
            refiner = gr.Radio(_refiners(model.refiner), value=model.refiner, label="Refiner")
        with gr.Column(scale=9, min_width=300):
            gallery = gr.Gallery(label="Masks", columns=4, height=340, object_fit="contain", elem_id="batch-gallery")
            table = gr.Dataframe(
                headers=list(TABLE),
                label="Results",
                interactive=False,
                elem_id="batch-table",
                wrap=True,
                column_widths=["18%", "16%", "9%", "9%", "9%", "9%", "30%"],  # fmt: skip
            )
            parcel_file = gr.File(label="Masks, coco.json and results.csv in one ZIP", elem_id="batch-zip", height=110)
    running = go.click(run, [files, phrases, refiner], [gallery, table, parcel_file], show_progress_on=parcel_file,
                       **ONE_AT_A_TIME, **PRIVATE)  # fmt: skip
    stop.click(None, cancels=[running], **PRIVATE)


def _batch(model: Model, paths: list[str] | None, phrases: str, refiner: str) -> Iterator[tuple[Any, ...]]:
    """(photos done, of how many, the last one's path, its answers, the growing ZIP), photo by photo."""
    wanted = list(dict.fromkeys(line.strip() for line in phrases.splitlines() if line.strip()))
    if not paths or not wanted:
        raise QueryError("A batch needs at least one photo and one phrase, each phrase on a line of its own.")
    if len(paths) * len(wanted) > MAX_BATCH:
        raise QueryError(f"{len(paths)} photos times {len(wanted)} phrases are more than the {MAX_BATCH} of a batch.")
    check_query(wanted)
    box = parcel.Parcel(_scratch_file("text4seg.zip"))
    for done, path in enumerate(paths, 1):
        answers: list[Prediction] = []
        try:
            answers = model.write_all(path, wanted, refiner or model.refiner)
            box.add(Path(path).name, answers)
        except gr.Error as problem:  # this photo alone: the others go on
            box.fail(Path(path).name, html.unescape(problem.message))
        yield done, len(paths), path, answers, box


def _about_tab(model: Model, tab: gr.Tab) -> None:
    @lru_cache(maxsize=1)
    def pictures() -> str:
        path, phrase = str(ASSETS / "examples" / EXAMPLES[0][0]), EXAMPLES[0][1]
        return page.figures(story.pictures(open_photo(path), model.write_all(path, [phrase], model.refiner)[0]))

    gr.Markdown("## How it works, in five pictures that the code makes from one photo")
    figures = gr.HTML(elem_id="story", apply_default_css=False, js_on_load=None, min_height=260)
    gr.Markdown(ABOUT, elem_id="about-text")
    tab.select(pictures, None, figures, **ONE_AT_A_TIME, **PRIVATE)


def _endpoints(model: Model) -> None:
    """What scripts and agents call: files and plain values in and out, one JSON object last. Nothing of it shows."""
    _endpoints_model(model)
    _endpoints_text(model)


def _endpoints_model(model: Model) -> None:
    def answers(path: str, query: str | list[str], refiner: str, decoding: str) -> Iterator[tuple[Any, ...]]:
        for answer in model.write(path, query, refiner or model.refiner, decoding):
            if not answer.stats["ended"]:
                yield answer.text, None, None, {"text": answer.text, "finished": False}
                continue
            photo = open_photo(path)
            grid = render.grid_picture(answer.grid, photo)
            yield answer.text, grid, _label_picture(answer), export.as_dict(answer) | {"finished": True}

    @_told
    def segment(image: str, phrase: str, refiner: str = "", decoding: str = "fast") -> Iterator[tuple[Any, ...]]:
        """Segments what a phrase means in a photo: a language model writes the mask as text, row by row.

        The answer grows while it is written; the last one has everything. A thing that is not in the photo is an
        answer too: "present" is false and the mask is black.

        Args:
            image: the photo, a file or a web address
            phrase: what to find, 1 to 200 characters, such as "the dog on the left"
            refiner: how the grid becomes pixels: "" (the checkpoint's own), "edge", "smooth", "guided" or "none"
            decoding: "fast", "constrained" or "free"

        Returns:
            The text that the model wrote; the grid over the photo; the mask, 255 where the thing is; one JSON object
            with text, labels, rows, box, score, present, faults, stats and the mask as COCO run lengths.
        """
        _need(image)
        yield from answers(image, phrase, refiner, decoding)

    @_told
    def segment_classes(image: str, names: str, refiner: str = "", decoding: str = "fast") -> Iterator[tuple[Any, ...]]:
        """Segments a whole photo into named classes; what is none of them is "others".

        Args:
            image: the photo, a file or a web address
            names: 1 to 64 class names, parted by commas, such as "dog, grass, sky"
            refiner: how the grid becomes pixels: "" (the checkpoint's own), "edge", "smooth", "guided" or "none"
            decoding: "fast", "constrained" or "free"

        Returns:
            The text that the model wrote; the grid over the photo; the label map, a grey PNG whose values are indexes
            into "labels"; one JSON object as that of segment, with a mask for each label under "masks".
        """
        _need(image)
        wanted = page.names(names)
        if len(wanted) > MAX_LABELS:
            raise QueryError(f"The list has {len(wanted)} names; at most {MAX_LABELS} can be asked at once.")
        yield from answers(image, wanted, refiner, decoding)

    @_told
    def batch(images: list[str], phrases: str, refiner: str = "") -> Iterator[tuple[Any, ...]]:
        """Segments many photos, each with every phrase. A photo that cannot be read is reported; the rest goes on.

        Args:
            images: the photos, files or web addresses
            phrases: what to find, one phrase a line
            refiner: how the grid becomes pixels: "" (the checkpoint's own), "edge", "smooth", "guided" or "none"

        Returns:
            A ZIP with masks, COCO JSON and a CSV; one JSON object with "results" (one a photo and phrase, as segment's)
            and "failed" (file and error).
        """
        results: list[dict[str, Any]] = []
        for done, total, path, answers, box in _batch(model, images, phrases, refiner):
            results += [{"file": Path(path).name} | export.as_dict(each) for each in answers]
            failed = [{"file": row["file"], "error": row["error"]} for row in box.rows if row["error"]]
            if done < total:
                yield None, {"done": done, "total": total}
        yield str(box.close()), {"results": results, "failed": failed}

    with gr.Row(visible=False):
        image, phrase, names = (
            Photo(type="filepath", label="image"),
            gr.Textbox(label="phrase"),
            gr.Textbox(label="names"),
        )
        refiner, decoding = gr.Textbox("", label="refiner"), gr.Radio(list(MODES), value="fast", label="decoding")
        out = [
            gr.Textbox(label="text"), gr.Image(label="grid", format="png"), gr.Image(label="mask", format="png"),
            gr.JSON(label="result"),
        ]  # fmt: skip
        for function, query in ((segment, phrase), (segment_classes, names)):
            gr.Button().click(
                function, [image, query, refiner, decoding], out, api_name=function.__name__, **ONE_AT_A_TIME
            )
        files, lines = gr.File(label="images", file_count="multiple", type="filepath"), gr.Textbox(label="phrases")
        gr.Button().click(batch, [files, lines, refiner], [gr.File(label="zip"), gr.JSON(label="result")],
                          api_name="batch", **ONE_AT_A_TIME)  # fmt: skip


def _label_picture(answer: Prediction) -> Image.Image:
    """A phrase's mask as 0 and 255; of a class list, the labels' indexes."""
    picture = np.zeros(answer.mask.shape, np.uint8)
    for label, mask in answer.masks.items():
        picture[mask] = 255 if isinstance(answer.query, str) else answer.grid.labels.index(label)
    return Image.fromarray(picture)


def _need(image: str | None) -> None:
    if image is None:
        raise QueryError("There is no photo: give a file, or the address of one, as image.")


def _endpoints_text(model: Model) -> None:
    tokenizer = model.tokenizer

    @_told
    def encode_mask(mask: str, label: str = "object", height: int = 16, width: int = 16, layout: str = "rows") -> Any:
        """Writes a mask as text, without any model.

        Args:
            mask: a PNG: not black where the thing is, or indexed with one colour a class
            label: its label; for an indexed PNG one name for each colour, parted by commas
            height: rows of the grid, 1 to 64
            width: columns of the grid, 1 to 64
            layout: "rows" (run lengths row by row), "image" (over the whole grid) or "full" (every cell)

        Returns:
            The text; one JSON object with text, labels, rows, and the text's length in characters and tokens.
        """
        _need(mask)
        view, grid = page.write_text(tokenizer, mask, label, (int(height), int(width)), layout)
        return view["text"], export.grid_dict(grid) | {"text": view["text"], "sizes": dict(view["facts"])}

    @_told
    def decode_text(text: str, height: int = 16, width: int = 16, layout: str = "rows") -> Any:
        """Reads a mask that was written as text, without any model; what is faulty is mended and listed.

        Args:
            text: the text, without <seg> and </seg>
            height: rows of the grid, 1 to 64
            width: columns of the grid, 1 to 64
            layout: "rows", "image" or "full"; only "rows" can be mended

        Returns:
            A picture of the grid; one JSON object with labels, rows, valid and faults (row, column, message).
        """
        _, answer = page.read_text(text, (int(height), int(width)), layout)
        grid = codec.DescriptorGrid(np.array(answer["rows"]), tuple(answer["labels"]))
        return render.grid_picture(grid), answer

    with gr.Row(visible=False):
        mask, label, text = (
            Photo(type="filepath", label="mask"),
            gr.Textbox("object", label="label"),
            gr.Textbox(label="text"),
        )
        shape = gr.Number(16, label="height", precision=0), gr.Number(16, label="width", precision=0)
        layout = gr.Radio(list(codec.LAYOUTS), value="rows", label="layout")
        written = [gr.Textbox(label="text"), gr.JSON(label="result")]
        read = [gr.Image(label="grid", format="png"), gr.JSON(label="result")]
        gr.Button().click(encode_mask, [mask, label, *shape, layout], written,
                          api_name="encode_mask", **QUICK)  # fmt: skip
        gr.Button().click(decode_text, [text, *shape, layout], read,
                          api_name="decode_text", **QUICK)  # fmt: skip


# --- main ---------------------------------------------------------------------------------------------

LAUNCH = {
    "theme": THEME,
    # Not through `css`: Gradio rewrites that, and drops container queries.
    "head": f"<style>{(ASSETS / 'app' / 'style.css').read_text('utf-8')}</style>",
    "max_file_size": MAX_BYTES,
    "allowed_paths": [str(ASSETS / "examples")],
    "footer_links": ["api", "settings"],
    "ssr_mode": False,
}

if __name__ == "__main__":
    build(Segmenter.from_pretrained(os.environ.get("T4S_CHECKPOINT") or None)).queue(max_size=64).launch(
        mcp_server=True, **LAUNCH
    )
