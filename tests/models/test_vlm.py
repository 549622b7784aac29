"""Loading, chat inputs, positions and the real `CausalDecoder`, on a freshly built embedded model."""

from __future__ import annotations

import json
from os.path import commonprefix

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import codec
from t4s.errors import CheckpointError
from t4s.models import loading
from t4s.models.tiny.cell_positions import cells_written
from t4s.models.vlm import VLM

BODY = "others *1| dog *3\n others *4\n dog *4\n others *4\n"


def photo(seed: int, size: tuple[int, int] = (50, 40)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


@pytest.fixture(scope="module")
def folder(fresh_vlm: VLM, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    fresh_vlm.model.save_pretrained(path)
    fresh_vlm.processor.save_pretrained(path)
    fresh_vlm.config.write(path)
    return path


@pytest.mark.parametrize(
    "pieces, written",
    [
        (["others", " *4\n", " dog", " *2|", " others", " *2\n"], [0, 4, 4, 6, 6, 8]),
        (["others", " *", "1", "6", "\n", " "], [0, 0, 1, 16, 16, 16]),  # digits so far count
        (["zone 7", " *3|"], [0, 3]),  # a number in a label is not a count
        (["others", " * ", "5|"], [0, 0, 5]),
        (["*99999999999999999999"], [16]),  # never more than the grid
        (["**2*1"], [3]),
        ([], []),
    ],
)
def test_cells_written(pieces: list[str], written: list[int]):
    assert cells_written(pieces, 16) == written


def test_the_next_cell_is_always_equally_far_from_its_image_token(fresh_vlm: VLM):
    _, ids = fresh_vlm.preprocess(photo(0))
    assert fresh_vlm.prefix_positions(ids) == list(range(16))
    answer = [*fresh_vlm.answer_ids()[0], *fresh_vlm.text_ids(BODY)]
    positions = fresh_vlm.answer_positions(answer, 0)
    done = 0
    for token, position in zip(answer, positions, strict=True):
        done += int(fresh_vlm.piece(token)[2]) if fresh_vlm.piece(token).startswith(" *") else 0
        assert position - done == 16
    assert done == 16
    assert min(fresh_vlm.suffix_positions(3, 16)) > max(positions)  # the question lies out of the way


def test_prefix_and_suffix_are_the_whole_prompt(fresh_vlm: VLM):
    inputs, prefix = fresh_vlm.preprocess(photo(0))
    text = fresh_vlm.chat("dog")
    whole = fresh_vlm.processor(images=[photo(0).resize((64, 64))], text=[text])["input_ids"][0]
    assert [*prefix, *fresh_vlm.suffix("dog")] == list(whole)
    assert set(inputs) == {"pixel_values"}


def test_cached_passes_equal_one_whole_pass(fresh_vlm: VLM):
    """Prefix, question and chunks of the answer through the cache give the logits of everything at once."""
    encoded, image = fresh_vlm.encode(photo(1)), photo(1)
    body = fresh_vlm.text_ids(BODY)
    decoder = fresh_vlm.begin(encoded, "dog")
    chunks = [decoder.last[None], decoder.feed(body[:5]), decoder.feed(body[5:])]
    assert decoder.forwards == 2
    inputs, prefix = fresh_vlm.preprocess(image)
    suffix, before = fresh_vlm.suffix("dog"), fresh_vlm.answer_ids()[0]
    ids = [*prefix, *suffix, *before, *body]
    positions = [
        *fresh_vlm.prefix_positions(prefix),
        *fresh_vlm.suffix_positions(len(suffix), len(prefix)),
        *fresh_vlm.answer_positions([*before, *body], 0),
    ]
    whole = fresh_vlm.model(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([positions]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        **inputs,
    ).logits[0, -len(body) - 1 :]
    torch.testing.assert_close(torch.cat(chunks), whole, atol=1e-4, rtol=1e-4)


def test_crop_forgets_exactly_what_it_says(fresh_vlm: VLM):
    decoder = fresh_vlm.begin(fresh_vlm.encode(photo(1)), "dog")
    body = fresh_vlm.text_ids(BODY)
    first = decoder.feed(body)
    decoder.crop(3)
    decoder.feed(fresh_vlm.text_ids(" dog *4\n"))
    decoder.crop(3)
    decoder.crop(3)
    torch.testing.assert_close(decoder.feed(body[3:]), first[3:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ahead", ["", "others *1|"])
@pytest.mark.parametrize("second", [" others *2| dog *1\n dog *4\n", " dog *2| others *1\n", " dog *3\n dog *4\n"])
def test_a_continuation_beside_another_leaves_no_trace(fresh_vlm: VLM, ahead: str, second: str):
    """Two bodies in one pass say what each says in a pass of its own, and the first one goes on as if alone."""
    encoded = fresh_vlm.encode(photo(1))
    first, second = map(fresh_vlm.text_ids, (" dog *3\n others *4\n", second))
    both, one, two = (fresh_vlm.begin(encoded, "dog") for _ in range(3))
    if ahead:
        for decoder in (both, one, two):
            decoder.feed(fresh_vlm.text_ids(ahead))
    shared = len(commonprefix([first, second]))
    logits = both.feed(first, beside=second[shared:], shared=shared)
    alone = torch.cat([one.feed(first), two.feed(second)[shared:]])
    torch.testing.assert_close(logits, alone, atol=1e-4, rtol=1e-4)
    assert both.fed == one.fed and both.forwards == one.forwards and torch.equal(both.last, logits[len(first) - 1])
    more = fresh_vlm.text_ids(" dog *4\n")
    torch.testing.assert_close(both.feed(more), one.feed(more), atol=1e-4, rtol=1e-4)


def test_two_interleaved_photos_do_not_mix(fresh_vlm: VLM):
    body = fresh_vlm.text_ids(BODY)
    alone = [fresh_vlm.begin(fresh_vlm.encode(photo(seed)), "dog").feed(body) for seed in (1, 2)]
    decoders = [fresh_vlm.begin(encoded, "dog") for encoded in map(fresh_vlm.encode, map(photo, (1, 2)))]
    halves = [[decoder.feed(part) for decoder in decoders] for part in (body[:4], body[4:])]
    for i in (0, 1):
        torch.testing.assert_close(torch.cat([halves[0][i], halves[1][i]]), alone[i])
    assert not torch.allclose(alone[0], alone[1])


def test_one_encoded_photo_serves_many_phrases(fresh_vlm: VLM):
    encoded = fresh_vlm.encode(photo(3))
    first = fresh_vlm.begin(encoded, "dog").last
    fresh_vlm.begin(encoded, ("cat", "dog")).feed(fresh_vlm.text_ids(BODY))
    assert torch.equal(fresh_vlm.begin(encoded, "dog").last, first)
    assert fresh_vlm.question(("cat", "dog")) == "cat, dog"


def test_saved_and_loaded_again(fresh_vlm: VLM, folder):
    again = loading.load(folder, device="cpu")
    assert again.config == fresh_vlm.config
    body = fresh_vlm.text_ids(BODY)
    one, two = (b.begin(b.encode(photo(4)), "dog").feed(body) for b in (fresh_vlm, again))
    torch.testing.assert_close(one, two)


def change(folder, tmp_path, **changes):
    """A copy of the checkpoint's t4s.json alone, changed."""
    content = json.loads((folder / "t4s.json").read_text()) | changes
    (tmp_path / "t4s.json").write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    return tmp_path


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"format_version": 99}, "format_version 99"),
        ({"grid": [0, 16]}, "allowed are 1 to 64"),
        ({"classes_per_query": 0}, "classes_per_query 0, allowed are whole numbers from 1"),
        ({"classes_per_query": True}, "classes_per_query True"),
        ({"no_target_threshold": 1.0}, "no_target_threshold 1.0, allowed are numbers between 0 and 1"),
        ({"names": ["dog"], "positions": "sequence"}, "names, which only cells of the embedded kind are taught"),
        ({"no_target_threshold": 0}, "no_target_threshold 0"),
        ({"no_target_threshold": "often"}, "no_target_threshold 'often'"),
        ({"cell_fusion_weight": 0.0}, "cell_fusion_weight 0.0, allowed are numbers between 0 and 100"),
        ({"cell_fusion_weight": -1.0}, "cell_fusion_weight -1.0"),
        ({"cell_fusion_weight": 100.0}, "cell_fusion_weight 100.0"),
        ({"cell_fusion_weight": "much"}, "cell_fusion_weight 'much'"),
        ({"cell_fusion_weight": True}, "cell_fusion_weight True"),
        (
            {"cell_fusion_weight": 1.0, "positions": "sequence"},
            "cell_fusion_weight, which only a checkpoint of the embedded kind has",
        ),
        ({"grid": "16x16"}, "cannot be read"),
        ({"grid": ...}, "cannot be read"),
        ({"positions": "magic"}, "sequence"),
        ({"question": "Segment it."}, "without {query}"),
        ({"answer": "Here: {body}"}, "without <seg>"),
        ({"colour": "blue"}, "does not know: colour"),
    ],
)
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


def test_the_true_text_of_a_grid_can_be_trained_on(fresh_vlm: VLM):
    """Before, inside and after the body are tokenised apart, and together spell the answer."""
    grid = codec.decode(BODY)
    before, body, after = fresh_vlm.answer_ids(codec.encode(grid))
    assert fresh_vlm.tokenizer.decode(before + body + after[:-1]) == f"<seg>{BODY}</seg>"
    assert after[-1] == fresh_vlm.tokenizer.eos_token_id
