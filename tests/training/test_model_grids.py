"""What a model wrote of photos with true masks, kept and fed to the training of the learned refiner."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s.data.spec import open_dataset
from t4s.training.refiner import batches, model_grids, samples
from t4s.training.refiner.model_grids import ModelGrid

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


class Pencil:
    """Stands in for a Segmenter: marks the left half, and counts how often it was asked."""

    def __init__(self):
        self.asked: list[str] = []

    def encode(self, image):
        return image

    def __call__(self, photo, query, refine):
        from t4s.codec import DescriptorGrid
        from t4s.records import Prediction

        self.asked.append(query)
        ids = np.zeros((16, 16), np.int32)
        ids[:, :8] = 1
        grid = DescriptorGrid(ids, ("others", query))
        mask = np.zeros((photo.height, photo.width), bool)
        sure = np.full((16, 16), 0.6, np.float32)
        return Prediction(query=query, text="", grid=grid, mask=mask, masks={}, confidence=sure, present=True,
                          score=0.6, box=None, faults=(), stats={})  # fmt: skip


@pytest.fixture
def pencil(monkeypatch) -> Pencil:
    from t4s.segmenter.segmenter import Segmenter

    one = Pencil()
    monkeypatch.setattr(Segmenter, "from_pretrained", staticmethod(lambda source=None: one))
    return one


@pytest.fixture
def folder(tmp_path) -> Path:
    """Four photos with a left half of cat; in the third the cat is on the right; the last has a source of its own."""
    rows = []
    for number in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, 32:] = number == 2
        mask[:, :32] = number != 2
        Image.fromarray(mask).save(tmp_path / f"{number}.png")
        Image.new("RGB", (64, 64), (40 * number, 90, 30)).save(tmp_path / f"{number}.jpg")
        source = "pets" if number < 3 else "web"
        rows.append({"image": f"{number}.jpg", "mask": f"{number}.png", "source": source, "split": "train",
                     "classes": {"1": "cat"}})  # fmt: skip
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def everything(folder: Path):
    dataset = open_dataset(f"folder:{folder}@train")
    return [(dataset, i) for i in range(len(dataset))]


def test_every_name_is_asked_once(folder, pencil, tmp_path):
    found = model_grids.collect("embedded", everything(folder), tmp_path / "kept")
    assert sorted(found) == ["pets/0/cat", "pets/1/cat", "pets/2/cat", "web/3/cat"] and pencil.asked == ["cat"] * 4
    assert found["pets/0/cat"].cells[:, :8].all() and not found["pets/0/cat"].cells[:, 8:].any()
    assert np.allclose(found["pets/0/cat"].confidence, 0.6, atol=0.003)
    again = model_grids.collect("embedded", everything(folder), tmp_path / "kept")
    assert pencil.asked == ["cat"] * 4 and (again["pets/2/cat"].cells == found["pets/2/cat"].cells).all()


def test_what_was_cut_off_is_asked_again(folder, pencil, tmp_path):
    model_grids.collect("embedded", everything(folder), tmp_path / "kept")
    (file,) = (tmp_path / "kept").iterdir()
    whole = file.read_text()
    file.write_text(whole[: len(whole) - 40])
    model_grids.collect("embedded", everything(folder), tmp_path / "kept")
    assert len(pencil.asked) == 5 and file.read_text() == whole


def test_another_model_has_answers_of_its_own(tmp_path):
    for name, weights in (("a", b"weights"), ("b", b"others.")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weights)
    sources = ("embedded", str(tmp_path / "a"), str(tmp_path / "b"))
    names = {model_grids.cache_file(source, tmp_path) for source in sources}
    assert len(names) == 3 and all(name.parent == tmp_path for name in names)
    first = model_grids.cache_file(str(tmp_path / "a"), tmp_path)
    (tmp_path / "a" / "model.safetensors").write_bytes(b"other weights")
    assert model_grids.cache_file(str(tmp_path / "a"), tmp_path) != first


def test_correctable_is_what_overlaps_the_truth():
    true = np.zeros((4, 4), bool)
    true[:, :2] = True
    sure = np.ones((4, 4), np.float32)
    assert ModelGrid(true, sure).correctable(true)
    assert not ModelGrid(~true, sure).correctable(true) and not ModelGrid(true & False, sure).correctable(true & False)


def test_training_sees_the_grids_of_a_model_that_can_be_corrected(folder, pencil, tmp_path):
    kept = samples.RefinerSamples([f"folder:{folder}@train"], 64, ["web"], None)
    assert kept.collect_model_grids("embedded", 10, tmp_path / "kept") == 2  # the third cat is elsewhere
    assert kept.answered == [0, 1] and not kept[2].model_grids and len(pencil.asked) == 3
    order = kept.epoch(np.random.default_rng(0))
    assert np.mean([index in (0, 1) for index in order]) > 0.5
    masks = {batches.example(kept[0], 4, np.random.default_rng(seed))[1].tobytes() for seed in range(4)}
    assert len(masks) > 1


def test_the_embedded_model_answers_its_own_training_photos(tmp_path):
    """The real thing, once: what it writes of the two cats is written down and read back."""
    truth = {"image": "cats.jpg", "mask": "cats.png", "source": "pets", "split": "train", "classes": {"1": "cat"}}
    Image.open(EXAMPLES / "two_cats.jpg").save(tmp_path / "cats.jpg")
    width, height = Image.open(tmp_path / "cats.jpg").size
    Image.fromarray(np.ones((height, width), np.uint8)).save(tmp_path / "cats.png")
    (tmp_path / "index.jsonl").write_text(json.dumps(truth) + "\n")
    found = model_grids.collect("embedded", everything(tmp_path), tmp_path / "kept")
    (answer,) = found.values()
    assert answer.cells.shape == answer.confidence.shape == (16, 16) and 0 < answer.cells.mean() < 1
