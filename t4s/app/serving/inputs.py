"""Every input of every call, before a component or a function sees it: of the right kind, and files fetched.

What arrives is JSON that anyone may have written. Gradio's components trust its shape; here a wrong one becomes a
sentence that names the input and says what it takes.
"""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from t4s.app.serving.fetching import fetch, is_address
from t4s.app.serving.storage import Storage
from t4s.errors import ImageError, QueryError
from t4s.limits import MAX_BYTES

HOW_TO_GIVE_A_FILE = "give an uploaded file (in Python: gradio_client.handle_file(path)), a web address or a data: URL"
FILE = {"_type": "gradio.FileData"}  # how Gradio marks a file


async def checked(component: Any, value: Any, strict: bool, storage: Storage) -> Any:
    """The value as `component` takes it, its files fetched. `strict`: an endpoint, where null is not a text or number.

    Raises QueryError and ImageError, with the input's name, and StorageFull.
    """
    name = f"The input {component.label!r}" if getattr(component, "label", None) else "An input"
    if isinstance(component, gr.File | gr.Image):
        return await _files(component, value, name, storage)
    if isinstance(component, gr.State):
        return value
    if _holds_a_file(value):
        raise QueryError(f"{name} is no file field; give a plain value.")
    if value is None and not strict:
        return value
    if isinstance(component, gr.Checkbox) and not isinstance(value, bool):
        raise QueryError(f"{name} is {_shown(value)}; give true or false.")
    if isinstance(component, gr.Number | gr.Slider):
        _check_number(value, name)
    elif isinstance(component, gr.Textbox | gr.Radio):
        _check_text(value, name, lists=getattr(component, "takes_lists", False))
    if isinstance(component, gr.Radio) and value not in (choices := [str(choice) for _, choice in component.choices]):
        raise QueryError(f"{name} is {_shown(value)}; choose one of {', '.join(choices)}.")
    return value


def _check_number(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise QueryError(f"{name} is {_shown(value)}; give a number.")
    if not math.isfinite(value):
        raise QueryError(f"{name} is {value}; give a finite number.")


def _check_text(value: Any, name: str, lists: bool) -> None:
    texts = value if lists and isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str):
            raise QueryError(f"{name} is {_shown(text)}; give a text{' or a list of texts' if lists else ''}.")


async def _files(component: Any, value: Any, name: str, storage: Storage) -> Any:
    if getattr(component, "file_count", "single") == "single":
        return None if value is None else await _file(value, name, storage)
    given = [] if value is None else value if isinstance(value, list) else [value]
    return [await _file(item, f"{name} (number {place})", storage) for place, item in enumerate(given, 1)]


async def _file(value: Any, name: str, storage: Storage) -> dict[str, Any]:
    """One file as Gradio describes it, below the upload folder."""
    if isinstance(value, str) and is_address(value):
        value = {"path": value, "meta": FILE}
    if not isinstance(value, dict):
        raise QueryError(f"{name} is {_shown(value)}; {HOW_TO_GIVE_A_FILE}.")
    path, url = value.get("path"), value.get("url")
    if not isinstance(path, str | None) or not isinstance(url, str | None):
        raise QueryError(f"{name} is a file whose path or url is no text; {HOW_TO_GIVE_A_FILE}.")
    address = next((text for text in (url, path) if text and text[:5].lower() == "data:"), path or url or "")
    orig_name = value.get("orig_name")
    if is_address(address):
        await asyncio.to_thread(storage.take, MAX_BYTES)
        try:
            path = str(await fetch(address, Path(get_upload_folder())))
        except ImageError as problem:
            raise ImageError(f"{name}: {problem}") from problem
    elif not path or not is_in_or_equal(path, get_upload_folder()):
        raise QueryError(f"{name} is {_shown(path)}, which was not uploaded; {HOW_TO_GIVE_A_FILE}.")
    elif not Path(path).is_file():
        raise QueryError(f"{name} is a file that is no longer kept; upload it again.")
    return {"path": path, "meta": FILE, "orig_name": orig_name if isinstance(orig_name, str) else Path(path).name}


def _holds_a_file(value: Any) -> bool:
    """True if something in nested lists and dicts is described as a file."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if "path" in item and "meta" in item:
                return True
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return False


def _shown(value: Any) -> str:
    """A value as a message quotes it."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return f"the text {value[:60]!r}"
    return f"of type {type(value).__name__}"
