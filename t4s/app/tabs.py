"""The five tabs: each function lays out one and connects its events to the handlers of a `TabController`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr

from t4s import codec
from t4s.app import components, downloads, examples, explainer, views
from t4s.app.components import APP_ASSETS, ASSETS, MODEL_QUEUE, PRIVATE, QUICK_QUEUE, QUIET, Choices, Panels, Photo
from t4s.app.controller import (
    Model,
    TabController,
    abandon,
    full_refiner_name,
    remove_parts,
    request_stop,
    save,
)
from t4s.app.service import run_batch
from t4s.errors import QueryError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_LABELS, MAX_QUERY

FETCH_FILE = """(file) => { const link = document.createElement("a"); link.href = file.url;
link.download = file.orig_name; document.body.append(link); link.click(); link.remove(); }"""


LAYOUT_HINT = (
    "rows: counted runs, row by row, as models write\nimage: counted runs over the whole grid\n"
    "full: the label of every cell"
)
TEXT_HINT = "Without <seg> and </seg>."


@dataclass(frozen=True)
class Fields:
    """The components of a tab with a model: what is asked, and where the answer goes."""

    photo: Photo
    query: gr.Textbox
    start: gr.Button
    stop: gr.Button
    examples: gr.Dataset
    refiner: gr.Radio
    sam_id: gr.Textbox
    decoding: gr.Radio
    panels: Panels
    answer: gr.State
    history: Choices
    chips: Choices | None = None


# --- a phrase -----------------------------------------------------------------------------------------


def segment_tab(model: Model) -> None:
    """One phrase about one photo."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            photo = components.photo_field("photo")
            phrase = gr.Textbox(
                label="What to find", placeholder="the dog on the left", max_length=MAX_QUERY, elem_id="phrase", lines=1
            )
            start, stop = components.start_and_stop("Segment", "go")
            controller = TabController(model, str)
            chips = Choices(controller.choices(), elem_id="chips")
            gallery = components.example_gallery("examples")
            options = components.model_options(model.service, "refiner")
        with gr.Column(scale=9, min_width=300):
            panels, answer = _answer_area("panels", "save")
            history = Choices({"title": "Answers", "items": []}, elem_id="history")
            gr.DeepLinkButton("Copy a link to this answer", size="sm", elem_classes="t4s-link")
    fields = Fields(photo, phrase, start, stop, gallery, *options, panels, answer, history, chips)
    picked = gallery.click(partial(examples.example, ASSETS), gallery, [photo, phrase], queue=False, **QUIET)
    _connect(fields, controller, [start.click, phrase.submit], picked, controller.check_phrase)


# --- a list of names ----------------------------------------------------------------------------------


def everything_tab(model: Model) -> None:
    """A list of names about one photo."""
    lists = examples.presets(model.service.metrics, model.service.known_names)
    controller = TabController(model, views.names, lambda index: _listed_example(index, lists))
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            photo = components.photo_field("photo-all")
            names = gr.Textbox(
                next(iter(lists.values()), ""),
                label="Names",
                info=f"Up to {MAX_LABELS}, comma-separated or one a line.",
                lines=2,
                placeholder="cat, dog, grass",
                elem_id="names",
            )
            with gr.Row(elem_classes="t4s-small", elem_id="lists"):
                seen = gr.Button("this photo", size="sm", min_width=60)
                seen.click(controller.list_names, photo, names, **MODEL_QUEUE, **QUIET)
                for title in lists:
                    button = gr.Button(title, size="sm", min_width=60)
                    button.click(partial(lists.get, title), None, names, queue=False, **QUIET)
            start, stop = components.start_and_stop("Segment", "go-all")
            gallery = components.example_gallery("examples-all")
            options = components.model_options(model.service, "refiner-all")
        with gr.Column(scale=9, min_width=300):
            panels, answer = _answer_area("panels-all", "save-all")
            history = Choices({"title": "Answers", "items": []}, elem_id="history-all")
    fields = Fields(photo, names, start, stop, gallery, *options, panels, answer, history)
    picked = gallery.click(controller.example, gallery, [photo, names], queue=False, **QUIET)
    _connect(fields, controller, [start.click], picked, controller.check_names)


def _listed_example(index: int, lists: Mapping[str, str]) -> tuple[str, str]:
    return examples.example(ASSETS, index)[0], examples.class_list(index, lists)


def _answer_area(panels_id: str, save_id: str) -> tuple[Panels, gr.State]:
    """The panels and the downloads: a file is made when its button is clicked, then the browser fetches it."""
    panels = components.sample_panels(panels_id)
    answer = gr.State(None, time_to_live=components.ANSWER_SECONDS)
    file = gr.File(visible="hidden")
    for kind, button in components.download_buttons(save_id).items():
        saved = button.click(partial(save, kind), answer, file, **QUICK_QUEUE, **QUIET)
        saved.success(None, file, js=FETCH_FILE, **PRIVATE)
    return panels, answer


def _connect(
    fields: Fields,
    controller: TabController,
    triggers: list[Callable[..., Any]],
    picked: Any,
    check: Callable[..., Any],
) -> None:
    """Photo, question, stop, refiner → the handlers. `picked`: the event after which an example fills the fields."""
    stop_file = gr.State(None)
    refiner = [fields.refiner, fields.sam_id]
    asked = [fields.photo, fields.query, *refiner, fields.decoding, stop_file]
    shown = [fields.panels, fields.answer]
    waiting = {"show_progress": "minimal", "show_progress_on": fields.query, **PRIVATE}  # the place in the queue
    waiting["trigger_mode"] = "multiple"  # a new question ends the answer before it
    fields.photo.change(controller.show_photo, [fields.photo, fields.answer], fields.panels, **QUICK_QUEUE, **QUIET)
    typed = gr.on(
        triggers, controller.start, asked, [*shown, stop_file], validator=check, trigger_mode="always_last",
        **QUICK_QUEUE, **QUIET,
    )  # fmt: skip
    clicked = picked.then(controller.start, asked, [*shown, stop_file], **QUICK_QUEUE, **QUIET)
    answers = [
        typed.success(controller.ask, asked, shown, **MODEL_QUEUE, **waiting),
        clicked.success(controller.ask_example, [fields.examples, *asked], shown, **MODEL_QUEUE, **waiting),
    ]
    if fields.chips is not None:
        answers += _connect_chips(fields, fields.chips, controller, asked, shown, waiting)
    _connect_history(fields, controller, shown, stop_file)
    fields.panels.release(controller.keep_above, fields.answer, shown, **QUICK_QUEUE, **QUIET)
    fields.panels.select(remove_parts, fields.answer, fields.answer, **QUICK_QUEUE, **QUIET)
    for answered in answers:  # a toast says what went wrong; the panels go back to the photo
        answered.failure(controller.show_photo, [fields.photo, fields.answer], fields.panels, **QUICK_QUEUE, **QUIET)
    fields.stop.click(request_stop, stop_file, queue=False, **QUIET)
    gone = gr.on([fields.photo.clear, fields.photo.upload], abandon, stop_file, queue=False, **QUIET)
    gone.then(controller.show_photo, [fields.photo, fields.answer], fields.panels, **QUICK_QUEUE, **QUIET)
    gr.on(
        [fields.refiner.input, fields.sam_id.submit],
        controller.refine,
        [fields.photo, fields.answer, *refiner],
        shown,
        **MODEL_QUEUE,
        **QUIET,
    )


def _connect_chips(
    fields: Fields,
    chips: Choices,
    controller: TabController,
    asked: list[Any],
    shown: list[Any],
    waiting: dict[str, Any],
) -> list[Any]:
    """Names to click, beside the photo and in it, and words that were meant → the events that ask the model."""
    fields.photo.change(controller.suggest, fields.photo, chips, **MODEL_QUEUE, **QUIET)
    answers = []
    for clicked in (chips.select, fields.panels.submit):
        named = clicked(_chosen_text, None, fields.query, queue=False, **QUIET)
        started = named.then(controller.start, asked, [*shown, asked[-1]], **QUICK_QUEUE, **QUIET)
        answers.append(started.success(controller.ask, asked, shown, **MODEL_QUEUE, **waiting))
    return answers


def _connect_history(fields: Fields, controller: TabController, shown: list[Any], stop_file: gr.State) -> None:
    """Answers to go back to."""
    past = gr.State([], time_to_live=components.ANSWER_SECONDS)
    fields.answer.change(controller.remember, [fields.answer, past], [past, fields.history], **QUICK_QUEUE, **QUIET)
    back = [fields.photo, fields.query, *shown]
    fields.history.select(controller.go_back, [past, stop_file], back, **QUICK_QUEUE, **QUIET)


def _chosen_text(event: gr.EventData) -> str:
    return str(event.text)


# --- text and mask, without a model -------------------------------------------------------------------


def text_tab(model: Model) -> None:
    """A pasted text becomes a grid and a mask; a mask file becomes a text."""
    shape = model.service.shape
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
                        info=TEXT_HINT,
                    )
                    decode = gr.Button("Draw the mask", variant="primary", elem_id="decode")
                    text_size = components.grid_size(shape, "rows", "columns")
                    text_layout = gr.Radio(
                        list(codec.LAYOUTS), value="rows", label="Layout", elem_id="layout", info=LAYOUT_HINT
                    )
                with gr.Tab("Mask → text", id="write"):
                    mask = Photo(
                        type="filepath",
                        label="Mask",
                        sources=["upload", "clipboard"],
                        height=220,
                        elem_id="mask",
                        placeholder="# Choose a mask\na PNG, its background black or index 0",
                    )
                    labels = gr.Textbox("cat", label="Label, or one for each colour", elem_id="labels", max_length=2000)
                    encode = gr.Button("Write the text", variant="primary", elem_id="encode")
                    mask_size = components.grid_size(shape, "rows-to", "columns-to")
                    mask_layout = gr.Radio(
                        list(codec.LAYOUTS), value="rows", label="Layout", elem_id="layout-to", info=LAYOUT_HINT
                    )
        with gr.Column(scale=9, min_width=300):
            shown = views.read_text(examples.FAULTY, shape, "rows")[0]
            message = f"An example, one row of which is a cell short: {shown['message']}"
            panels = Panels(shown | {"message": message}, elem_id="panels-text")

    @components.as_gradio_error
    def read(text: str, height: float, width: float, layout: str) -> dict[str, Any]:
        return views.read_text(text, (int(height), int(width)), layout)[0]

    @components.as_gradio_error
    def write(path: str | None, labels: str, height: float, width: float, layout: str) -> tuple[Any, ...]:
        if path is None:
            raise QueryError("Choose a mask first: a PNG whose background is black, or an indexed PNG.")
        tokenizer = model.service.tokenizer
        view, grid = views.write_text(tokenizer, path, labels, (int(height), int(width)), layout)
        return view, codec.encode(grid, layout), height, width, layout

    def write_again(path: str | None, *others: Any) -> tuple[Any, ...]:
        return write(path, *others) if path else (gr.skip(),) * 5

    text_inputs = [text, *text_size, text_layout]
    changes = [*(side.release for side in text_size), text_layout.input]
    gr.on([decode.click, *changes], read, text_inputs, panels, **QUICK_QUEUE, **QUIET)

    mask_inputs, outputs = [mask, labels, *mask_size, mask_layout], [panels, *text_inputs]
    changes = [mask.upload, *(side.release for side in mask_size), mask_layout.input]
    encode.click(write, mask_inputs, outputs, **QUICK_QUEUE, **QUIET)
    gr.on(changes, write_again, mask_inputs, outputs, **QUICK_QUEUE, **QUIET)


# --- many photos --------------------------------------------------------------------------------------


def batch_tab(model: Model) -> None:
    """Many photos, each with every phrase; pictures, a table and a ZIP."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=280, elem_classes="t4s-side"):
            files = gr.File(label="Photos", file_count="multiple", type="filepath", height=180, elem_id="batch-files")
            phrases = gr.Textbox(
                "person",
                label="Phrases",
                info="One a line; each photo is searched for each.",
                lines=3,
                elem_id="batch-phrases",
            )
            with gr.Row():
                start = gr.Button("Segment all", variant="primary", elem_id="go-batch", min_width=80, scale=2)
                stop = gr.Button("Stop", elem_id="stop-go-batch", min_width=60, visible=False)
            zip_button = gr.DownloadButton("Download all as a ZIP", interactive=False, elem_id="batch-zip")
            with gr.Accordion("Options", open=False):
                refiner, sam_id = components.refiner_options(model.service, "refiner-batch")
                by_part = gr.Checkbox(False, label="COCO by part", info="One annotation for each connected part.")
        with gr.Column(scale=9, min_width=300):
            progress = components.plain_html("", elem_id="batch-progress")
            gallery = gr.Gallery(label="Masks", columns=4, height=360, object_fit="contain", elem_id="batch-gallery")
            table = gr.Dataframe(
                headers=list(views.TABLE),
                label="Results",
                interactive=False,
                elem_id="batch-table",
                wrap=True,
                column_widths=["18%", "16%", "10%", "10%", "10%", "10%", "26%"],
            )

    @components.as_gradio_error
    def run(
        paths: list[str] | None, phrases: str, refiner: str, sam_id: str, by_part: bool, stop_file: str
    ) -> Iterator[Any]:
        pictures: list[tuple[str, str]] = []
        results = downloads.ResultsZip(downloads.scratch_file("text4seg.zip"), by_part)
        steps = run_batch(model.write_all, paths, phrases, full_refiner_name(refiner, sam_id), results)
        for done, total, path, answers in steps:
            for picture, caption in views.captioned(path, answers):
                file = downloads.scratch_file("masks.jpg")  # as a file: what is shown already is not encoded again
                picture.save(file)
                pictures.append((str(file), caption))
            stopped = done < total and Path(stop_file).exists()
            last = stopped or done == total
            download = gr.update(value=str(results.close()) if last else None, interactive=last)
            yield views.progress(done, total, stopped), pictures, views.table(results.rows), download
            if stopped:
                return

    def begin() -> tuple[Any, ...]:
        return str(downloads.scratch_file("stop")), gr.update(visible=True), gr.update(interactive=False)

    def end() -> tuple[Any, Any]:
        return gr.update(visible=False), gr.update(interactive=True)

    stop_file = gr.State("")
    inputs, outputs = [files, phrases, refiner, sam_id, by_part, stop_file], [progress, gallery, table, zip_button]
    running = start.click(begin, None, [stop_file, stop, start], queue=False, **QUIET).then(
        run, inputs, outputs, **MODEL_QUEUE, **QUIET
    )
    running.then(end, None, [stop, start], queue=False, **QUIET)
    stop.click(request_stop, stop_file, queue=False, **QUIET)


# --- how it works -------------------------------------------------------------------------------------


def about_tab(model: Model, tab: gr.Tab) -> None:
    """Five pictures that the code makes from one photo when the tab is opened, and a text."""

    @lru_cache(maxsize=1)
    def pictures() -> str:
        path, phrase = examples.example(ASSETS, 0)
        answers, _ = model.write_all(path, [phrase], model.service.refiner)
        return views.figures(explainer.pictures(open_photo(path), answers[0]))

    gr.Markdown("## How it works, in five pictures that the code makes from one photo", elem_classes="t4s-prose")
    figures = components.plain_html(views.figures([]), elem_id="story")
    text = (APP_ASSETS / "about.md").read_text("utf-8")
    about = examples.about(text, model.service.shape, model.service.metrics)
    gr.Markdown(about, elem_id="about-text", elem_classes="t4s-prose")
    tab.select(pictures, None, figures, **MODEL_QUEUE, **QUIET)
