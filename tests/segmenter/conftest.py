"""What the tests of endpoints share."""

from __future__ import annotations

import pytest
from huggingface_hub import constants

from t4s.segmenter import endpoint


@pytest.fixture
def local_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between retries, and requests although the Hub is switched off: nothing but 127.0.0.1 is asked."""
    monkeypatch.setattr(endpoint, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
