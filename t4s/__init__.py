"""Text4Seg: a language model draws what it means.

    from t4s import Segmenter, codec

    prediction = Segmenter.from_pretrained()("photo.jpg", "the dog on the left")

Importing the package is instant: torch is loaded when `Segmenter` is first touched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from t4s import codec
from t4s.errors import CheckpointError, CodecError, DataError, EndpointError, ImageError, QueryError, T4SError
from t4s.records import Prediction, Sample

if TYPE_CHECKING:
    from t4s.segmenter.segmenter import Segmenter

__version__ = "0.1.0"
__all__ = [
    "CheckpointError",
    "CodecError",
    "DataError",
    "EndpointError",
    "ImageError",
    "Prediction",
    "QueryError",
    "Sample",
    "Segmenter",
    "T4SError",
    "codec",
]


def __getattr__(name: str) -> Any:
    if name == "Segmenter":
        return import_module("t4s.segmenter.segmenter").Segmenter
    raise AttributeError(f"module 't4s' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | {"Segmenter"})
