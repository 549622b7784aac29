"""One checkpoint through `generate` of transformers, alone and with other grammar engines, and through our loops.

    python -m t4s.bench decoding --tokenizers --checkpoint embedded --peers --pairs 40 --dataset folder:PHOTOS@val

Every row continues the same prefill, greedily, and says what the text alone says: cell scores and the no-target
decision, which only our loops know, are left out, but for the last row. xgrammar and llguidance are optional packages.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from t4s import codec
from t4s.decoding import dialects
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import decode, last_step, token_limit
from t4s.errors import CheckpointError, CodecError
from t4s.records import Sample

if TYPE_CHECKING:
    import torch

    from t4s import Segmenter
    from t4s.models.vlm import VLM, DecoderState, EncodedImage

Row = dict[str, Any]
Written = tuple[str, int]  # the body's text, and the passes that it took after the prefill
REFERENCE = "ours, constrained"  # whose texts the others are compared with
AHEAD = 10  # tokens that prompt lookup proposes, as transformers' documentation has it


class Answer(NamedTuple):
    """The body's text, the passes after the prefill and the seconds it took, and whether it is valid."""

    text: str
    passes: int
    seconds: float
    valid: bool


def compare(segmenter: Segmenter, samples: Sequence[Sample]) -> list[Row]:
    """One row for each way to write: passes and seconds, prefill included, the share of valid texts, and how many of
    them are those of `REFERENCE`. CheckpointError where a package is missing."""
    for package in ("xgrammar", "llguidance"):
        if find_spec(package) is None:
            raise CheckpointError(f"--peers needs a package: pip install {package}")
    vlm = segmenter.vlm
    ways: dict[str, Callable[[EncodedImage, str], Written]] = {
        "generate": lambda photo, query: generated(vlm, photo, query),
        "generate, prompt lookup": lambda photo, query: generated(vlm, photo, query, prompt_lookup_num_tokens=AHEAD),
        "generate, xgrammar": XGrammar(vlm),
        "generate, llguidance": LLGuidance(vlm),
        REFERENCE: lambda photo, query: ours(vlm, photo, query, "constrained"),
        "**ours, fast**": lambda photo, query: ours(vlm, photo, query, "fast"),
        "**ours, fast**, as shipped": lambda photo, query: shipped(segmenter, photo, query),
    }
    answers: dict[str, list[Answer]] = {way: [] for way in ways}
    for number, sample in enumerate([samples[0], *samples]):
        photo = segmenter.encode(sample.image)
        for way, write in ways.items():
            started = time.perf_counter()
            text, passes = write(photo, sample.query)
            if number:  # the first time is not counted: what is built once is built then
                valid = is_valid(text, sample.query, vlm.config.grid)
                answers[way].append(Answer(text, passes, time.perf_counter() - started, valid))
    return [_row(way, found, answers[REFERENCE]) for way, found in answers.items()]


def _row(way: str, found: Sequence[Answer], reference: Sequence[Answer]) -> Row:
    same = sum(one.text == other.text for one, other in zip(found, reference, strict=True))
    return {
        "loop": way,
        "passes": float(np.mean([answer.passes for answer in found])),
        "median": float(np.median([answer.passes for answer in found])),
        "seconds": float(np.mean([answer.seconds for answer in found])),
        "valid": f"{np.mean([answer.valid for answer in found]):.0%}",
        "same text": f"{same} of {len(found)}",
    }


def is_valid(text: str, query: str, shape: tuple[int, int]) -> bool:
    """True for a body that is read without repair and has no other label."""
    try:
        return set(codec.decode(text, shape).labels) <= {"others", query}
    except CodecError:
        return False


def ours(vlm: VLM, photo: EncodedImage, query: str, mode: str) -> Written:
    constraint = Constraint(vocabulary(vlm.tokenizer), vlm.config.grid, ("others", query))
    step = last_step(decode(mode, vlm.begin(photo, query), constraint))
    return step.text, step.forwards


def shipped(segmenter: Segmenter, photo: EncodedImage, query: str) -> Written:
    """With all that the checkpoint adds to its text; post-processing is part of the time."""
    found = segmenter(photo, query, refine="none")
    return found.text, found.stats["forwards"]


def generated(vlm: VLM, photo: EncodedImage, query: str, processor: Any = None, **options: Any) -> Written:
    """`generate`, greedy, after the same prefill as ours; its last token goes in again, as `generate` wants to have it.

    `processor`: called with (ids so far (1, n), logits (1, V)) at every token; it returns the logits.
    """
    import torch
    from transformers import LogitsProcessorList

    decoder = vlm.begin(photo, query)
    prompt = [*photo.ids, *vlm.suffix(vlm.question(query)), *decoder.opening]
    decoder.cache.crop(-1)
    limit = token_limit(Constraint(vocabulary(vlm.tokenizer), vlm.config.grid, ("others", query)))
    ids = torch.tensor([prompt], device=vlm.device)
    with _own_positions(vlm, decoder, len(prompt)) as passes, torch.inference_mode():
        written = vlm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            cache=decoder.cache,
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=vlm.tokenizer.eos_token_id,
            pad_token_id=vlm.tokenizer.eos_token_id,
            logits_processor=LogitsProcessorList([processor] if processor else []),
            **options,
        )
    text = vocabulary(vlm.tokenizer).text(written[0, len(prompt) :].tolist())
    end = vlm.tokenizer.eos_token or ""
    return text.removesuffix(end).partition("</seg>")[0], len(passes)


@contextmanager
def _own_positions(vlm: VLM, decoder: DecoderState, prompt: int) -> Iterator[list[int]]:
    """`generate` with this checkpoint's position ids; yields a list that grows with every pass."""
    import torch

    passes: list[int] = []
    cache = decoder.cache

    def prepare(input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        past = cache.get_seq_length()
        new = input_ids[:, past:]
        answer = [*decoder.opening, *input_ids[0, prompt:].tolist()]
        positions = vlm.answer_positions(answer, decoder.start)[-new.shape[1] :]
        passes.append(new.shape[1])
        return {
            "input_ids": new,
            "position_ids": torch.tensor([positions], device=new.device),
            "attention_mask": torch.ones(1, input_ids.shape[1], dtype=torch.long, device=new.device),
            "cache": cache,
            "use_cache": True,
        }

    vlm.model.prepare_inputs_for_generation = prepare
    try:
        yield passes
    finally:
        del vlm.model.prepare_inputs_for_generation  # what its class has is back


class XGrammar:
    """`generate` with xgrammar's own logits processor."""

    def __init__(self, vlm: VLM):
        import xgrammar

        size = vlm.model.get_output_embeddings().weight.shape[0]
        info = xgrammar.TokenizerInfo.from_huggingface(vlm.tokenizer, vocab_size=size)
        self.vlm, self.compiler = vlm, xgrammar.GrammarCompiler(info)

    def __call__(self, photo: EncodedImage, query: str) -> Written:
        from xgrammar.contrib.hf import LogitsProcessor

        grammar = self.compiler.compile_grammar(dialects.grammar_text(self.vlm.config.grid, (query,), "ebnf"))
        return generated(self.vlm, photo, query, LogitsProcessor(grammar))


class LLGuidance:
    """`generate` with llguidance's matcher in a logits processor."""

    def __init__(self, vlm: VLM):
        from llguidance.hf import from_tokenizer

        size = vlm.model.get_output_embeddings().weight.shape[0]
        self.vlm, self.tokenizer = vlm, from_tokenizer(vlm.tokenizer, n_vocab=size)

    def __call__(self, photo: EncodedImage, query: str) -> Written:
        import torch
        from llguidance import LLMatcher

        text = dialects.grammar_text(self.vlm.config.grid, (query,), "lark")
        matcher = LLMatcher(self.tokenizer, LLMatcher.grammar_from_lark(text))
        fed: list[int] = []

        def only_allowed(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            if fed:
                matcher.consume_token(int(ids[0, -1]))
            fed.append(ids.shape[1])
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            allowed = np.unpackbits(bits, bitorder="little")[: logits.shape[1]].astype(bool)
            return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)

        return generated(self.vlm, photo, query, only_allowed)
