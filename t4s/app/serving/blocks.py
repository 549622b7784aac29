"""`GuardedBlocks`: a gr.Blocks whose inputs are checked, whose queue is fair and whose failures are sentences."""

from __future__ import annotations

import asyncio
import html
import traceback
from typing import Any

import gradio as gr

from t4s.app.serving.agents import answer_in_json
from t4s.app.serving.gate import Gate
from t4s.app.serving.inputs import checked
from t4s.app.serving.queueing import FairQueue, Listeners
from t4s.app.serving.storage import Storage
from t4s.errors import T4SError
from t4s.limits import QUEUE_PLACES

FAILED = "Something went wrong in the app itself; its log says what. Please report it."


class GuardedBlocks(gr.Blocks):
    """Used as gr.Blocks. Whatever a client sends, it gets an answer or a sentence."""

    def __init__(self, *arguments: Any, **settings: Any):
        self.listeners, self.storage = Listeners(), Storage(self._kept_files)
        super().__init__(*arguments, **settings)

    def queue(self, **settings: Any) -> GuardedBlocks:
        """As Gradio's, with a fair queue; calls that would go round it are refused."""
        super().queue(**settings | {"max_size": QUEUE_PLACES, "api_open": False})
        plain = self._queue
        self._queue = FairQueue(
            self.listeners,
            live_updates=plain.live_updates,
            concurrency_count=plain.max_thread_count,
            update_intervals=plain.update_intervals,
            max_size=plain.max_size,
            blocks=self,
            default_concurrency_limit=plain.default_concurrency_limit,
        )
        return self

    def launch(self, *arguments: Any, **settings: Any) -> Any:
        """As Gradio's, behind the gate; monitoring is closed."""
        gate = (Gate, (), {"listeners": self.listeners, "storage": self.storage})
        settings["app_kwargs"] = {"middleware": [gate]}
        launched = super().launch(*arguments, **settings | {"enable_monitoring": False})
        if getattr(self, "mcp_server_obj", None):
            answer_in_json(self.mcp_server_obj)
        return launched

    def _kept_files(self) -> set[str]:
        """The page's own: the photos of its examples."""
        return set().union(*(component.keep_in_cache for component in self.blocks.values()))

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **settings: Any) -> list[Any]:
        """As Gradio's, of checked inputs."""
        missing = block_fn.inputs[len(inputs) :]
        if all(getattr(component, "value", None) is not None for component in missing):  # they have defaults
            inputs = [*inputs, *(component.value for component in missing)]
        else:
            names = ", ".join(str(getattr(component, "label", "")) for component in block_fn.inputs)
            raise _error(f"{len(inputs)} inputs were given; there are {len(block_fn.inputs)}: {names}.")
        await asyncio.to_thread(self.storage.note)  # for the pictures of the answer
        strict = block_fn.api_visibility == "public"
        try:
            given = zip(block_fn.inputs, inputs, strict=False)
            values = [await checked(component, value, strict, self.storage) for component, value in given]
        except T4SError as problem:
            raise _error(str(problem)) from problem
        return await super().preprocess_data(block_fn, values, *others, **settings)

    async def process_api(self, *arguments: Any, **settings: Any) -> dict[str, Any]:
        """As Gradio's; a fault of the app itself is logged, and the client is told that much.

        Any exception but gr.Error is such a fault. Gradio would send {"error": null}, which says nothing, or with
        show_error the exception's own text, which may name paths of the server.
        """
        try:
            return await super().process_api(*arguments, **settings)
        except gr.Error:
            raise
        except Exception as problem:  # the boundary of the server: nothing lies above that could mend it
            traceback.print_exc()
            raise _error(FAILED) from problem


def _error(message: str) -> gr.Error:
    return gr.Error(html.escape(message, quote=False), print_exception=False)
