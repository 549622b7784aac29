"""Each family through the front door: the same figures as its own plain call, and no photo disturbs another."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import codec
from t4s.errors import CheckpointError
from t4s.models import checkpoint, loading
from t4s.models.vlm import VLM
from t4s.records import Sample
from t4s.segmenter.segmenter import Segmenter
from t4s.training import collator
from tests.support.families import IMAGE_SIZE, build, here

BODY = "others *3| dog *1\n dog *4\n"


@pytest.fixture(scope="module", params=here())
def loaded(request, tmp_path_factory) -> VLM:
    folder = build(request.param, tmp_path_factory.mktemp(request.param))
    checkpoint.CheckpointConfig(grid=(4, 4), image_size=IMAGE_SIZE[request.param], refiner="smooth").write(folder)
    return loading.load(folder, device="cpu")


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 70, 3), np.uint8))


def test_the_opening_is_seen_as_in_one_plain_call(loaded):
    """Positions, masks and image features given piece by piece against what the family makes of the whole prompt."""
    size, question, opening = loaded.config.image_size, loaded.question("dog"), loaded.answer_ids()[0]
    square = photo(1).resize((size, size), Image.Resampling.BICUBIC)
    text = loaded.processor.image_token + question if loaded.bidirectional_prefix else loaded.chat(question)
    inputs = dict(loaded.processor(images=[square], text=[text], return_tensors="pt", **loaded.one_tile))
    inputs.pop("labels", None)
    for name, value in (("mm_token_type_ids", 0), ("token_type_ids", 1), ("attention_mask", 1)):
        if name in inputs:
            more = torch.full((1, len(opening)), value, dtype=inputs[name].dtype)
            inputs[name] = torch.cat([inputs[name], more], 1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([opening])], 1)
    with torch.inference_mode():
        whole = loaded.model(**inputs).logits[0, -1]
    assert torch.allclose(loaded.begin(loaded.encode(photo(1)), "dog").last, whole, atol=1e-4)


def test_two_interleaved_photos_are_as_one_after_the_other(loaded):
    """Qwen-VL keeps position offsets on the model: a second photo moved what the first had still to write."""
    ids = loaded.text_ids(BODY)
    first = loaded.encode(photo(1))
    alone = loaded.begin(first, "dog").feed(ids)
    second = loaded.encode(photo(2))
    one, other = loaded.begin(first, "dog"), loaded.begin(second, "cat")
    begun = one.feed(ids[:3])
    other.feed(ids[:4])
    assert torch.allclose(torch.cat([begun, one.feed(ids[3:])]), alone, atol=1e-4)


def test_training_sees_what_decoding_sees(loaded):
    """The logits over an answer in a training batch (positions, block mask, padding) and in the cache, one by one."""
    grid = codec.DescriptorGrid(np.array([[0, 0, 0, 1]] * 4), ("others", "dog"))
    truth = np.kron(grid.ids, np.ones((10, 10), int)).astype(np.int16)
    asked = [Sample(name, "test", photo(1), name, ("others", "dog"), truth) for name in ("dog", "cat")]
    rows = [
        collator.build_row(loaded, asked[: 1 if loaded.bidirectional_prefix else 2]),
        collator.build_row(loaded, asked[:1]),
    ]
    inputs = collator.collate(rows, loaded.tokenizer.pad_token_id)
    labels = inputs.pop("labels")
    with torch.inference_mode():
        logits = loaded.model(**inputs).logits
    body = loaded.answer_ids(codec.encode(grid))[1]
    writing = loaded.begin(loaded.encode(photo(1)), asked[rows[0].segments[-1] - 1].query)
    expected = torch.cat([writing.last[None], writing.feed(body)])
    # behind the last body token
    end = int((labels[0] != collator.IGNORE).nonzero()[-1]) - len(loaded.answer_ids()[2]) + 1
    assert torch.allclose(logits[0, end - len(body) - 1 : end], expected, atol=1e-3)


def test_fast_writes_what_constrained_writes_in_fewer_passes(loaded):
    segment = Segmenter(loaded)
    fast, slow = (segment(photo(3), "dog", decoding=decoding) for decoding in ("fast", "constrained"))
    assert fast.text == slow.text and fast.grid.shape == (4, 4) and not fast.faults
    assert fast.stats["forwards"] < slow.stats["forwards"]


@pytest.mark.skipif(here() == tuple(IMAGE_SIZE), reason="torchvision is installed")
@pytest.mark.parametrize("kind", ["Qwen2_5_VL", "SmolVLM"])
def test_a_processor_that_needs_torchvision_says_so(kind, tmp_path):
    folder = build("idefics3", tmp_path)
    config = json.loads((folder / "processor_config.json").read_text())
    config["processor_class"] = f"{kind}Processor"
    config["video_processor"] = {"video_processor_type": f"{kind.replace('2_5_', '2')}VideoProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"needs packages.*t4s\[families\].*Torchvision"):
        loading.load_processor(folder)
