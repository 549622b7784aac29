"""The components of the page: theme, photo field, panels, buttons and options; and how errors become toasts."""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from t4s.app import downloads, examples, views
from t4s.app.service import InferenceService, sam_source
from t4s.decoding.generate import MODES
from t4s.errors import T4SError
from t4s.limits import MAX_SIDE
from t4s.refine import sam

ASSETS = Path(__file__).resolve().parents[2] / "assets"  # beside app.py: the page does not come with the wheel
APP_ASSETS = ASSETS / "app"
ANSWER_SECONDS = 3600  # how long a visitor's last answer is kept for downloads and other refiners

# How Gradio queues and announces the calls of the page.
MODEL_QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
QUICK_QUEUE: dict[str, Any] = {"concurrency_id": "quick", "concurrency_limit": 4}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def theme() -> gr.themes.Base:
    """Paper and ink with one accent. The colours are in assets/app/theme.json, (light, dark) under Gradio's names."""
    colours = json.loads((APP_ASSETS / "theme.json").read_text("utf-8"))
    settings = {name: light for name, (light, _) in colours.items()}
    settings |= {f"{name}_dark": dark for name, (_, dark) in colours.items()}
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_lg,
        font=["Inter", "system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"],
        font_mono=["ui-monospace", "SF Mono", "Cascadia Mono", "DejaVu Sans Mono", "Menlo", "monospace"],
    )
    return base.set(
        block_radius="12px",
        block_border_width="1px",
        input_border_width="1px",
        block_shadow="none",
        button_primary_shadow="none",
        block_title_text_weight="600",
        color_accent=colours["input_border_color_focus"][0],
        **settings,
    )


def head() -> str:
    """The page's style sheet, with the phrase of each example under its picture.

    It goes into the head and not through Gradio's `css`, which rewrites it and drops container queries.
    """
    captions = [
        f'#examples .gallery-item:nth-child({place})::after {{ content: "{phrase}"; }}'
        for place, (_, phrase) in enumerate(examples.EXAMPLES, 1)
    ]
    style = (APP_ASSETS / "style.css").read_text("utf-8")
    return f"<style>{style}{chr(10).join(captions)}</style>"


# --- errors -------------------------------------------------------------------------------------------


def escaped(problem: T4SError) -> str:
    """The message of an error for a toast: a toast renders HTML, and messages quote what people typed."""
    return html.escape(str(problem), quote=False)


def as_gradio_error(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turns our errors into toasts. Inside GPU functions too: only Gradio's errors come back from their process."""

    @wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except T4SError as problem:
            raise gr.Error(escaped(problem), print_exception=False) from problem

    @wraps(function)
    def stream(*args: Any) -> Iterator[Any]:
        try:
            yield from function(*args)
        except T4SError as problem:
            raise gr.Error(escaped(problem), print_exception=False) from problem

    return stream if inspect.isgeneratorfunction(function) else call


# --- components ---------------------------------------------------------------------------------------


class Photo(gr.Image):
    """An image field that hands over the uploaded file unchanged; `t4s.imaging.loading` opens and checks it."""

    is_template = True  # the browser shows it as the gr.Image that it is

    def preprocess(self, payload: Any) -> str | None:
        return payload and payload.path


class Photos(gr.File):
    """Many files, described to clients without references, which MCP's schema would leave dangling."""

    is_template = True

    def api_info(self) -> dict[str, Any]:
        return {"type": "array", "items": gr.data_classes.ImageData.model_json_schema()}


class Panels(gr.HTML):
    """Raw text, grid and mask, linked. Its value comes from `t4s.app.views`; `assets/app/view.js` draws it."""

    is_template = True

    def __init__(
        self,
        value: dict[str, Any] | None = None,
        *,
        label: str = "Answer",
        elem_id: str | None = None,
        render: bool = True,  # Gradio makes the component anew with False when an event leaves it as it is
    ):
        super().__init__(
            value,
            label=label,
            elem_id=elem_id,
            render=render,
            html_template=(APP_ASSETS / "view.html").read_text("utf-8"),
            js_on_load=(APP_ASSETS / "view.js").read_text("utf-8"),
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


class Choices(gr.HTML):
    """A row of buttons; its `select` event has the index and the text of the one clicked. See assets/app/choices.js."""

    is_template = True

    def __init__(self, value: dict[str, Any] | None = None, *, elem_id: str | None = None, render: bool = True):
        super().__init__(
            value,
            elem_id=elem_id,
            render=render,
            html_template='<div class="t4s-choices" role="group"></div>',
            js_on_load=(APP_ASSETS / "choices.js").read_text("utf-8"),
            apply_default_css=False,
        )

    def postprocess(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return value

    def api_info(self) -> dict[str, Any]:
        return {"type": "object", "description": "the choices"}


class TextOrList(gr.Textbox):
    """A text, or a list of texts as scripts send it."""

    is_template, takes_lists = True, True

    def preprocess(self, payload: Any) -> str | list[str]:
        return [str(item) for item in payload] if isinstance(payload, list) else super().preprocess(payload) or ""

    def api_info(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}


def plain_html(content: str, elem_id: str | None = None) -> gr.HTML:
    """HTML without Gradio's own style and script."""
    return gr.HTML(content, elem_id=elem_id, apply_default_css=False, js_on_load=None)


def heading() -> gr.HTML:
    """The name of the app and its one-line description."""
    return plain_html((APP_ASSETS / "heading.html").read_text("utf-8"))


def photo_field(elem_id: str) -> Photo:
    """The field that takes the photo."""
    return Photo(
        type="filepath",
        label="Photo",
        sources=["upload", "clipboard"],
        height=220,
        elem_id=elem_id,
        placeholder="# Choose a photo\nor drop one here",
    )


def start_and_stop(label: str, elem_id: str) -> tuple[gr.Button, gr.Button]:
    """Start and stop in one place: the style sheet shows the one that applies."""
    start = gr.Button(label, variant="primary", elem_id=elem_id, elem_classes="t4s-go")
    stop = gr.Button("Stop", variant="secondary", elem_id=f"stop-{elem_id}", elem_classes="t4s-stop")
    return start, stop


def example_gallery(elem_id: str) -> gr.Dataset:
    """The example photos; a click gives the index of one."""
    return gr.Dataset(
        label="Or take an example",
        components=[Photo(type="filepath", visible=False)],
        type="index",
        layout="gallery",
        elem_id=elem_id,
        elem_classes="t4s-shelf",
        samples=[[examples.example(ASSETS, index)[0]] for index in range(len(examples.EXAMPLES))],
    )


def model_options(service: InferenceService, elem_id: str) -> tuple[gr.Radio, gr.Textbox, gr.Radio]:
    """Refiner, SAM id and decoding, folded away."""
    with gr.Accordion("Options", open=False):
        refiner, sam_id = refiner_options(service, elem_id)
        decoding = gr.Radio(
            list(MODES),
            value="fast",
            label="Decoding",
            info="fast and constrained give the same valid text; free is plain greedy decoding, and its faults are "
            "repaired.",
        )
    return refiner, sam_id, decoding


def refiner_options(service: InferenceService, elem_id: str) -> tuple[gr.Radio, gr.Textbox]:
    """The choice of refiner. Where any SAM may be asked for, "sam" shows a field for its Hub id."""
    offered, default = service.refiners, service.refiner
    if service.any_sam:
        plain = [name for name in offered if not sam_source(name)]
        offered = [*plain[:-1], "sam", plain[-1]]
        default = "sam" if sam_source(default) else default
        offered.sort(key=lambda name: name != default)
    refiner = gr.Radio(
        [(name.replace(":", ": "), name) for name in offered],
        value=default,
        label="Refiner",
        elem_id=elem_id,
        info="Turns the grid into pixels; changing it does not run the model again.",
    )
    sam_id = gr.Textbox(
        sam_source(service.refiner) or sam.DEFAULT_SAM,
        label="SAM",
        elem_id=f"{elem_id}-sam",
        max_length=200,
        info="The Hub id of a SAM, SAM-HQ or SAM 2; press Enter to use it.",
        visible=default == "sam",
    )
    refiner.change(lambda name: gr.update(visible=name == "sam"), refiner, sam_id, queue=False, **QUIET)
    return refiner, sam_id


def grid_size(shape: tuple[int, int], rows_id: str, columns_id: str) -> list[gr.Slider]:
    """Two sliders: rows and columns of a grid."""
    rows = gr.Slider(1, MAX_SIDE, shape[0], step=1, label="Rows", elem_id=rows_id)
    columns = gr.Slider(1, MAX_SIDE, shape[1], step=1, label="Columns", elem_id=columns_id)
    return [rows, columns]


def download_buttons(save_id: str) -> dict[str, gr.Button]:
    """{kind of `downloads.FILES`: its button}, in a row."""
    with gr.Row(elem_classes=["t4s-small", "t4s-downloads"]):
        plain_html("<span>Download</span>")
        return {
            kind: gr.Button(label, size="sm", min_width=60, elem_id=f"{save_id}-{kind}")
            for kind, (label, *_) in downloads.FILES.items()
        }


def sample_panels(elem_id: str) -> Panels:
    """The panels with a drawing in them, as they are before there is a photo."""
    return Panels(views.sample_view(examples.DRAWING), elem_id=elem_id)
