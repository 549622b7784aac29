"""Loading: weights that do not fit, files that are broken, devices that are not there; each is a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from t4s.errors import CheckpointError
from t4s.models import loading
from t4s.models.vlm import VLM

WEIGHTS = "model.safetensors"
TENSOR = "model.vision_tower.stem.conv.weight"


@pytest.fixture(scope="module")
def saved(fresh_vlm: VLM, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    fresh_vlm.model.save_pretrained(folder)
    fresh_vlm.processor.save_pretrained(folder)
    fresh_vlm.config.write(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def stored_name(folder: Path, part: str) -> str:
    return next(name for name in load_file(folder / WEIGHTS) if part in name)


def test_what_was_saved_loads(folder):
    assert loading.load(folder, device="cpu").model.device.type == "cpu"


@pytest.mark.parametrize("part", ["embed_tokens", "stem.conv", "layers.1"])
def test_missing_weights_are_named_and_not_replaced(folder, part):
    name = stored_name(folder, part)
    change_weights(folder, lambda weights: weights.pop(name))
    with pytest.raises(CheckpointError, match=f"do not fit .*missing: .*{part}"):
        loading.load(folder, device="cpu")


def test_a_file_without_any_of_the_weights(folder):
    save_file({"other": torch.zeros(1)}, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing: .* more; unexpected: other"):
        loading.load(folder, device="cpu")


def test_unexpected_weights_are_named(folder):
    change_weights(folder, lambda weights: weights.update({"model.vision_tower.extra": torch.zeros(3)}))
    with pytest.raises(CheckpointError, match="unexpected: model.vision_tower.extra"):
        loading.load(folder, device="cpu")


def test_weights_of_another_shape_are_named(folder):
    name = stored_name(folder, "stem.conv")
    change_weights(folder, lambda weights: weights.update({name: torch.zeros(8, 3, 3, 3)}))
    with pytest.raises(CheckpointError, match="other shape: .*stem.conv.weight"):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_found_when_loading(folder, value):
    name = stored_name(folder, "mixers.0.up.weight")
    change_weights(folder, lambda weights: weights[name].view(-1)[3:4].fill_(value))
    with pytest.raises(CheckpointError, match="not finite .*mixers.0.up.weight"):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("damage", [
    lambda data: data[: len(data) // 2],
    lambda data: b"",
    lambda data: b"\xff" * 8 + data[8:],
    lambda data: data[:8] + b"{" * 50 + data[58:],
])  # fmt: skip
def test_a_damaged_weight_file_is_named(folder, damage):
    file = folder / WEIGHTS
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is not a whole safetensors file"):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("file, content, says", [
    ("config.json", "{", "cannot be loaded as an image-text-to-text model"),
    ("config.json", '{"model_type": "no_such_model"}', "cannot be loaded as an image-text-to-text model"),
    ("config.json", "[]", "cannot be loaded as an image-text-to-text model"),
    ("tokenizer.json", "{}", "processor of .* cannot be loaded"),
    ("tokenizer.json", "{", "processor of .* cannot be loaded"),
    ("processor_config.json", "{", "processor of .* cannot be loaded"),
    ("tokenizer_config.json", "[", "processor of .* cannot be loaded"),
])  # fmt: skip
def test_broken_configurations_are_sentences(folder, file, content, says):
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=says):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("template", [
    "{% for message in messages %}",  # never closed
    "{{ messages[0].missing.attribute }}",
    "{{ raise_exception('no') }}",
    "{{ messages[0]['content'] + 1 }}",
    "a template without a place for the photo",
])  # fmt: skip
def test_a_chat_template_that_fails(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(CheckpointError, match="chat template of .* does not take a photo and a question"):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("path, value, says", [
    (("text_config", "hidden_size"), 32_768, "describes .* weights, and its files hold"),
    (("vision_config", "hidden_size"), 10**9, "describes .* weights, and its files hold"),
    (("text_config", "vocab_size"), 10**9, "describes a vocabulary of 1,000,000,000 tokens, allowed are 1,000,000;"),
    (("text_config", "num_hidden_layers"), 10**9, "has more than 1,000 num_hidden_layers"),
    (("text_config", "num_hidden_layers"), float("inf"), "has more than 1,000 num_hidden_layers"),
    (("text_config", "hidden_size"), 1.5, "cannot be loaded as an image-text-to-text model"),
    (("text_config", "layer_types"), "x", "cannot be loaded as an image-text-to-text model"),
    (("text_config", "tie_word_embeddings"), None, "cannot be loaded as an image-text-to-text model"),
])  # fmt: skip
def test_a_configuration_takes_no_memory_before_it_is_checked(folder, path, value, says):
    config = json.loads((folder / "config.json").read_text())
    config[path[0]][path[1]] = value
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=says):
        loading.load(folder, device="cpu")


@pytest.mark.parametrize("path, value", [
    (("image_processor", "image_std"), ["x", 1, 1]), (("patch_size",), float("nan")), (("processor_class",), "../x"),
    (("image_processor", "size"), True),
])  # fmt: skip
def test_a_processor_that_takes_no_photo(folder, path, value):
    config = json.loads((folder / "processor_config.json").read_text())
    (config if len(path) == 1 else config[path[0]])[path[-1]] = value
    (folder / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="The processor of "):
        loading.load(folder, device="cpu")


def test_a_body_that_does_not_exist(folder):
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["body"] = "lite9"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="body is 'lite9'.* allowed are lite0, lite2"):
        loading.load(folder, device="cpu")


# --- devices and number types


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_what_torch_accepts_works(device):
    assert loading.resolve_device(device).type == "cpu"


@pytest.mark.parametrize("device", ["gpu", "", "meta", True, 1.5, "cpu:1:2", "no such device"])
def test_what_is_no_device_is_a_sentence(device):
    with pytest.raises(CheckpointError, match="device is .*leave it out to choose automatically"):
        loading.resolve_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", 0, torch.device("cuda", 1)])
def test_cuda_where_there_is_none(device):
    with pytest.raises(CheckpointError, match="device is 'cuda.*', which this machine does not have"):
        loading.resolve_device(device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="has MPS")
def test_mps_where_there_is_none():
    with pytest.raises(CheckpointError, match="device is 'mps', which this machine does not have"):
        loading.resolve_device("mps")


@pytest.mark.parametrize("cuda, mps, chosen", [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_the_automatic_choice(monkeypatch, cuda, mps, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert loading.resolve_device(None).type == chosen


@pytest.mark.parametrize("dtype", ["int7", "int8", torch.int64, 32])
def test_number_types_that_models_do_not_run_in(dtype):
    with pytest.raises(CheckpointError, match="dtype is one of float32, bfloat16, float16, float64"):
        loading.resolve_dtype(dtype, torch.device("cpu"))


def test_mps_has_no_float64():
    with pytest.raises(CheckpointError, match="float64, which MPS does not have"):
        loading.resolve_dtype("float64", torch.device("mps"))
