"""eval.py: the same figures however a run is stopped, resumed or shared, and figures that are right."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import t4s.eval as evaluation
from t4s import codec
from t4s.data.spec import open_dataset
from t4s.errors import DataError, QueryError
from t4s.evaluation import run as runs
from t4s.evaluation.figures import figures
from t4s.evaluation.predictors import MeanMasks
from t4s.evaluation.run_log import RunLog
from t4s.evaluation.scoring import record_from_json, score
from t4s.lexicon import SYNONYMS
from t4s.models.checkpoint import CheckpointConfig
from t4s.records import IGNORED, Prediction, Sample, box_of
from t4s.refine.refiner import refine

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
NAMES = {"zoo": {1: "cat", 2: "dog", 3: "owl"}, "farm": {1: "cow", 2: "pig"}}


# --- a small folder dataset and a model that answers at random, but always the same


def blob(rng: np.random.Generator, h: int, w: int) -> np.ndarray:
    y, x = np.mgrid[:h, :w]
    cy, cx, r = rng.uniform(0, h), rng.uniform(0, w), rng.uniform(3, h / 2)
    return (y - cy) ** 2 + (x - cx) ** 2 < r * r


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Twelve photos of odd sizes, six for training and six for validation, two sources, void pixels, a tiny pig."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(5)
    lines = []
    for number in range(12):
        source = "zoo" if number % 2 else "farm"
        h, w = int(rng.integers(40, 70)), int(rng.integers(40, 90))
        ids = np.zeros((h, w), np.uint8)
        for k in NAMES[source]:
            if rng.random() < 0.7 or k == 1:
                ids[blob(rng, h, w)] = k
        ids[:3] = 255
        if number == 6:
            ids[ids == 2] = 0
            ids[20:22, 20] = 2
        Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)).save(folder / f"{number}.png")
        Image.fromarray(ids).save(folder / f"{number}_ids.png")
        present = {str(k): name for k, name in NAMES[source].items() if (ids == k).any()}
        lines.append({"image": f"{number}.png", "mask": f"{number}_ids.png", "source": source,
                      "split": "train" if number < 6 else "val", "classes": present, "ignore": [255]})  # fmt: skip
    (folder / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


class StandIn:
    """Answers with a random grid that depends on photo and phrase alone; "owl" breaks off, "pig" is refused."""

    def __init__(self) -> None:
        self.vlm = SimpleNamespace(
            config=SimpleNamespace(grid=(8, 8), refiner="none"),
            model=SimpleNamespace(device=SimpleNamespace(type="cpu"), dtype="torch.float32"),
        )
        self.encoded: list[Image.Image] = []
        self.answers = 0
        self.stop_after: int | None = None

    def encode(self, image: Image.Image) -> Image.Image:
        self.encoded.append(image)
        return image

    def __call__(self, image: Image.Image, query: str, refine: str, decoding: str) -> Prediction:
        if self.answers == self.stop_after:
            raise KeyboardInterrupt
        self.answers += 1
        if query == "pig":
            raise QueryError("A phrase has no pigs.")
        rng = np.random.default_rng(zlib.crc32(image.tobytes() + query.encode()))
        grid = codec.grid_from_mask(blob(rng, 8, 8), query, (8, 8))
        text = codec.encode(grid)
        faults: tuple = ()
        if query == "owl":
            text = text[: len(text) // 2]
            grid, faults = codec.repair(text, (8, 8))
        return prediction(query, text, grid, image, faults)

    def classes(self, image: Image.Image, names, refine: str, decoding: str) -> Prediction:
        raise AssertionError("the folder dataset asks for no lists in evaluation")


def prediction(query, text: str, grid: codec.DescriptorGrid, image: Image.Image, faults=()) -> Prediction:
    masks = refine("none", np.asarray(image), grid)
    mask = np.any([np.zeros(image.size[::-1], bool), *masks.values()], axis=0)
    stats = {"tokens": len(text), "forwards": len(text) // 5, "decode_seconds": time.perf_counter() % 1}
    confidence = np.ones(grid.shape, np.float32)
    present, box = bool(mask.any()), box_of(mask)
    return Prediction(query, text, grid, mask, masks, confidence, present, 1.0, box, faults, stats)


@pytest.fixture()
def model(monkeypatch, tmp_path) -> StandIn:
    stand_in = StandIn()
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    CheckpointConfig().write(checkpoint)
    fake = SimpleNamespace(from_pretrained=lambda *arguments, **named: stand_in)
    monkeypatch.setitem(sys.modules, "t4s.segmenter.segmenter", SimpleNamespace(Segmenter=fake))
    monkeypatch.setattr("t4s.models.checkpoint.find", lambda *arguments: checkpoint)
    return stand_in


def run(photos: Path, out: Path, *more: str) -> dict:
    assert evaluation.main(["--dataset", f"folder:{photos}@val", "--out", str(out), *more]) == 0
    return results(out)


def results(out: Path) -> dict:
    content = json.loads((out / "results.json").read_text())
    content.pop("timings")
    return content


# --- the figures


def test_the_figures_are_those_of_the_masks_counted_by_hand(photos, model, tmp_path):
    """cIoU and mean IoU over (photo, present class) pairs, void rows left out, at the photo's own size."""
    got = run(photos, tmp_path / "out")
    asker, pairs, absent = StandIn(), [], []
    for index in range(6):
        for sample in open_dataset(f"folder:{photos}@val")[index]:
            try:
                answer = asker(sample.image, sample.query, "none", "fast")
                said, invalid = {tuple(p) for p in np.argwhere(answer.mask)}, sample.query == "owl"
            except QueryError:
                said, invalid = set(), True
            true = {tuple(p) for p in np.argwhere(sample.class_map == 1)}
            said -= {tuple(p) for p in np.argwhere(sample.class_map == -1)}
            (pairs if true else absent).append((said, true, invalid))
    assert pairs and absent and any(invalid for *_, invalid in pairs)
    for kind in ("strict", "repaired"):

        def seen(said, invalid, kind=kind):
            return set() if invalid and kind == "strict" else said

        inter = sum(len(seen(s, v) & t) for s, t, v in pairs)
        union = sum(len(seen(s, v) | t) for s, t, v in pairs)
        ious = [len(seen(s, v) & t) / len(s | t) for s, t, v in pairs]
        own = got["phrases"][kind]
        assert own["target_ciou"] == pytest.approx(100 * inter / union, abs=1e-9)
        assert own["target_miou"] == pytest.approx(100 * np.mean(ious), abs=1e-9)
        denied = [not s and not (v and kind == "strict") for s, _, v in absent]
        assert own["n_accuracy"] == pytest.approx(100 * np.mean(denied), abs=1e-9)
        assert own["t_accuracy"] == pytest.approx(100 * np.mean([bool(seen(s, v)) for s, _, v in pairs]), abs=1e-9)
    assert got["phrases"]["phrases"] == len(pairs) + len(absent)
    assert got["phrases"]["invalid"] == sum(v for *_, v in pairs + absent) == len(got["invalid"])
    assert got["phrases"]["others"]["n_accuracy"] == 100 and got["phrases"]["others"]["target_ciou"] == 0
    assert set(got["sources"]) == {"farm", "zoo"}
    assert set(got["sources"]["zoo"]["classes"]) == {"cat", "dog", "owl"}


def test_invalid_answers_are_counted_listed_and_scored_twice(photos, model, tmp_path):
    got = run(photos, tmp_path / "out")
    why = {entry["id"].split("/")[-1]: entry["why"] for entry in got["invalid"]}
    assert why.keys() == {"owl", "pig"}
    assert "row" in why["owl"] and why["pig"] == "A phrase has no pigs."
    owl = got["sources"]["zoo"]["classes"]["owl"]
    assert owl["strict"]["giou"] == 0 < owl["repaired"]["giou"]
    cat = got["sources"]["zoo"]["classes"]["cat"]
    assert cat["strict"] == cat["repaired"] and cat["invalid"] == 0


def test_other_words_stand_beside_the_same_names_and_change_nothing_else(photos, model, tmp_path):
    """ "puppy" is asked on the photos with a dog, and compared with "dog" on those photos alone."""
    plain = run(photos, tmp_path / "plain")
    worded = run(photos, tmp_path / "worded", "--synonyms", "--save", str(tmp_path / "saved"))
    for part in ("phrases", "sources", "cost"):
        assert worded[part] == plain[part]
    synonym, plural = worded["words"]["synonym"], worded["words"]["plural"]
    classes = {name: own for source in plain["sources"].values() for name, own in source["classes"].items()}
    assert synonym["asked"]["phrases"] == synonym["names"]["phrases"]
    others = sum(len(SYNONYMS.get(name, ())) * own["targets"] for name, own in classes.items())
    assert synonym["asked"]["phrases"] == others > 0
    assert plural["asked"]["phrases"] == plain["phrases"]["targets"]
    named = {kind: figure for kind, figure in plural["names"]["strict"].items() if kind.startswith("target")}
    assert named == {kind: plain["phrases"]["strict"][kind] for kind in named}
    assert plural["asked"]["strict"] != plural["names"]["strict"]
    assert "| plural" in (tmp_path / "worded" / "results.md").read_text()


def test_a_label_that_was_not_asked_for_is_invalid(photos, model, tmp_path, monkeypatch):
    """Free decoding may answer "dog" when asked for the cat: its cells must not pass as the cat's."""
    plain = StandIn.__call__

    def other(self, image, query, refine, decoding):
        answer = plain(self, image, "dog", refine, decoding)
        return prediction(query, answer.text, answer.grid, image)

    monkeypatch.setattr(StandIn, "__call__", other)
    got = run(photos, tmp_path / "out")
    assert {entry["why"] for entry in got["invalid"]} == {"it contains 'dog', which was not queried"}
    assert {entry["id"].split("/")[-1] for entry in got["invalid"]} >= {"cat", "cow"}


def test_some_phrases_alone_score_as_they_do_among_all(photos, model, tmp_path, capsys):
    whole = run(photos, tmp_path / "whole")
    model.encoded.clear()
    some = run(photos, tmp_path / "some", "--only", "owl", "pig")
    for source, asked in (("farm", "pig"), ("zoo", "owl")):
        assert some["sources"][source]["classes"] == {asked: whole["sources"][source]["classes"][asked]}
    assert some["photos"] == 6 and some["left_out"] == 0 and some["settings"]["only"] == ["owl", "pig"]
    run(photos, tmp_path / "pigs", "--only", "pig")
    assert len(model.encoded) == 6 + 3, "a photo that is asked nothing is not looked at"
    arguments = ["--dataset", f"folder:{photos}@val", "--out", str(tmp_path / "none"), "--only", "zebra"]
    assert "has a query for zebra; --only and --class-list take phrases as the dataset has them" in fails(
        arguments, capsys
    )
    assert "leave --only, --class-list or --update-card out" in fails([*arguments, "--update-card"], capsys)


def test_names_together_are_one_list_of_each_photo_that_has_one(photos, tmp_path, capsys):
    """Scored as class lists: the truth gets everything, the true grids what refining them in one picture gives."""
    names = ["--class-list", "dog", "pig", "cat"]
    truth = run(photos, tmp_path / "truth", "--oracle", "mask", *names)
    assert truth["lists"]["strict"]["miou"] == 100 and "phrases" not in truth
    dataset = open_dataset(f"folder:{photos}@val")
    samples = [[s for s in dataset[i] if s.query in names[1:] and not s.absent] for i in range(len(dataset))]
    assert truth["lists"]["photos"] == sum(map(bool, samples)) and truth["settings"]["class_list"] == names[1:]
    grids = run(photos, tmp_path / "grids", "--oracle", "grid", "--grid", "8", "8", "--refine", "none", *names)
    inter = union = 0
    for some in filter(None, samples):
        classes = np.where(some[0].class_map < 0, IGNORED, 0)
        for sample in sorted(some, key=lambda s: names.index(s.query)):
            classes[sample.class_map > 0] = names.index(sample.query)
        grid = codec.grid_from_classes(classes, dict(enumerate(("others", *names[1:]))), (8, 8), ignore=(IGNORED,))
        cat, scored = classes == 3, classes != IGNORED
        said = codec.mask_from_grid(grid, "cat", classes.shape) if "cat" in grid.labels else np.zeros_like(cat)
        inter, union = inter + (cat & said).sum(), union + ((cat | said) & scored).sum()
    assert grids["lists"]["classes"]["cat"]["strict"] == pytest.approx(100 * inter / union)
    arguments = [
        "--dataset",
        f"folder:{photos}@val",
        "--out",
        str(tmp_path / "none"),
        "--oracle",
        "mask",
        "--class-list",
    ]
    assert "has a query for zebra" in fails([*arguments, "zebra"], capsys)
    assert "repeats a name (cat, cat)" in fails([*arguments, "cat", "cat"], capsys)
    assert "leave --only and --synonyms out" in fails([*arguments, "cat", "--only", "cat"], capsys)


def test_the_results_say_what_they_were_made_with(photos, model, tmp_path, capsys):
    run(photos, tmp_path / "out", "--limit", "4")
    got = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {"t4s", "python", "torch", "transformers", "numpy", "pillow"} == got["versions"].keys()
    settings = got["settings"]
    assert (settings["refine"], settings["decoding"], settings["limit"]) == ("none", "fast", 4)
    assert (settings["grid"], settings["device"], settings["split"]) == ([8, 8], "cpu", "val") and settings["dtype"]
    refused = sum("no pigs" in entry["why"] for entry in got["invalid"])
    assert got["cost"]["answers"] == got["phrases"]["phrases"] - refused
    assert got["cost"]["tokens"] > got["cost"]["forwards"] > 0
    assert got["timings"]["seconds_a_question"] > 0 and got["timings"]["decode_seconds"]["mean"] > 0
    assert "4/4" in (bar := capsys.readouterr().err) and "cIoU " in bar, "the score so far"


def test_each_photo_is_encoded_once(photos, model, tmp_path):
    run(photos, tmp_path / "out")
    assert len(model.encoded) == 6 and model.answers > 12


@pytest.mark.parametrize("refiner", ["none", "smooth"])
def test_the_true_grids_give_what_refining_them_gives(photos, tmp_path, refiner):
    """The oracle: no model is loaded, and nothing but grid and refiner stands between truth and score."""
    got = run(photos, tmp_path / "out", "--oracle", "grid", "--refine", refiner, "--grid", "8", "8")
    inter = union = 0
    for index in range(6):
        for sample in open_dataset(f"folder:{photos}@val")[index]:
            truth, scored = sample.class_map == 1, sample.class_map >= 0
            masks = refine(refiner, np.asarray(sample.image), sample.grid((8, 8)))
            said = masks.get(sample.labels[1], np.zeros_like(truth)) & scored
            if truth.any():
                inter, union = inter + (said & truth).sum(), union + (said | truth).sum()
    assert got["phrases"]["repaired"]["target_ciou"] == pytest.approx(100 * inter / union, abs=1e-9)
    assert got["phrases"]["grid"]["target_ciou"] == 100
    assert got["phrases"]["strict"]["t_accuracy"] == 100


@pytest.mark.parametrize("refiner", ["none", "smooth"])
def test_the_oracle_agrees_with_the_bench(photos, tmp_path, refiner):
    """Two programs, one figure: `bench refine` counts the same true grids in code of its own."""
    from t4s.evaluation.bench.refine import Score, add, samples

    got = run(photos, tmp_path / "out", "--oracle", "grid", "--refine", refiner, "--min-cover", "0.01")
    benched = Score()
    for sample in samples(f"folder:{photos}@val", 0.01, None):
        add(benched, sample, refine(refiner, np.asarray(sample.image), sample.grid((16, 16))))
    mean, pooled, _ = benched.figures()
    assert got["phrases"]["repaired"]["target_miou"] == pytest.approx(mean, abs=1e-9)
    assert got["phrases"]["repaired"]["target_ciou"] == pytest.approx(pooled, abs=1e-9)


def test_class_lists_are_scored_by_label_not_by_place(tmp_path):
    """The model lists what it found in an order of its own; a label nobody asked for is others, and invalid."""
    image = Image.new("RGB", (8, 8))
    truth = np.zeros((8, 8), np.int16)
    truth[:4], truth[4:, :4], truth[7, 7] = 1, 2, IGNORED
    sample = Sample("a", "zoo", image, ("cat", "dog", "owl"), ("others", "cat", "dog", "owl"), truth)
    ids = np.zeros((8, 8), int)
    ids[:4], ids[4:, :4] = 2, 1
    right = codec.DescriptorGrid(ids, ("others", "dog", "cat"))
    foreign = codec.DescriptorGrid(ids, ("others", "fox", "cat"))
    answers = [prediction(sample.query, codec.encode(grid), grid, image) for grid in (right, foreign)]
    records = [score(sample, answer) for answer in answers] + [score(sample, None, "too many names")]
    why = "it contains 'fox', which was not queried"
    assert [record.invalid for record in records] == [None, why, "too many names"]
    got = figures(records)["lists"]
    assert got["photos"] == 3 and got["invalid"] == 2
    assert got["strict"]["image_miou"] == pytest.approx(100 / 3)
    assert got["repaired"]["image_miou"] == pytest.approx(100 * (1 + 1 / 2 + 0) / 3)
    assert got["classes"]["owl"] == {"strict": None, "repaired": None}
    assert got["classes"]["cat"]["repaired"] == pytest.approx(100 * 2 / 3)


def test_a_refiners_fault_does_not_make_the_text_invalid():
    """SAM may disagree with the grid, which the user sees as a fault; what the model wrote is valid all the same."""
    image = Image.new("RGB", (8, 8))
    sample = Sample("a", "zoo", image, "cat", ("others", "cat"), np.ones((8, 8), np.int16))
    grid = codec.grid_from_mask(np.ones((8, 8), bool), "cat", (8, 8))
    disagreement = codec.Fault(0, 0, "the refined mask disagrees with the grid")
    assert score(sample, prediction("cat", codec.encode(grid), grid, image, (disagreement,))).invalid is None


def test_official_boxes_are_compared_with_the_answers_box():
    """The box around the true mask is not the official one: published code compares with the wrong one."""
    image, truth = Image.new("RGB", (8, 8)), np.zeros((8, 8), np.int16)
    truth[:4, :4] = 1
    grid = codec.grid_from_mask(truth == 1, "cat", (8, 8))
    answer = prediction("cat", codec.encode(grid), grid, image)
    for box, right in (((0.0, 0.0, 4.0, 4.0), True), ((0.0, 0.0, 8.0, 8.0), False), (None, None)):
        sample = Sample("a", "zoo", image, "cat", ("others", "cat"), truth, box)
        assert score(sample, answer).box_right is right


def test_the_true_masks_give_a_hundred(photos, tmp_path):
    got = run(photos, tmp_path / "out", "--oracle", "mask")
    for part in (got["phrases"], *got["sources"].values()):
        every = {**part["strict"], **part["strict"]["precision_at"]}
        assert {v for v in every.values() if isinstance(v, float)} == {100.0}


def test_small_targets_can_be_left_out_and_are_counted(photos, tmp_path):
    whole = run(photos, tmp_path / "a", "--oracle", "mask")
    large = run(photos, tmp_path / "b", "--oracle", "mask", "--min-cover", "0.01")
    assert whole["left_out"] == 0 and large["left_out"] >= 1
    assert large["phrases"]["phrases"] + large["left_out"] == whole["phrases"]["phrases"]


def test_the_class_average_is_cut_where_it_pays_most():
    """Against trying every threshold on the grids themselves."""
    rng = np.random.default_rng(1)
    grids = [codec.grid_from_mask(blob(rng, 8, 8), "cat", (8, 8)) for _ in range(7)]
    averages = MeanMasks((8, 8))
    samples = [SimpleNamespace(query="cat", absent=False, source="zoo", labels=("others", "cat"), grid=lambda _, g=g: g)
               for g in grids]  # fmt: skip
    for sample in samples:
        averages.add(sample)
    masks = np.stack([g.ids > 0 for g in grids])

    def pooled(cells: np.ndarray) -> float:
        return (masks & cells).sum() / (masks | cells).sum()

    best = max(pooled(masks.sum(0) >= least) for least in range(1, 8))
    assert pooled(averages.cells(samples[0])) >= best
    unknown = SimpleNamespace(source="farm", labels=("others", "goat"))
    assert (averages.cells(unknown) == averages.cells(samples[0])).all()  # all phrases are one class here
    again = MeanMasks.from_json(averages.to_json())
    assert (again.cells(samples[0]) == averages.cells(samples[0])).all()
    with pytest.raises(DataError, match="no phrase with a target"):
        MeanMasks((8, 8)).cells(unknown)


def test_the_average_baseline_stands_beside_the_model(photos, model, tmp_path):
    got = run(photos, tmp_path / "out", "--mean-mask-baseline", f"folder:{photos}@train")
    average = got["phrases"]["average"]
    assert 0 < average["target_ciou"] < 100
    assert average["n_accuracy"] == 0  # it never looks at the photo
    assert "mean mask" in (tmp_path / "out" / "results.md").read_text()


# --- stopped, resumed, shared


def test_a_run_stopped_at_any_answer_goes_on_to_the_same_results(photos, model, tmp_path):
    """Stopped after every few answers, its files torn at random bytes as a killed process leaves them."""
    whole = run(photos, tmp_path / "whole", "--save", str(tmp_path / "a"))
    rng = np.random.default_rng(2)
    out, saved, starts = tmp_path / "torn", tmp_path / "b", 0
    arguments = ["--dataset", f"folder:{photos}@val", "--out", str(out), "--save", str(saved)]
    while True:
        starts += 1
        model.stop_after = model.answers + int(rng.integers(2, 7))
        code = evaluation.main(arguments)
        if code == 0:
            break
        assert code == 130 and starts < 60
        for file in out.glob("*-0.jsonl"):
            content = file.read_bytes()
            last = content.rstrip(b"\n").rfind(b"\n") + 1
            if content and rng.random() < 0.5:
                file.write_bytes(content[: int(rng.integers(last + 1, len(content)))])
    assert starts > 3
    assert results(out) == whole
    assert (saved / "predictions.jsonl").read_text() == (tmp_path / "a" / "predictions.jsonl").read_text()


def test_a_finished_run_asks_nothing_again(photos, model, tmp_path):
    first = run(photos, tmp_path / "out")
    asked = model.answers
    assert run(photos, tmp_path / "out") == first
    assert model.answers == asked


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_give_the_same_as_one(photos, model, tmp_path, monkeypatch, world):
    whole = run(photos, tmp_path / "whole")
    monkeypatch.setattr(runs, "wait_for_all", lambda: None)
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for rank in range(world - 1, -1, -1):
        monkeypatch.setenv("RANK", str(rank))
        evaluation.main(["--dataset", f"folder:{photos}@val", "--out", str(tmp_path / "out")])
    assert results(tmp_path / "out") == whole
    lines = [len(file.read_text().splitlines()) for file in sorted((tmp_path / "out").glob("records-*.jsonl"))]
    assert lines == [6 // world] * world  # each did its share, and no more


def test_a_run_begun_by_several_is_finished_by_one(photos, model, tmp_path, monkeypatch):
    whole = run(photos, tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setattr(runs, "wait_for_all", lambda: None)
    evaluation.main(["--dataset", f"folder:{photos}@val", "--out", str(tmp_path / "out")])
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.delenv("RANK")
    asked = model.answers
    assert run(photos, tmp_path / "out") == whole
    assert model.answers - asked < asked


ORACLE = ("--oracle", "grid", "--refine", "edge")  # edge: slow enough to be killed in the middle
EMBEDDED = ("--refine", "smooth")


def command(photos: Path, out: Path, *more: str) -> list[str]:
    return ["-m", "t4s.eval", "--dataset", f"folder:{photos}@val", "--out", str(out), *more]


@pytest.mark.long
def test_a_killed_process_goes_on(photos, tmp_path):
    """SIGKILL in the middle of the real command, again and again, at random sizes of what it has written."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command(photos, tmp_path / "whole", *ORACLE)], env=environment, check=True)
    rng, written, halfway = np.random.default_rng(0), tmp_path / "out" / "records-0.jsonl", 0
    for _ in range(4):
        before = written.stat().st_size if written.is_file() else 0
        process = subprocess.Popen([sys.executable, *command(photos, tmp_path / "out", *ORACLE)], env=environment)
        until = before + int(rng.integers(1, 500))
        while process.poll() is None and not (written.is_file() and written.stat().st_size >= until):
            time.sleep(0.001)
        process.kill()
        process.wait()
        halfway += 0 < len(written.read_text().splitlines()) < 6
    assert halfway
    subprocess.run([sys.executable, *command(photos, tmp_path / "out", *ORACLE)], env=environment, check=True)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.long
@pytest.mark.parametrize("who", [ORACLE, EMBEDDED], ids=["oracle", "embedded"])
def test_torchrun_gives_the_same_as_one_process(photos, tmp_path, who):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command(photos, tmp_path / "whole", *who)], env=environment, check=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launch, *command(photos, tmp_path / "out", *who)], env=environment, check=True, timeout=300)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert len(list((tmp_path / "out").glob("records-*.jsonl"))) == 2


# --- what is written


def test_saved_predictions_open_in_pycocotools(photos, model, tmp_path):
    reference = pytest.importorskip("pycocotools.mask")
    run(photos, tmp_path / "out", "--save", str(tmp_path / "saved"))
    lines = [json.loads(line) for line in (tmp_path / "saved" / "predictions.jsonl").read_text().splitlines()]
    asker = StandIn()
    samples = [s for i in range(6) for s in open_dataset(f"folder:{photos}@val")[i]]
    assert [line["id"] for line in lines] == [s.id for s in samples]
    for line, sample in zip(lines, samples, strict=True):
        if sample.query == "pig":
            assert line["mask"] is None and "no pigs" in line["refused"]
            continue
        answer = asker(sample.image, sample.query, "none", "fast")
        assert (reference.decode(line["mask"]).astype(bool) == answer.mask).all()
        assert line["text"] == answer.text
    with Image.open(tmp_path / "saved" / "sheet.png") as sheet:
        assert sheet.width > 300


def test_the_sheet_shows_best_median_and_worst_in_order(photos, model, tmp_path, monkeypatch):
    """Chosen by score over the whole run: a sheet of the first photos, or of nice ones, proves nothing."""
    from t4s.evaluation import report

    shown: list = []
    monkeypatch.setattr(report.drawing, "sheet", lambda tiles, title: shown.extend(tiles) or Image.new("RGB", (9, 9)))
    run(photos, tmp_path / "out", "--save", str(tmp_path / "saved"))
    lines = [json.loads(line)["content"] for line in (tmp_path / "out" / "records-0.jsonl").read_text().splitlines()]
    counts = [record["mask"] for line in lines for record in line["answers"] if record["mask"][1]]
    ious = sorted((round(100 * both / (p + t - both)) for p, t, both in counts), reverse=True)
    best, median, worst = ([int(caption.split()[0]) for caption, _ in row[::2]] for row in shown)
    assert best == ious[:3] and worst == ious[-3:]
    middle = len(ious) // 2
    assert median == ious[middle - 1 : middle + 2]


def test_the_tables_name_sources_classes_and_baselines(photos, model, tmp_path, capsys):
    run(photos, tmp_path / "out")
    printed = capsys.readouterr().out
    for word in ("| farm ", "| zoo ", "all others", "| repaired", "s an answer"):
        assert word in printed
    run(photos, tmp_path / "oracle", "--oracle", "mask")
    assert "strict = repaired" in capsys.readouterr().out
    assert "| owl" in (tmp_path / "out" / "results.md").read_text()


def test_the_published_settings_name_no_folder_of_this_machine(photos, model, tmp_path):
    run(photos, tmp_path / "out")
    content = (tmp_path / "out" / "results.json").read_text()
    assert str(photos.parent) not in content and f"folder:{photos.name}@val" in content


def test_a_limit_takes_photos_evenly(photos, model, tmp_path):
    """The first photos of a sorted dataset are all of one source."""
    assert runs.evenly_spaced(10, 3) == [0, 3, 6]
    assert runs.evenly_spaced(2, 5) == [0, 1]
    assert run(photos, tmp_path / "out", "--limit", "2")["photos"] == 2


def test_figures_go_into_the_model_card(photos, model, tmp_path):
    from t4s import hub

    folder = tmp_path / "checkpoint"
    place = "\n".join(hub.FIGURES)
    (folder / "README.md").write_text(f"---\nlicense: other\n---\n\n# A model\n\n{place}\n\nEnd.\n")
    run(photos, tmp_path / "out", "--checkpoint", str(folder), "--update-card")
    card = (folder / "README.md").read_text()
    assert "cIoU" in card and "(zoo)" in card and card.rstrip().endswith("End.")
    assert "model-index" in card
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    names = json.loads((folder / "t4s.json").read_text())["metrics"]["names"]
    classes = [part["classes"] for part in results["sources"].values()]
    assert set(names) == {name for own in classes for name in own if own[name]["targets"]}
    assert all(0 <= iou <= 1 for iou in names.values())


# --- bad input


def fails(arguments: list[str], capsys) -> str:
    assert evaluation.main(arguments) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments,says",
    [
        (["--dataset", "folder:PHOTOS@vall"], "no photo of split 'vall'; it has ['train', 'val']"),
        (["--dataset", "folder:nowhere@val"], "is not there"),
        (["--dataset", "photos:PHOTOS"], "begins with the name 'photos'"),
        (["--dataset", "folder:PHOTOS@val", "--limit", "0"], "--limit is 0"),
        (["--dataset", "folder:PHOTOS@val", "--min-cover", "1"], "--min-cover is 1.0"),
        (["--dataset", "folder:PHOTOS@val", "--classes-per-query", "0"], "--classes-per-query is 0"),
        (["--dataset", "folder:PHOTOS@val", "--refine", "magic"], "magic"),
        (["--dataset", "folder:PHOTOS@val", "--checkpoint", "me/model"], "leave --checkpoint or --oracle out"),
        (["--dataset", "folder:PHOTOS@val", "--update-card"], "--oracle has none"),
        (["--dataset", "folder:PHOTOS@val", "--grid", "0", "16"], "0"),
        (["--dataset", "folder:PHOTOS@val", "--save", "PHOTOS/index.jsonl"], "is a file; name a folder"),
        (["--dataset", "folder:PHOTOS@val", "--mean-mask-baseline", "folder:nowhere"], "is not there"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(photos, tmp_path, capsys, arguments, says):
    given = [argument.replace("PHOTOS", str(photos)) for argument in arguments]
    assert says in fails([*given, "--oracle", "grid", "--out", str(tmp_path / "out")], capsys)


def test_a_wrong_refiner_is_not_taken_for_refused_questions(photos, model, tmp_path, capsys):
    """A refiner's QueryError looks like that of a phrase: every answer would count as refused, exit code 0."""
    arguments = ["--dataset", f"folder:{photos}@val", "--out", str(tmp_path / "out"), "--refine", "magic"]
    assert "magic" in fails(arguments, capsys)
    assert model.encoded == []


def test_a_grid_size_is_the_oracles_alone(photos, model, capsys):
    assert "leave it out" in fails(["--dataset", f"folder:{photos}@val", "--grid", "32", "32"], capsys)


def test_a_card_is_only_written_into_a_folder(photos, capsys):
    arguments = ["--dataset", f"folder:{photos}@val", "--checkpoint", "me/model", "--update-card"]
    assert "download it, update its card" in fails(arguments, capsys)


def test_a_card_without_a_place_is_refused_before_the_run(photos, model, tmp_path, capsys):
    """It was refused after the last photo."""
    arguments = ["--dataset", f"folder:{photos}@val", "--checkpoint", str(tmp_path / "checkpoint"), "--update-card"]
    for card in (None, "# A model"):
        if card:
            (tmp_path / "checkpoint" / "README.md").write_text(card)
        assert "has no place for figures; add the lines <!-- figures -->" in fails(arguments, capsys)
    assert model.encoded == []


def test_a_folder_with_another_run_is_not_gone_on_with(photos, model, tmp_path, capsys):
    """Half the answers by one refiner and half by another would pass for one run."""
    run(photos, tmp_path / "out")
    arguments = ["--dataset", f"folder:{photos}@val", "--out", str(tmp_path / "out")]
    assert "refine was 'none' and is 'smooth'" in fails([*arguments, "--refine", "smooth"], capsys)


STALE = "of 6 photos in"


def test_corrected_data_is_measured_again_photo_by_photo(photos, model, tmp_path, capsys):
    """A corrected mask left the old figures standing: the log was keyed by the checkpoint alone."""
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    before = run(data, tmp_path / "out")
    assert STALE not in capsys.readouterr().err
    asked = model.answers
    ids = np.asarray(Image.open(data / "7_ids.png")).copy()
    ids[10:30, 10:30] = 1
    Image.fromarray(ids).save(data / "7_ids.png")
    after = run(data, tmp_path / "out")
    assert f"1 {STALE} {tmp_path / 'out'} were measured before the data changed" in capsys.readouterr().err
    assert after["phrases"] != before["phrases"] and 0 < model.answers - asked <= 5
    assert after == run(data, tmp_path / "fresh"), "as if it had never been measured"
    photo = np.asarray(Image.open(data / "8.png")).copy()
    photo[0, 0] ^= 1
    Image.fromarray(photo).save(data / "8.png")
    run(data, tmp_path / "out")
    assert f"1 {STALE}" in capsys.readouterr().err, "a single pixel counts"


def test_other_weights_or_code_are_measured_again(photos, model, tmp_path, capsys, monkeypatch):
    first = run(photos, tmp_path / "out")
    asked = model.answers
    (tmp_path / "checkpoint" / "t4s.json").write_text('{"retrained": true}')
    assert run(photos, tmp_path / "out") == first
    assert f"6 {STALE} {tmp_path / 'out'} were measured before the checkpoint changed" in capsys.readouterr().err
    assert model.answers == 2 * asked
    (tmp_path / "checkpoint" / "t4s.json").write_text('{"retrained": true, "metrics": {"cIoU": 1}}')
    run(photos, tmp_path / "out")
    assert model.answers == 2 * asked, "figures in t4s.json change no answer"
    monkeypatch.setattr(runs, "code_version", lambda: "newer")
    run(photos, tmp_path / "out")
    assert "were measured before the code of t4s changed" in capsys.readouterr().err
    assert model.answers == 3 * asked


def test_a_run_of_an_earlier_version_is_measured_again(photos, model, tmp_path, capsys):
    """Its lines are [step, record] and its settings.json names no version."""
    whole = run(photos, tmp_path / "whole")
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text('{"refine": "none", "average_from": null, "state": "abc"}')
    (out / "records-0.jsonl").write_text('[0, {"left_out": 0, "answers": [], "seconds": 1}]\n')
    assert run(photos, out) == whole
    assert f"1 {STALE} {out} were measured before the checkpoint and the code of t4s changed" in capsys.readouterr().err


def test_another_baseline_is_measured_again(photos, model, tmp_path, capsys):
    data = tmp_path / "photos"
    shutil.copytree(photos, data)
    more = ("--mean-mask-baseline", f"folder:{data}@train")
    first = run(data, tmp_path / "out", *more)
    ids = np.full_like(np.asarray(Image.open(data / "1_ids.png")), 1)
    Image.fromarray(ids).save(data / "1_ids.png")
    again = run(data, tmp_path / "out", *more)
    assert "before the data of the baseline changed" in capsys.readouterr().err
    assert again["phrases"]["average"] != first["phrases"]["average"]
    assert again["phrases"]["strict"] == first["phrases"]["strict"]


def test_a_run_of_many_names_has_a_folder_the_file_system_takes(photos, model, tmp_path, monkeypatch):
    """49 class names made a name of 400 bytes: the run died with an OSError when the first record was written."""
    monkeypatch.chdir(tmp_path)
    names = [f"a kind of animal number {n} é" for n in range(48)]
    for last in ("cat", "cow"):
        assert evaluation.main(["--dataset", f"folder:{photos}@val", "--only", *names, last]) == 0
    folders = list((tmp_path / "eval-results").iterdir())
    assert len(folders) == 2, "names that differ at their end have folders of their own"
    assert all(len(folder.name.encode()) <= 120 for folder in folders)


def test_records_survive_the_log(photos, model, tmp_path):
    run(photos, tmp_path / "out", "--synonyms", "--mean-mask-baseline", f"folder:{photos}@train")
    run(photos, tmp_path / "lists", "--oracle", "mask", "--class-list", "cat", "dog")
    for folder in ("out", "lists"):
        lines = [json.loads(line)["content"] for line in (tmp_path / folder / "records-0.jsonl").open()]
        for row in (row for line in lines for row in line["answers"]):
            assert record_from_json(row).to_json() == row


def test_option_names_of_earlier_versions_still_work(photos, model, tmp_path, capsys):
    """A command line as it was once written, and the same one in today's words."""
    old = ["--corpus", f"folder:{photos}@val", "--other-words", "--average-from", f"folder:{photos}@train",
           "--at-once", "2"]  # fmt: skip
    assert evaluation.main([*old, "--out", str(tmp_path / "old")]) == 0
    new = ("--synonyms", "--mean-mask-baseline", f"folder:{photos}@train", "--classes-per-query", "2")
    assert results(tmp_path / "old") == run(photos, tmp_path / "new", *new)
    old = ["--corpus", f"folder:{photos}@val", "--oracle", "mask", "--together", "cat", "dog"]
    assert evaluation.main([*old, "--out", str(tmp_path / "old list")]) == 0
    new = ("--oracle", "mask", "--class-list", "cat", "dog")
    assert results(tmp_path / "old list") == run(photos, tmp_path / "new list", *new)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        evaluation.main(["--help"])
    shown = capsys.readouterr().out
    assert "--dataset" in shown and not any(name in shown for name in ("--corpus", "--at-once", "--together"))
    with pytest.raises(SystemExit):
        evaluation.main([])
    assert "--dataset" in capsys.readouterr().err


def test_a_photo_that_went_missing_stops_the_run_which_then_goes_on(photos, model, tmp_path, capsys):
    whole = run(photos, tmp_path / "whole")
    photo = photos / "9.png"
    content = photo.read_bytes()
    photo.unlink()
    try:
        arguments = ["--dataset", f"folder:{photos}@val", "--out", str(tmp_path / "out")]
        assert "9.png" in fails(arguments, capsys)
    finally:
        photo.write_bytes(content)
    before = len(model.encoded)
    assert run(photos, tmp_path / "out") == whole
    assert len(model.encoded) - before == 3


def test_a_damaged_record_is_named_with_its_line(tmp_path):
    log = RunLog(tmp_path, {})
    log.append(0, {}, {"a": 1})
    log.append(1, {}, {"a": 2})
    file = tmp_path / "records-0.jsonl"
    file.write_text("rubbish\n" + file.read_text())
    with pytest.raises(DataError, match="records-0.jsonl, line 1 is damaged"):
        RunLog(tmp_path, {}).entries()
    (tmp_path / "settings.json").write_text('{"cut o')
    with pytest.raises(DataError, match="settings.json is damaged"):
        RunLog(tmp_path, {})


def test_a_line_that_another_process_is_still_writing_is_not_read(tmp_path):
    log = RunLog(tmp_path, {}, rank=0)
    log.append(0, {}, "a")
    (tmp_path / "records-1.jsonl").write_text('[1, "b"]\n[3, "c')
    assert set(RunLog(tmp_path, {}, rank=0).entries()) == {0, 1}


def test_a_process_that_ended_early_is_noticed(tmp_path):
    log = RunLog(tmp_path, {}, rank=0)
    RunLog(tmp_path, {}, rank=1).append(1, {}, "b")
    log.append(0, {}, "a")
    assert log.contents([1, 0]) == ["b", "a"]
    with pytest.raises(DataError, match="lacks 1 steps, the first is 2"):
        log.contents([0, 1, 2])


# --- the embedded checkpoint


def test_the_embedded_checkpoint_goes_through(segmenter, examples, true_masks, tmp_path, monkeypatch):
    """A real model end to end: its answers decode, are scored at the photo's size, and come again the same."""
    from t4s.segmenter.segmenter import Segmenter

    lines = []
    for name, category in (("two_cats", "cat"), ("riders", "person")):
        (tmp_path / f"{name}.jpg").write_bytes((examples / f"{name}.jpg").read_bytes())
        Image.fromarray(true_masks[f"{name}.jpg"][category].astype(np.uint8)).save(tmp_path / f"{name}.png")
        lines.append({"image": f"{name}.jpg", "mask": f"{name}.png", "source": "coco", "split": "val",
                      "classes": {"1": category}})  # fmt: skip
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    monkeypatch.setattr(Segmenter, "from_pretrained", lambda *arguments, **named: segmenter)
    first = run(tmp_path, tmp_path / "a", "--refine", "smooth")
    assert first["phrases"]["phrases"] == 4 and first["phrases"]["targets"] == 2
    assert first["invalid"] == [] and first["phrases"]["strict"] == first["phrases"]["repaired"]
    assert 0 < first["cost"]["forwards"] <= first["cost"]["tokens"]
    assert run(tmp_path, tmp_path / "b", "--refine", "smooth") == first
