"""The app: a photo and a phrase in; raw text, descriptor grid and mask out, side by side, as the model writes.

    python app.py                     http://127.0.0.1:7860 (or GRADIO_SERVER_NAME, GRADIO_SERVER_PORT)

Three Space variables choose the models: T4S_CHECKPOINT (a Hub id or a folder; unset: the embedded checkpoint),
T4S_REFINER (a name of t4s/refine, or "sam:SOURCE"; unset: the checkpoint's own) and T4S_SAM (the SAMs that visitors may
choose). With T4S_ENDPOINT the model runs on another server. See t4s/app/serving/settings.py.

Here are the functions that run a model, the page with its tabs, and the launch. The rest is in t4s/app, and what the
browser draws is in assets/app.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import gradio as gr
import spaces

from t4s import Segmenter
from t4s.app import api, components, tabs
from t4s.app.components import as_gradio_error
from t4s.app.controller import Model
from t4s.app.service import InferenceService, gpu_seconds
from t4s.app.serving.blocks import GuardedBlocks
from t4s.app.serving.settings import Settings
from t4s.app.suggestions import NO_NAMES, Suggestions
from t4s.errors import T4SError
from t4s.limits import MAX_BYTES
from t4s.records import Prediction

TITLE = "Text4Seg: a language model draws"
SESSIONS = 256  # visitors whose last answer is kept
FILE_SECONDS, CLEAN_EVERY_SECONDS = 14_400, 3600  # how long Gradio keeps uploaded and served files

# --- what runs a model --------------------------------------------------------------------------------


def gpu_model(service: InferenceService) -> Model:
    """The calls that ZeroGPU runs in processes of their own; elsewhere `spaces.GPU` does nothing."""

    @spaces.GPU(duration=gpu_seconds)
    @as_gradio_error
    def write(
        path: str, query: str | list[str], refiner: str, decoding: str, stop_file: str = ""
    ) -> Iterator[Prediction]:
        yield from service.write(path, query, refiner, decoding, stop_file)

    @spaces.GPU(duration=gpu_seconds)
    @as_gradio_error
    def write_all(path: str, phrases: list[str], refiner: str) -> tuple[list[Prediction], str]:
        return service.write_all(path, phrases, refiner)

    @spaces.GPU(duration=20)
    @as_gradio_error
    def refine(path: str, answer: Prediction, refiner: str) -> Prediction:
        return service.refine(path, answer, refiner)

    @spaces.GPU(duration=10)
    @as_gradio_error
    def suggest(path: str) -> Suggestions:
        return service.suggest(path)

    return Model(service, write, write_all, refine, suggest if service.known_names else lambda path: NO_NAMES)


# --- the page -----------------------------------------------------------------------------------------


def build(segmenter: Segmenter, refiner: str = "", sams: Sequence[str] | None = ()) -> GuardedBlocks:
    """The whole app around one segmenter. `refiner`: the app's own; "": the checkpoint's. `sams`: see there."""
    model = gpu_model(InferenceService(segmenter, refiner, sams))
    with GuardedBlocks(
        title=TITLE, fill_width=True, analytics_enabled=False, delete_cache=(CLEAN_EVERY_SECONDS, FILE_SECONDS)
    ) as demo:
        components.heading()
        with gr.Tabs():
            with gr.Tab("Segment", id="segment"):
                tabs.segment_tab(model)
            with gr.Tab("Everything", id="everything"):
                tabs.everything_tab(model)
            with gr.Tab("Text ↔ mask", id="text"):
                tabs.text_tab(model)
            with gr.Tab("Batch", id="batch"):
                tabs.batch_tab(model)
            with gr.Tab("About", id="about") as about:
                tabs.about_tab(model, about)
        api.add_endpoints(model)
    return demo


LAUNCH = {
    "theme": components.theme(),
    "head": components.head(),
    "max_file_size": MAX_BYTES,
    "allowed_paths": [str(components.ASSETS / "examples")],
    "footer_links": ["api", "settings"],
    "ssr_mode": False,
    "state_session_capacity": SESSIONS,
}


def main() -> None:
    """Loads the model and serves the page; a wrong setting ends the program with one sentence."""
    try:
        settings = Settings.read(os.environ)
        demo = build(settings.load(), settings.refiner, settings.sams)
    except T4SError as problem:
        sys.exit(str(problem))
    port = os.environ.get("GRADIO_SERVER_PORT")  # one that is named is taken or refused; else the next free one
    try:
        demo.queue().launch(mcp_server=True, server_port=int(port) if port else None, **LAUNCH)
    except (OSError, ValueError) as problem:
        sys.exit(f"The app cannot listen ({problem}): free the port, or name another with GRADIO_SERVER_PORT.")


if __name__ == "__main__":
    main()
