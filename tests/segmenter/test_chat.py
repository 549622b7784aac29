"""Free answers with any number of grids: a scripted model writes them, and tiny random ones write what they like."""

from __future__ import annotations

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import Segmenter, codec
from t4s.decoding.constraint import vocabulary
from t4s.errors import CheckpointError, QueryError
from t4s.limits import MAX_QUESTION
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.vlm import VLM
from t4s.segmenter import chat
from t4s.segmenter.chat import places
from tests.support.families import IMAGE_SIZE, build, here

CAT = "others *4\n others *1| cat *3\n cat *4\n others *4\n"
DOGS = "potted plant *4\n potted plant *1| hot dog *3\n potted plant *1| hot dog *3\n others *4\n"


class Script:
    """A `CausalDecoder` that writes given tokens, whatever it is fed; what was fed of its own is counted."""

    def __init__(self, ids: list[int], size: int):
        self.ids, self.size, self.fed, self.forwards = ids, size, [], 0
        self.last = self._row(0)

    def _row(self, at: int) -> torch.Tensor:
        row = torch.zeros(self.size)
        row[self.ids[at] if at < len(self.ids) else 0] = 1
        return row

    def feed(self, ids: list[int]) -> torch.Tensor:
        before, self.fed, self.forwards = len(self.fed), [*self.fed, *ids], self.forwards + 1
        return torch.stack([self._row(before + at + 1) for at in range(len(ids))])

    def crop(self, n: int) -> None:
        assert self.fed[:n] == self.ids[:n], "a rejected draft stays in the cache"
        del self.fed[n:]


@pytest.fixture(scope="module")
def chatting(fresh_vlm) -> Segmenter:
    """The embedded architecture with plain positions, as a fine-tuned chat model has them; weights are random."""
    config = replace(fresh_vlm.config, positions="sequence", refiner="none")
    return Segmenter(VLM(fresh_vlm.model, fresh_vlm.processor, config))


@pytest.fixture
def says(chatting, monkeypatch):
    """says(text) → the answer of a model that writes exactly this."""

    def ask(text: str, end: bool = True, **options):
        tokenizer = chatting.vlm.tokenizer
        ids = chatting.vlm.text_ids(text) + [tokenizer.eos_token_id] * end
        script = Script(ids, len(tokenizer))
        monkeypatch.setattr("t4s.segmenter.segmenter.DecoderState", lambda *_: script)
        return chatting.ask(np.zeros((40, 60, 3), np.uint8), "What is here?", **options)

    return ask


def test_several_spans_are_read_where_they_stand(says):
    text = f"A cat: <seg>{CAT}</seg>, and to eat: <seg>{DOGS}</seg>. That is all."
    answer = says(text)
    assert answer.text == text and answer.question == "What is here?" and answer.stats["ended"] == "complete"
    cat, dogs = answer.spans
    assert text[cat.start : cat.end] == f"<seg>{CAT}</seg>" and text[dogs.start : dogs.end] == f"<seg>{DOGS}</seg>"
    assert cat.grid == codec.decode(CAT) and dogs.grid == codec.decode(DOGS) and answer.faults == ()
    assert set(cat.masks) == {"cat"} and set(dogs.masks) == {"potted plant", "hot dog"}
    assert cat.mask.shape == (40, 60) and np.array_equal(cat.mask, codec.mask_from_grid(cat.grid, "cat", (40, 60)))
    assert np.array_equal(dogs.mask, dogs.masks["potted plant"] | dogs.masks["hot dog"])
    assert cat.box == (0, 10, 60, 30)
    again = pickle.loads(pickle.dumps(answer))
    assert again.spans[0].grid == cat.grid and np.array_equal(again.spans[1].mask, dogs.mask)


def test_an_answer_without_spans_is_text(says):
    answer = says("Two cats. A </seg> alone means nothing, nor does seg.")
    assert answer.spans == () and answer.text.startswith("Two cats.") and answer.faults == ()


def test_a_broken_span_is_repaired_and_reported(says):
    """One row too wide in the first, the second breaks off: the third must not suffer from either."""
    wide = CAT.replace("cat *4", "cat *9")
    answer = says(f"<seg>{wide}</seg> or <seg>others *4\n others *2| cat <seg>{CAT}</seg>")
    broken, cut, good = answer.spans
    assert broken.grid == codec.decode(CAT) and len(broken.faults) == 1
    assert cut.end == good.start and "there is no </seg>" in cut.faults[-1].message and len(cut.faults) > 1
    assert good.faults == () and good.grid == codec.decode(CAT)
    assert answer.faults == broken.faults + cut.faults


def test_the_limit_cuts_an_answer_and_what_is_written_is_kept(says, chatting):
    text = f"It is <seg>{CAT}"
    tokens = len(chatting.vlm.text_ids(text))
    answer = says(text + "</seg> and more", limit=tokens)
    assert answer.stats["ended"] == "truncated" and answer.stats["tokens"] == tokens and answer.text == text
    (span,) = answer.spans
    assert span.grid == codec.decode(CAT) and [fault.message for fault in span.faults] == [
        "there is no </seg>: what is written so far was taken"]  # fmt: skip


def test_a_models_end_exactly_at_the_limit_is_its_own(says, chatting):
    text = "Yes."
    assert says(text, limit=len(chatting.vlm.text_ids(text))).stats["ended"] == "complete"


@pytest.mark.parametrize("text, found", [
    ("", []),
    ("a</seg>b", []),
    ("<seg></seg>", [("<seg></seg>", "", True)]),
    ("<seg>a", [("<seg>a", "a", False)]),
    ("<seg><seg>a</seg>", [("<seg>", "", False), ("<seg>a</seg>", "a", True)]),
    ("x<seg>a</seg></seg><seg>b</se", [("<seg>a</seg>", "a", True), ("<seg>b</se", "b</se", False)]),
])  # fmt: skip
def test_places(text, found):
    assert [(text[p.start : p.end], text[p.body : p.closing], p.closed) for p in places(text)] == found


def scripts(rng: np.random.Generator, count: int):
    """Texts with grids that are mostly valid: rows repeat, labels come and go, and some characters are wrong."""
    labels = ("others", "cat", "potted plant", "dög")
    for _ in range(count):
        text = "So: "
        for _ in range(rng.integers(1, 4)):
            ids = np.repeat(rng.integers(0, len(labels), (rng.integers(1, 5), 4)), 4, 0)[:4]
            text += f"<seg>{codec.encode(codec.DescriptorGrid(np.sort(ids, 1), labels))}</seg> and "
        for _ in range(rng.integers(0, 3)):
            at = int(rng.integers(len(text)))
            text = text[:at] + str(rng.choice(list("x|*\n 3"))) + text[at + 1 :]
        yield text


@pytest.mark.parametrize("family", ["bytes", "llava", "paligemma"])
def test_drafts_change_nothing_but_the_passes(chatting, family, tmp_path):
    """Byte-level and both kinds of SentencePiece: the words that a draft is spelled in are the tokenizer's own."""
    if family == "bytes":
        tokenizer = chatting.vlm.tokenizer
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(build(family, tmp_path))
    words, saved = vocabulary(tokenizer), 0
    for text in scripts(np.random.default_rng(3), 40):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        replies = []
        for rows in (0, 1, 4):
            script = Script(ids, len(tokenizer))
            replies.append(chat.write(script, words, (4, 4), eos={ids[-1]}, limit=1000, draft_rows=rows))
        plain, one, four = replies
        assert plain.ids == one.ids == four.ids == tuple(ids[:-1])
        assert plain.text == one.text == four.text == text and plain.forwards == len(ids) - 1
        assert four.forwards <= one.forwards <= plain.forwards
        saved += plain.forwards - four.forwards
    assert saved > 300


def test_the_spaces_of_a_llama_like_tokenizer_are_not_part_of_a_grid(tmp_path, monkeypatch):
    """Its body and its `</seg>` are tokenised apart in training, so the model writes a space before each."""
    folder = build("llava", tmp_path)
    CheckpointConfig(grid=(4, 4), image_size=IMAGE_SIZE["llava"], refiner="none").write(folder)
    segmenter = Segmenter.from_pretrained(folder, device="cpu")
    before, body, after = segmenter.vlm.answer_ids(CAT)
    script = Script([*before, *body, *after], len(segmenter.vlm.tokenizer))
    monkeypatch.setattr("t4s.segmenter.segmenter.DecoderState", lambda *_: script)
    answer = segmenter.ask(np.zeros((8, 8, 3), np.uint8), "Where is the cat?")
    (span,) = answer.spans
    assert span.text == CAT and span.grid == codec.decode(CAT) and span.faults == ()


@pytest.mark.parametrize("family", here())
def test_tiny_random_models_answer_alike_whatever_is_drafted(family, tmp_path, monkeypatch):
    """Real caches, positions and end tokens; two photos in turn give the same as each alone."""
    folder = build(family, tmp_path)
    CheckpointConfig(grid=(4, 4), image_size=IMAGE_SIZE[family], refiner="none").write(folder)
    segmenter = Segmenter.from_pretrained(folder, device="cpu", dtype="float64")
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)) for _ in range(2)]
    first, second = (segmenter.encode(photo) for photo in photos)
    alone = segmenter.ask(first, "What is this?", limit=30)
    other = segmenter.ask(second, "What is this?", limit=30)
    assert segmenter.ask(first, "What is this?", limit=30).text == alone.text
    assert alone.stats["tokens"] <= 30 and (alone.stats["ended"] == "complete") == (alone.stats["tokens"] < 30)
    assert other.text != alone.text
    wrong = segmenter.vlm.text_ids("others *4\n")
    monkeypatch.setattr(chat, "propose", lambda *_: wrong)
    assert segmenter.ask(first, "What is this?", limit=30).text == alone.text


def test_the_embedded_checkpoint_says_that_it_does_not_chat(segmenter, examples):
    with pytest.raises(CheckpointError, match="does not chat.*positions 'cells'.*fine-tuned from a chat model"):
        segmenter.ask(examples / "two_cats.jpg", "How many cats are there?")


@pytest.mark.parametrize("question, options, match", [
    ("", {}, "1 to 2000 characters; this one has 0"), ("x" * (MAX_QUESTION + 1), {}, "has 2001 characters"),
    (None, {}, "this one has NoneType"),
    ("What is <image> here?", {}, "holds '<image>', a special token of this model"),
    ("What?", {"limit": 0}, "limit is 0"), ("What?", {"refine": "magic"}, "magic"),
])  # fmt: skip
def test_questions_that_cannot_be_asked(chatting, question, options, match):
    with pytest.raises(QueryError, match=match):
        chatting.ask(Image.new("RGB", (8, 8)), question, **options)


def test_a_question_that_leaves_no_room_is_refused(chatting, monkeypatch):
    config = SimpleNamespace(max_position_embeddings=20)
    monkeypatch.setattr(type(chatting.vlm.model.config), "get_text_config", lambda self: config)
    with pytest.raises(QueryError, match="leaves no room for an answer"):
        chatting.ask(Image.new("RGB", (8, 8)), "What is here? " * 3)


def test_a_models_own_end_tokens_count(chatting):
    """Chat models end a turn with a token that is not always the tokenizer's: it is in their generation settings."""
    tokenizer = SimpleNamespace(eos_token_id=3)
    for own, all_of_them in ((None, {3}), (7, {3, 7}), ([7, 9], {3, 7, 9})):
        model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=own))
        assert chat.end_tokens(SimpleNamespace(tokenizer=tokenizer, model=model)) == all_of_them
