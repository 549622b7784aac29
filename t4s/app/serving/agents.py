"""Answers for agents (MCP): Gradio writes what is not a file as Python's `str`; agents get JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any


def answer_in_json(server: Any) -> None:
    """Makes a GradioMCPServer answer with a text, pictures and JSON, one by one, whether progress is asked for or not.

    Without progress Gradio's client returns all outputs as one.
    """
    server.postprocess_output_data = partial(_as_json, server.postprocess_output_data)


def _as_json(postprocess: Callable[..., Any], data: Any, root_url: str) -> Any:
    outputs = data[0] if len(data) == 1 and isinstance(data[0], list | tuple) else data
    return postprocess([_written(output) for output in outputs], root_url)


def _written(output: Any) -> Any:
    if isinstance(output, str) or (isinstance(output, dict) and {"path", "meta"} <= output.keys()):  # text or a file
        return output
    return json.dumps(output, ensure_ascii=False)
