"""Where the files live that ship with the code: weights in a checkout, weights after `pip install .`."""

from __future__ import annotations

from pathlib import Path

from t4s.errors import CheckpointError

_POINTER = b"version https://git-lfs"  # how a file begins that git-lfs has not fetched yet


def asset(name: str) -> Path:
    """The folder (or file) `name` of the shipped assets: "t4s-tiny", "t4s-edge".

    An installed package has them in `t4s/_assets` (pyproject.toml puts them there), a checkout in
    `assets/` beside `t4s/`. Raises CheckpointError if it is in neither, or if its weights are
    only Git LFS pointers.
    """
    package = Path(__file__).resolve().parent
    places = (package / "_assets", package.parent / "assets")
    for place in places:
        found = place / name
        if found.exists():
            _refuse_pointers(found)
            return found
    raise CheckpointError(
        f"The shipped asset {name!r} is neither in {places[0]} nor in {places[1]}; "
        "install t4s with its weights (`pip install .` in a full checkout), or name another checkpoint."
    )


def _refuse_pointers(found: Path) -> None:
    """A clone of a Hub repository without git-lfs has 130-byte stubs where the weights should be."""
    for file in [found] if found.is_file() else sorted(found.glob("*.safetensors")):
        with file.open("rb") as stream:
            if stream.read(len(_POINTER)) == _POINTER:
                raise CheckpointError(
                    f"{file} is a Git LFS pointer and not the weights; run `git lfs install` and `git lfs pull` there."
                )
