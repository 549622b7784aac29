"""The front door."""

from t4s.segmenter.segmenter import Segmenter

__all__ = ["Segmenter"]
