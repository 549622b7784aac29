"""The tiny models that stand for each family: they load, look at the photo, and their caches can be cropped."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from tests.support.families import IMAGE_SIZE, NEEDS_TORCHVISION, SIDE, build, here, with_torchvision

QUESTION, BODY = "Please segment only the dog in the image.", "others *3| dog *13\n others *16\n"


@pytest.fixture(scope="module", params=here())
def loaded(request, tmp_path_factory):
    """(family, processor, model) as transformers' Auto classes load them from the folder."""
    folder = build(request.param, tmp_path_factory.mktemp(request.param))
    backend = {} if request.param in NEEDS_TORCHVISION else {"backend": "pil"}  # a video processor has no PIL backend
    processor = AutoProcessor.from_pretrained(folder, **backend)
    assert list(folder.glob("*.safetensors"))
    return request.param, processor, AutoModelForImageTextToText.from_pretrained(folder).eval()


def prefill(loaded, seed: int):
    """Logits behind the prompt with a random photo, and the cache."""
    family, processor, model = loaded
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    text = "<image>" + QUESTION
    if processor.chat_template:
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    side = IMAGE_SIZE[family]
    photo = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))
    inputs, cache = processor(images=[photo], text=[text], return_tensors="pt"), DynamicCache()
    inputs.pop("labels", None)
    with torch.inference_mode():
        return model(**inputs, cache=cache, use_cache=True).logits[0, -1], cache


def test_the_photo_is_seen_as_one_square(loaded):
    family, processor, model = loaded
    first, cache = prefill(loaded, 0)
    other, _ = prefill(loaded, 1)
    assert first.isfinite().all() and not torch.allclose(first, other, atol=1e-3)
    assert first.std() > 0.5, "wide enough apart that the best token is no matter of rounding"
    assert cache.get_seq_length() < 64, "no tiles: the photo is a few dozen tokens"


def test_feeding_cropping_and_feeding_again_is_the_same_as_one_by_one(loaded):
    """What every fast loop rests on."""
    family, processor, model = loaded
    ids = processor.tokenizer(BODY, add_special_tokens=False)["input_ids"][:6]

    def feed(some, cache):
        with torch.inference_mode():
            start = cache.get_seq_length()
            positions = {} if "qwen" in family else {"position_ids": torch.arange(start, start + len(some))[None]}
            return model(input_ids=torch.tensor([some]), cache=cache, use_cache=True, **positions).logits[0]

    _, cache = prefill(loaded, 0)
    together = feed(ids, cache)
    cache.crop(-4)  # a negative number: how many to remove
    assert torch.allclose(feed(ids[2:], cache), together[2:], atol=1e-4)
    cache.crop(-6)
    one_by_one = torch.cat([feed([token], cache) for token in ids])
    assert torch.allclose(one_by_one, together, atol=1e-4)


def test_the_tokenizer_spells_a_body_and_reads_it_back(loaded):
    _, processor, _ = loaded
    ids = processor.tokenizer(BODY, add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.decode(ids) == BODY
    assert len(ids) < len(BODY) and "<seg>" not in processor.tokenizer.all_special_tokens


@pytest.mark.parametrize("family", [name for name in IMAGE_SIZE if name not in NEEDS_TORCHVISION][:1])
def test_a_seed_makes_the_same_model(family, tmp_path):
    folders = [build(family, tmp_path / str(i), seed) for i, seed in enumerate((0, 0, 1))]
    first, again, other = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == again != other


@pytest.mark.skipif(here() == tuple(IMAGE_SIZE), reason="torchvision is installed: this process has run them all")
@pytest.mark.skipif(not SIDE.is_dir(), reason=f"no torchvision in {SIDE}: `sh tests/run` puts it there")
@pytest.mark.parametrize("families", [
    NEEDS_TORCHVISION[:1], pytest.param(NEEDS_TORCHVISION[1:], marks=pytest.mark.long),
], ids=["one", "the others"])  # fmt: skip
def test_the_families_that_need_torchvision(tmp_path, families):
    """In a process that finds torchvision: this file and every other one that builds families, for those names."""
    root = Path(__file__).resolve().parents[2]
    files = [
        file
        for file in sorted((root / "tests").rglob("test_*.py"))
        if "tests.support.families import" in file.read_text()
    ]
    names = " or ".join(families)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", names, *files]
    run = subprocess.run(command, cwd=root, env=with_torchvision(tmp_path), capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
