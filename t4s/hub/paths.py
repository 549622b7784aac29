"""Paths of this machine, which never leave it."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from t4s.data.spec import NAMES, PATHLESS, DatasetSpec


def is_machine_path(text: str) -> bool:
    """True for what can only be a path: absolute, starting with a dot or tilde, Windows, or an existing folder."""
    return bool(text) and (
        text.startswith(("/", ".", "~")) or "\\" in text or PureWindowsPath(text).is_absolute() or Path(text).is_dir()
    )


def public(text: str) -> str:
    """A data set's spec, or any word, without this machine's folders: "folder:/home/x/CELLS@val" → "folder:CELLS@val".

    Words may follow the spec: "folder:/home/x/CELLS*3, 32 photos".
    """
    name = re.split("[:@*]", text)[0]
    if name not in NAMES or name in PATHLESS:
        return PureWindowsPath(text).name if is_machine_path(text) else text
    weighted = re.fullmatch(r"(.*\*[\d.]+)([, ].*)", text)  # the words must not be read as its weight
    written, words = weighted.groups() if weighted else (text, "")
    spec = DatasetSpec.parse(written)
    if name == "hub" and not is_machine_path(spec.path):
        return text
    folders = r"[^,=]+" if name == "scenes" else ".+"  # scenes take options: PHOTOS,-dog,scenes=60
    path = re.sub(folders, lambda folder: PureWindowsPath(folder[0]).name, spec.path)
    weight = f"*{spec.weight:g}" if spec.weight != 1 else ""
    return f"{name}:{path}" + (f"@{spec.split}" if spec.split else "") + weight + words
