"""The file that a data file names, although tools and systems write names differently.

Tried in this order: the name as written; with Windows backslashes as slashes; percent-decoded; in Unicode's composed
and decomposed form (macOS decomposes); finally ignoring case, if only one file fits (`a.jpg` for `A.JPG`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote


class FileFinder:
    """Finds files by the names that a data file has for them, in any of some folders, the first folders first."""

    def __init__(self, folders: Iterable[Path]):
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> Path | None:
        """The file called `name`, or None. An absolute name is looked up as it is."""
        if not name or "\0" in name:
            return None
        spelled = spellings(name)
        for spelling in spelled:
            for folder in self.folders:
                if (folder / spelling).is_file():
                    return folder / spelling
        for spelling in spelled:
            for folder in self.folders:
                found = self._ignoring_case(folder, Path(spelling))
                if found is not None:
                    return found
        return None

    def _ignoring_case(self, folder: Path, name: Path) -> Path | None:
        if name.is_absolute():
            return None
        for part in name.parts:
            if part == "..":
                folder = folder.parent
                continue
            matches = self._listing(folder).get(_key(part), [])
            if len(matches) != 1:
                return None
            folder = folder / matches[0]
        return folder if folder.is_file() else None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """{folded name: names} of a folder's entries."""
        if folder not in self._listings:
            entries: dict[str, list[str]] = {}
            for path in folder.iterdir() if folder.is_dir() else ():
                entries.setdefault(_key(path.name), []).append(path.name)
            self._listings[folder] = entries
        return self._listings[folder]


def spellings(name: str) -> list[str]:
    """The ways in which a file called `name` in a data file may be called on disk, the likeliest first."""
    slashes = name.replace("\\", "/")
    written = [name, slashes, unquote(name), unquote(slashes)]
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in written]
    return list(dict.fromkeys([*written, *forms]))


def file_name(name: str) -> str:
    """The last part of a name, whatever its separator: "C:\\\\photos\\\\a.jpg" → "a.jpg"."""
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2]


def photos_in(folder: Path, extension: str) -> list[Path]:
    """The files of a folder with this extension in any case, sorted; hidden ones (`._x.jpg` of macOS) left out."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() == extension and not path.name.startswith(".")
    )


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
