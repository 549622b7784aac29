"""Loading, chat inputs, positions and the real `Continuation`, on a freshly built embedded model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import codec, loading
from t4s.backbone import Backbone, cells_written
from t4s.errors import CheckpointError

BODY = "others *1| dog *3\n others *4\n dog *4\n others *4\n"


def photo(seed: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture(scope="module")
def folder(fresh_backbone: Backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    fresh_backbone.model.save_pretrained(path)
    fresh_backbone.processor.save_pretrained(path)
    fresh_backbone.format.write(path)
    return path


@pytest.mark.parametrize("pieces, written", [
    (["others", " *4\n", " dog", " *2|", " others", " *2\n"], [0, 4, 4, 6, 6, 8]),
    (["others", " *", "1", "6", "\n", " "], [0, 0, 1, 16, 16, 16]),  # digits so far count
    (["zone 7", " *3|"], [0, 3]),  # a number in a label is not a count
    (["others", " * ", "5|"], [0, 0, 5]),
    (["*99999999999999999999"], [16]),  # never more than the grid
    (["**2*1"], [3]),
    ([], []),
])  # fmt: skip
def test_cells_written(pieces: list[str], written: list[int]):
    assert cells_written(pieces, 16) == written


def test_the_next_cell_is_always_equally_far_from_its_image_token(fresh_backbone: Backbone):
    _, ids = fresh_backbone.look(photo(0))
    assert fresh_backbone.prefix_positions(ids) == list(range(16))
    answer = [*fresh_backbone.answer_ids()[0], *fresh_backbone.text_ids(BODY)]
    positions = fresh_backbone.answer_positions(answer, 0)
    done = 0
    for token, position in zip(answer, positions, strict=True):
        done += int(fresh_backbone.piece(token)[2]) if fresh_backbone.piece(token).startswith(" *") else 0
        assert position - done == 16
    assert done == 16
    assert min(fresh_backbone.suffix_positions(3, 16)) > max(positions)  # the question lies out of the way


def test_prefix_and_suffix_are_the_whole_prompt(fresh_backbone: Backbone):
    inputs, prefix = fresh_backbone.look(photo(0))
    text = fresh_backbone.chat("dog")
    whole = fresh_backbone.processor(images=[photo(0).resize((64, 64))], text=[text])["input_ids"][0]
    assert [*prefix, *fresh_backbone.suffix("dog")] == list(whole)
    assert set(inputs) == {"pixel_values"}


def test_cached_passes_equal_one_whole_pass(fresh_backbone: Backbone):
    """Prefix, question and chunks of the answer through the cache give the logits of everything at once."""
    encoded, image = fresh_backbone.encode(photo(1)), photo(1)
    body = fresh_backbone.text_ids(BODY)
    writing = fresh_backbone.begin(encoded, "dog")
    chunks = [writing.last[None], writing.feed(body[:5]), writing.feed(body[5:])]
    assert writing.forwards == 2
    inputs, prefix = fresh_backbone.look(image)
    suffix, before = fresh_backbone.suffix("dog"), fresh_backbone.answer_ids()[0]
    ids = [*prefix, *suffix, *before, *body]
    positions = [*fresh_backbone.prefix_positions(prefix), *fresh_backbone.suffix_positions(len(suffix), len(prefix)),
                 *fresh_backbone.answer_positions([*before, *body], 0)]  # fmt: skip
    whole = fresh_backbone.model(
        input_ids=torch.tensor([ids]), position_ids=torch.tensor([positions]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long), **inputs,
    ).logits[0, -len(body) - 1 :]  # fmt: skip
    torch.testing.assert_close(torch.cat(chunks), whole, atol=1e-4, rtol=1e-4)


def test_crop_forgets_exactly_what_it_says(fresh_backbone: Backbone):
    writing = fresh_backbone.begin(fresh_backbone.encode(photo(1)), "dog")
    body = fresh_backbone.text_ids(BODY)
    first = writing.feed(body)
    writing.crop(3)
    writing.feed(fresh_backbone.text_ids(" dog *4\n"))
    writing.crop(3)
    writing.crop(3)
    torch.testing.assert_close(writing.feed(body[3:]), first[3:], atol=1e-4, rtol=1e-4)


def test_two_interleaved_photos_do_not_mix(fresh_backbone: Backbone):
    body = fresh_backbone.text_ids(BODY)
    alone = [fresh_backbone.begin(fresh_backbone.encode(photo(seed)), "dog").feed(body) for seed in (1, 2)]
    writings = [fresh_backbone.begin(encoded, "dog") for encoded in map(fresh_backbone.encode, map(photo, (1, 2)))]
    halves = [[writing.feed(part) for writing in writings] for part in (body[:4], body[4:])]
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([halves[0][i], halves[1][i]]), alone[i])
    assert not torch.allclose(alone[0], alone[1])


def test_one_encoded_photo_serves_many_phrases(fresh_backbone: Backbone):
    encoded = fresh_backbone.encode(photo(3))
    first = fresh_backbone.begin(encoded, "dog").last
    fresh_backbone.begin(encoded, ("cat", "dog")).feed(fresh_backbone.text_ids(BODY))
    assert torch.equal(fresh_backbone.begin(encoded, "dog").last, first)
    assert fresh_backbone.question(("cat", "dog")) == "cat, dog"


def test_saved_and_loaded_again(fresh_backbone: Backbone, folder):
    again = loading.load(folder, device="cpu")
    assert again.format == fresh_backbone.format
    body = fresh_backbone.text_ids(BODY)
    one, two = (b.begin(b.encode(photo(4)), "dog").feed(body) for b in (fresh_backbone, again))
    torch.testing.assert_close(one, two)


def change(folder, tmp_path, **changes):
    """A copy of the checkpoint's t4s.json alone, changed."""
    content = json.loads((folder / "t4s.json").read_text()) | changes
    (tmp_path / "t4s.json").write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return tmp_path


@pytest.mark.parametrize("changes, says", [
    ({"format_version": 99}, "format_version 99"),
    ({"grid": [0, 16]}, "allowed are 1 to 64"),
    ({"at_once": 0}, "at_once 0, allowed are whole numbers from 1"),
    ({"at_once": True}, "at_once True"),
    ({"absent_above": 1.0}, "absent_above 1.0, allowed are numbers between 0 and 1"),
    ({"names": ["dog"], "positions": "sequence"}, "names, which only cells of the embedded kind are taught"),
    ({"absent_above": 0}, "absent_above 0"),
    ({"absent_above": "often"}, "absent_above 'often'"),
    ({"cell_weight": 0.0}, "cell_weight 0.0, allowed are numbers between 0 and 100"),
    ({"cell_weight": -1.0}, "cell_weight -1.0"),
    ({"cell_weight": 100.0}, "cell_weight 100.0"),
    ({"cell_weight": "much"}, "cell_weight 'much'"),
    ({"cell_weight": True}, "cell_weight True"),
    ({"cell_weight": 1.0, "positions": "sequence"}, "cell_weight, which only a checkpoint of the embedded kind has"),
    ({"grid": "16x16"}, "cannot be read"),
    ({"grid": ...}, "cannot be read"),
    ({"positions": "magic"}, "sequence"),
    ({"question": "Segment it."}, "without {query}"),
    ({"answer": "Here: {body}"}, "without <seg>"),
    ({"colour": "blue"}, "does not know: colour"),
])  # fmt: skip
def test_a_foreign_format_is_refused(folder, tmp_path, changes: dict, says: str):
    with pytest.raises(CheckpointError, match=says):
        loading.load(change(folder, tmp_path, **changes))


def test_checkpoints_that_cannot_be_loaded(folder, tmp_path):
    with pytest.raises(CheckpointError, match="has no t4s.json.*t4s/train.py"):
        loading.load(tmp_path)
    change(folder, tmp_path)
    with pytest.raises(CheckpointError, match="holds no .safetensors weights"):
        loading.load(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="pickled weights .pytorch_model.bin."):
        loading.load(tmp_path)
    with pytest.raises(CheckpointError, match="neither a folder nor a Hub id"):
        loading.load("no/such/folder")
    with pytest.raises(CheckpointError, match="could not be fetched from the Hub"):
        loading.load("somebody/no-such-model")
    with pytest.raises(CheckpointError, match="needs a CUDA device"):
        loading.load(folder, device="cpu", quantize="4bit")
    with pytest.raises(CheckpointError, match="dtype is one of"):
        loading.load(folder, device="cpu", dtype="int7")


def test_the_true_text_of_a_grid_can_be_trained_on(fresh_backbone: Backbone):
    """Before, inside and after the body are tokenised apart, and together spell the answer."""
    grid = codec.decode(BODY)
    before, body, after = fresh_backbone.answer_ids(codec.encode(grid))
    assert fresh_backbone.tokenizer.decode(before + body + after[:-1]) == f"<seg>{BODY}</seg>"
    assert after[-1] == fresh_backbone.tokenizer.eos_token_id
