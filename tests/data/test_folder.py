"""The folder dataset: photos with indexed masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from t4s.data import folder as folder_module
from t4s.data.augment.labels import reduced
from t4s.data.augment.mosaics import Tile, mosaic
from t4s.data.folder import FolderDataset
from t4s.data.spec import Mixture, open_dataset
from t4s.errors import DataError
from t4s.lexicon import HYPERNYMS
from t4s.records import IGNORED


@pytest.fixture(autouse=True)
def one_by_one(monkeypatch):
    """Photos by themselves, but where a test asks for mosaics."""
    monkeypatch.setattr(folder_module, "MOSAIC", 0.0)


@pytest.fixture
def folder(tmp_path):
    """Three photos of one source and one of another; ids 1 cat, 2 dog, 255 outline, 9 unlabelled."""
    rows = []
    masks = {"a": [[1, 1], [2, 255]], "b": [[0, 2], [0, 9]], "c": [[1, 1], [1, 1]], "z": [[0, 3], [3, 3]]}
    for name, cells in masks.items():
        Image.fromarray(np.kron(np.array(cells, np.uint8), np.ones((8, 10), np.uint8))).save(tmp_path / f"{name}.png")
        Image.new("RGB", (20, 16), "green").save(tmp_path / f"{name}.jpg")
        classes = {"3": "tree"} if name == "z" else {"1": "cat", "2": "dog"}
        rows.append({"image": f"{name}.jpg", "mask": f"{name}.png", "source": "forest" if name == "z" else "pets",
                     "split": "val" if name == "c" else "train", "classes": classes, "ignore": [255, 9]})  # fmt: skip
    rows[1]["classes"] = {"2": "dog"}
    rows[2]["classes"] = {"1": "cat"}
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows: list[dict]) -> None:
    (folder / "index.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def rows_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]


def test_evaluation_asks_every_class_and_what_is_not_there(folder):
    dataset = FolderDataset(folder, "train")
    asked = {sample.id: sample for sample in dataset[1]}
    assert set(asked) == {"pets/b/dog", "pets/b/cat"}
    assert asked["pets/b/cat"].absent and not asked["pets/b/dog"].absent
    assert [s.id for s in dataset[1]] == [s.id for s in dataset[1]]
    truth = asked["pets/b/dog"].class_map
    assert truth[0, 19] == 1 and truth[0, 0] == 0 and truth[15, 19] == IGNORED


def test_a_name_is_absent_only_where_its_source_labels_it(folder):
    """There may well be cats in the forest: nobody looked."""
    dataset = FolderDataset(folder, "train")
    assert [sample.query for sample in dataset[2]] == ["tree"]
    assert dataset.names == ["cat", "dog", "tree"]


def test_ignored_outlines_are_not_trained_on_but_unlabelled_areas_are_background(folder):
    dataset, rng = FolderDataset(folder, "train"), np.random.default_rng(0)
    (a,), (b,) = dataset.draw(0, rng, 1), dataset.draw(1, rng, 1)
    assert (a.class_map[8:, 10:] == IGNORED).all()
    assert (b.class_map[8:, 10:] == 0).all()


def test_training_draws_every_kind_of_question(folder):
    dataset, rng = FolderDataset(folder, "train"), np.random.default_rng(1)
    samples = [sample for _ in range(200) for sample in dataset.draw(1, rng, 2)]
    absent = np.mean([sample.absent for sample in samples])
    lists = [sample for sample in samples if not isinstance(sample.query, str)]
    assert 0.12 < absent < 0.4 and 10 < len(lists) < 120
    assert len({sample.query for sample in samples}) > 6
    for sample in samples:
        if isinstance(sample.query, str):
            assert sample.absent != any(word in sample.query for word in ("dog", "pup", "hound"))


def test_weak_photos_are_drawn_less_often(folder):
    rows = rows_of(folder)
    rows[0]["weak"] = True
    write(folder, rows)
    dataset, rng = FolderDataset(folder, "train"), np.random.default_rng(2)
    weak = [photo.weak for photo in dataset.photos]
    drawn = np.mean([weak[dataset.pick(rng)] for _ in range(600)])
    others = len(weak) - sum(weak)
    assert abs(drawn - 0.25**0.6 / (0.25**0.6 + others**0.6)) < 0.06


def test_small_sources_are_drawn_more_often_than_their_share(folder):
    rows = rows_of(folder)
    write(folder, [*[rows[0] | {"source": "big"}] * 40, rows[0] | {"source": "small"}])
    dataset, rng = FolderDataset(folder, "train"), np.random.default_rng(3)
    drawn = np.mean([dataset.photos[dataset.pick(rng)].source == "small" for _ in range(600)])
    assert 0.06 < drawn < 0.15  # 1 in 41 by photos, 1 in 2 by sources
    mixture = Mixture((dataset,), (1.0,))
    sources = [mixture.draw(np.random.default_rng(n), 1)[0].source for n in range(200)]
    assert 0.04 < np.mean([source == "small" for source in sources]) < 0.2


def test_photos_of_rare_names_are_drawn_and_rare_names_denied_more_often_than_their_share(folder):
    """One photo in 60 has a train: drawn 2.4 times as often, and asked for on the others about a fourth as often as
    the name that 59 have, not a 60th."""
    rows = rows_of(folder)
    common = [rows[0] | {"classes": {"1": name}} for name in ("dog", "cat") for _ in range(59)]
    write(folder, [*common[:59], rows[0] | {"classes": {"1": "train"}}])
    dataset, rng = FolderDataset(folder, "train"), np.random.default_rng(6)
    drawn = np.mean([dataset.photos[dataset.pick(rng)].classes[1] == "train" for _ in range(4000)])
    assert abs(drawn - 6**0.5 / (59 + 6**0.5)) < 0.012
    write(folder, [*common, rows[0] | {"classes": {"1": "train"}}, rows[0] | {"classes": {}}])  # and one of nothing
    dataset = FolderDataset(folder, "train")
    asked = [name for _ in range(2000) for name in dataset._some_absent(dataset.photos[0], ["cat", "train"], 1, rng)]
    assert abs(asked.count("train") / len(asked) - 1 / (1 + 59**0.25)) < 0.04


def test_a_photo_is_not_asked_the_same_twice_while_there_is_something_else(folder):
    dataset = FolderDataset(folder, "train")
    for seed in range(20):
        samples = dataset.draw(1, np.random.default_rng(seed), 4)
        assert len(samples) == len({sample.query for sample in samples}) == 4
    assert len(dataset.draw(1, np.random.default_rng(0), 60)) == 60  # more than there is to ask


def test_a_hypernym_means_all_its_names(folder):
    """Asked only where the source knows several of them and one is there: what else it labels may be an animal too."""
    rows = rows_of(folder)
    more = [rows[0] | {"classes": classes} for classes in ({"1": "horse", "2": "cow"}, {"1": "sheep", "2": "house"})]
    write(folder, [*rows, *more])
    dataset = FolderDataset(folder, "train")
    found = {}
    for i in range(len(dataset)):
        for seed in range(60):
            for sample in dataset.draw(i, np.random.default_rng(seed), 3):
                if "animal" in sample.query:
                    found.setdefault(i, sample)
    assert found
    for i, sample in found.items():
        ids = np.asarray(dataset.open(i)[1])
        names = dataset.photos[i].classes
        animals = [value for value, name in names.items() if name in HYPERNYMS["animal"]]
        assert animals and ((sample.class_map > 0) == (np.isin(ids, animals) & (sample.class_map >= 0))).all()


def test_a_mosaic_is_asked_for_what_its_tiles_show(tmp_path, monkeypatch):
    """Photos of one colour each, labelled with its name, but for an outline and an unlabelled corner: wherever a
    sample has a colour's name, the picture has the colour; every tile is asked for, and never in vain."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    rows = []
    for value, (name, colour) in enumerate(colours.items(), 1):
        Image.new("RGB", (40, 20 + 4 * value), colour).save(tmp_path / f"{name}.png")
        mask = np.full((20 + 4 * value, 40), value, np.uint8)
        mask[:2], mask[-2:, :2] = 255, 9
        Image.fromarray(mask).save(tmp_path / f"{name}-ids.png")
        rows.append({"image": f"{name}.png", "mask": f"{name}-ids.png", "source": "walls", "split": "train",
                     "classes": {str(value): name}, "ignore": [255, 9]})  # fmt: skip
    write(tmp_path, rows)
    dataset, shown = FolderDataset(tmp_path), set()
    assert dataset.draw(0, np.random.default_rng(0), 1)[0].image.size == (40, 24), "a photo by itself is left as it is"
    monkeypatch.setattr(folder_module, "MOSAIC", 1.0)
    for seed in range(60):
        samples = dataset.draw(0, np.random.default_rng(seed), 3)
        pixels = np.asarray(samples[0].image, int)
        tiles = {name for name, colour in colours.items() if (abs(pixels - colour).sum(-1) < 60).any()}
        assert "red" in tiles and pixels.shape == (40, 40, 3)
        shown.add(len(tiles))
        for sample in samples:
            for at, label in enumerate(sample.labels[1:], 1):
                (name,) = [name for name in colours if name in label]
                like = abs(pixels - colours[name]).sum(-1) < 60
                assert (like[sample.class_map == at]).all()
                assert ((sample.class_map == at).any()) == (name in tiles)
                assert name not in tiles or (sample.class_map[like] == at).mean() > 0.75
    assert max(shown) >= 3


def test_a_mosaic_of_large_photos_is_not_as_large():
    """Four photos of twelve megapixels would take seconds and be looked at in a few hundred pixels."""
    large = Tile(0, reduced(np.full((400, 1600), 7)), {7: 300})
    view, ids = mosaic([large] * 4, (2, 2), np.random.default_rng(0))
    assert view.size == (512, 512) and ids.shape == (512, 512) and (ids == 300).all()
    tiny = Tile(0, np.full((1, 1), 7), {7: 300})
    view, ids = mosaic([tiny] * 4, (2, 2), np.random.default_rng(0))
    assert view.size == (2, 2) and (ids == 300).all() and len(view.parts) == 4


def test_a_mosaic_that_cuts_off_all_names_gives_way_to_another(tmp_path, monkeypatch):
    """A source of one name has nothing to ask for in vain."""
    mask = np.zeros((20, 40), np.uint8)
    mask[:, :2] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.new("RGB", (40, 20)).save(tmp_path / "photo.png")
    write(tmp_path, [{"image": "photo.png", "mask": "mask.png", "source": "stables", "split": "train",
                      "classes": {"1": "horse"}}])  # fmt: skip
    dataset, made = FolderDataset(tmp_path), []
    monkeypatch.setattr(folder_module, "MOSAIC", 0.5)
    whole = FolderDataset._mosaic
    monkeypatch.setattr(FolderDataset, "_mosaic", lambda *given: made.append(whole(*given)) or made[-1])
    samples = [sample for seed in range(60) for sample in dataset.draw(0, np.random.default_rng(seed), 1)]
    assert any(not (ids == 256).any() for _, _, ids in made), "no mosaic lost the horse"
    assert len(samples) == 60 and not any(sample.absent for sample in samples)


def test_the_front_door_opens_it(folder):
    assert len(open_dataset(f"folder:{folder}@val")) == 1
    assert len(open_dataset(f"folder:{folder}@all")) == 4


def broken(folder, **changes):
    rows = rows_of(folder)
    rows[1] = {k: v for k, v in (rows[1] | changes).items() if v is not ...}
    write(folder, rows)


@pytest.mark.parametrize("changes, says", [
    ({"classes": ["dog"]}, "line 2.*classes is an object"),
    ({"classes": {"two": "dog"}}, "line 2"),
    ({"mask": ...}, "line 2 has no field 'mask'"),
])  # fmt: skip
def test_a_broken_line_is_named(folder, changes: dict, says: str):
    broken(folder, **changes)
    with pytest.raises(DataError, match=says):
        FolderDataset(folder)


def test_what_is_missing_or_does_not_fit_is_named(folder, tmp_path_factory):
    with pytest.raises(DataError, match="index.jsonl is not there"):
        FolderDataset(tmp_path_factory.mktemp("empty"))
    with pytest.raises(DataError, match="no photo of split 'test'; it has ..train., .val"):
        FolderDataset(folder, "test")
    (folder / "index.jsonl").write_text('{"image": ')
    with pytest.raises(DataError, match="line 1 is not a JSON object"):
        FolderDataset(folder)


def test_files_that_cannot_be_used_are_named(folder):
    Image.new("L", (3, 3)).save(folder / "a.png")
    with pytest.raises(DataError, match="a.png is 3×3 pixels"):
        FolderDataset(folder)[0]
    Image.new("RGB", (20, 16), "red").save(folder / "a.png")
    with pytest.raises(DataError, match="a.png"):
        FolderDataset(folder)[0]
    (folder / "b.jpg").write_text("not a photo")
    with pytest.raises(DataError, match="b.jpg"):
        FolderDataset(folder)[1]
