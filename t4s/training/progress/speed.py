"""How many photos and phrases a run learns from in a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import Tensor


class Speed:
    """Counts what was learned from since it was last asked. now: the current time in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._since = now()
        self._photos = 0
        self._phrases: Tensor | None = None  # on the training device: adding to it waits for nothing

    def add(self, photos: int, phrases: Tensor | None = None) -> None:
        """phrases: a whole number as a tensor, or None where nobody counts them."""
        self._photos += photos
        if phrases is not None:
            self._phrases = phrases if self._phrases is None else self._phrases + phrases

    def take(self) -> dict[str, float]:
        """ "photos_per_second" and, where they are counted, "phrases_per_second", since the last time."""
        now = self._now()
        seconds = max(now - self._since, 1e-9)
        speeds = {"photos_per_second": round(self._photos / seconds, 1)}
        if self._phrases is not None:
            speeds["phrases_per_second"] = round(float(self._phrases) / seconds, 1)
        self._since, self._photos, self._phrases = now, 0, None
        return speeds
