"""What is in each cell: targets from labelled photos, and the lesson that the tower goes on with beside the answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import DataError, train
from t4s.models import loading
from t4s.models.tiny.name_head import BIAS, SCALE
from t4s.training import losses
from t4s.training.losses import CellBatches, CellLoss, class_shares, open_labelled

SMALL = ["--width", "32", "--layers", "1", "--grid", "4", "4", "--batch", "2", "--queries-per-image", "2",
         "--threads", "1", "--save-steps", "2", "--steps", "2"]  # fmt: skip


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two photos of a source that labels cats and potted plants; the upper half of the second is a cat."""
    folder = tmp_path / "photos"
    folder.mkdir()
    upper = np.zeros((64, 64), np.uint8)
    upper[:32] = 1
    lines = []
    plant, cat = {"2": "potted plant"}, {"1": "cat"}
    for name, colour, ids, classes in (("a", "green", np.full_like(upper, 2), plant), ("b", "orange", upper, cat)):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.jpg")
        Image.fromarray(ids).save(folder / f"{name}.png")
        files = {"image": f"{name}.jpg", "mask": f"{name}.png"}
        lines.append(files | {"source": "home", "split": "train", "classes": classes})
    (folder / "index.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


@pytest.fixture
def learner(fresh_vlm):
    """The small model, everything to be learnt, and as it was afterwards."""
    before = {name: weight.clone() for name, weight in fresh_vlm.model.state_dict().items()}
    fresh_vlm.model.requires_grad_(True)
    yield fresh_vlm
    fresh_vlm.model.load_state_dict(before)
    fresh_vlm.model.requires_grad_(False).zero_grad(set_to_none=True)


@pytest.mark.parametrize(
    "ids, void, target, known",
    [
        ([[1, 1, 0, 0], [1, 1, 0, 2]], (), [[1, 0], [0, 0.25]], [1, 1]),
        ([[1, 9, 0, 2], [1, 1, 2, 2]], (9,), [[1, 0], [0, 0.75]], [0.75, 1]),
        ([[9, 9, 3, 3], [9, 9, 3, 3]], (9,), [[0, 0], [0, 0]], [0, 1]),
    ],
)
def test_a_cell_holds_a_share_of_each_name(ids, void, target, known):
    found, share = class_shares(np.array(ids), {1: 0, 2: 1}, void, 2, (1, 2))
    assert found.tolist() == target and share.tolist() == known


def test_a_batch_is_a_function_of_its_step(photos):
    batches = CellBatches(open_labelled(f"folder:{photos}@train"), 3, 32, (4, 4), seed=1)
    assert batches.names == ["cat", "potted plant"]
    (pixels, targets, weights), again, other = batches(0), batches(0), batches(1)
    assert pixels.shape == (3, 3, 32, 32) and targets.shape == weights.shape == (3, 16, 2)
    assert all(torch.equal(one, two) for one, two in zip((pixels, targets, weights), again, strict=True))
    assert not torch.equal(pixels, other[0])


def test_names_that_a_source_does_not_label_are_not_asked(photos):
    line = json.loads((photos / "index.jsonl").read_text().splitlines()[0])
    with (photos / "index.jsonl").open("a") as index:
        index.write("\n" + json.dumps(line | {"source": "street", "classes": {"2": "road"}}))
    dataset = open_labelled(f"folder:{photos}@train")
    batches = CellBatches(dataset, 24, 32, (4, 4), seed=0)
    _, _, weights = batches(0)
    asked = {tuple(row) for row in weights.flatten(0, 1).tolist()}
    assert batches.names == ["cat", "potted plant", "road"] and asked == {(1, 1, 0), (0, 0, 1)}


def test_the_loss_is_least_where_cells_lie_beside_their_words(learner, photos, monkeypatch):
    """Cells that are the words' own embeddings answer as surely as the scale allows; swapped, wrongly."""
    lesson = CellLoss(learner, open_labelled(f"folder:{photos}@train"), seed=0, bf16=False)
    _, targets, weights = lesson.batches(0, 0)
    names = [learner.text_ids(name) for name in lesson.batches.names]
    lesson.spellings = [[tokens] for tokens in names]

    def with_cells(order: list[int]) -> float:
        vectors = lesson.class_vectors(names)[order]
        nothing = -vectors.sum(0)
        cells = targets @ vectors + (1 - targets.sum(-1, keepdim=True)) * nothing
        monkeypatch.setattr(learner.model.model.multi_modal_projector, "forward", lambda _: cells)
        return lesson(0).item() / losses.CELL_LOSS_WEIGHT

    whole = (targets == targets.round()).all(-1, keepdim=True)
    lesson.batches = lambda *_: (torch.zeros(len(targets), 3, 64, 64), targets, weights * whole)
    right, swapped = with_cells([0, 1]), with_cells([1, 0])
    assert right < 0.15 < 2 < swapped
    assert SCALE + BIAS == 8


def test_what_the_lesson_teaches(learner, photos):
    """Tower, projector and the names' words learn; the language model's layers are left to the answers."""
    lesson = CellLoss(learner, open_labelled(f"folder:{photos}@train"), seed=0, bf16=False)
    lesson(0).backward()
    model = learner.model
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert any("vision_tower.stem" in name for name in moved) and any("projector" in name for name in moved)
    assert not any(".layers." in name for name in moved)
    rows = set(model.get_input_embeddings().weight.grad.any(1).nonzero().flatten().tolist())
    said = {token for words in lesson.spellings for tokens in words for token in tokens}
    assert rows and rows <= said


def test_every_word_for_a_name_has_its_turn(fresh_vlm, photos):
    lesson = CellLoss(fresh_vlm, open_labelled(f"folder:{photos}@train"), seed=0, bf16=False)
    cats = [fresh_vlm.tokenizer.decode(tokens) for tokens in lesson.spellings[0]]
    assert {"cat", " cat", "cats", " kitten"} <= set(cats)


def test_it_is_less_after_some_steps(learner, photos):
    lesson = CellLoss(learner, open_labelled(f"folder:{photos}@train"), seed=0, bf16=False)
    optimizer = torch.optim.AdamW(learner.model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = lesson(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_beside_the_answers_from_the_command_line(photos, tmp_path):
    """The same run with and without: the tower's weights differ. Stopped and resumed, they are the same."""
    runs = {"with": ["--cell-loss-data", f"folder:{photos}"], "without": []}
    towers = {}
    for name, more in runs.items():
        out = tmp_path / name
        assert train.main(["--dataset", "synthetic", *SMALL, "--out", str(out), *more]) == 0
        towers[name] = loading.load(out).model.get_encoder("image").state_dict()
    assert not torch.equal(towers["with"]["project.weight"], towers["without"]["project.weight"])
    card = (tmp_path / "with" / "README.md").read_text()
    taught = loading.load(tmp_path / "with").config.names
    assert taught == ("cat", "potted plant") and not loading.load(tmp_path / "without").config.names
    assert "| cell-loss-data | folder:photos |" in card and str(tmp_path) not in card

    half = ["--dataset", "synthetic", *SMALL, "--out", str(tmp_path / "half"), *runs["with"]]
    assert train.main([*half, "--stop-after", "1"]) == 0 and train.main([*half, "--resume"]) == 0
    resumed = loading.load(tmp_path / "half").model.get_encoder("image").state_dict()
    assert all(torch.equal(weight, resumed[name]) for name, weight in towers["with"].items())


@pytest.mark.parametrize(
    "more, sentence",
    [
        (["--cell-loss-data", "synthetic"], "give folder:PATH as the data set, not 'synthetic'"),
        (["--cell-loss-data", "folder:nowhere"], "nowhere/index.jsonl is not there"),
        (
            ["--base", "t4s-tiny", "--cell-loss-data", "folder:nowhere"],
            "--cell-loss-data teaches the embedded model's tower",
        ),
    ],
)
def test_what_it_does_not_go_with(tmp_path, capsys, more, sentence):
    given = SMALL if "--base" not in more else SMALL[7:]
    assert train.main(["--dataset", "synthetic", *given, "--out", str(tmp_path / "out"), *more]) == 2
    assert sentence in capsys.readouterr().err


def test_cells_alone_are_no_corpus():
    with pytest.raises(DataError, match="labelled cells"):
        open_labelled("synthetic")
