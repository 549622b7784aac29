"""Each family: two LoRA steps from the command line, saved, loaded again on its base, and a valid answer."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import Segmenter, codec, train
from tests.support.families import IMAGE_SIZE, build, here

STEPS = ["--dataset", "synthetic", "--grid", "4", "4", "--steps", "2", "--batch", "1", "--total-batch", "2",
         "--queries-per-image", "1", "--lora-rank", "4", "--threads", "1", "--lr", "0.01"]  # fmt: skip


@pytest.mark.parametrize("family", here())
def test_two_steps_saved_and_loaded_on_the_base(family, tmp_path):
    base, out = build(family, tmp_path / "base"), tmp_path / "out"
    assert train.main(["--base", str(base), "--out", str(out), *STEPS]) == 0
    config = json.loads((out / "t4s.json").read_text())
    assert config["base_model"] == str(base.resolve()) and config["image_size"] == IMAGE_SIZE[family]
    assert not (out / "model.safetensors").exists() and (out / "adapter_model.safetensors").exists()
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    segment = Segmenter.from_pretrained(out, device="cpu")
    answer = segment(photo, "dog", refine="none", decoding="fast")
    assert codec.decode(answer.text, (4, 4)) == answer.grid and not answer.faults

    from t4s.models import loading

    plain = loading.load_model(base, segment.vlm.config, torch.float32, "cpu")
    learnt, first = (dict(model.named_parameters()) for model in (segment.vlm.model, plain))
    moved = {name for name in first if not torch.equal(first[name], learnt[name])}
    assert any("q_proj" in name for name in moved) and any("down_proj" in name for name in moved)
    between = ("projector", "connector", "aligner", "merger")
    assert any(word in name for word in between for name in moved), "the projector was not trained"
    assert not [name for name in moved if "proj" not in name and not any(word in name for word in between)]
