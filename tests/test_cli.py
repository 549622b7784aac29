"""The command line as a user types it: `python -m t4s segment photo.jpg "cat" -o mask.png`.

Most tests here start a real process, some with every way to the network closed.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s import Prediction, codec
from t4s.__main__ import main
from t4s.errors import DataError

ROOT = Path(__file__).resolve().parent.parent
MAX_MEMORY = 1_000_000_000  # bytes that `t4s segment` may take
# Python runs a sitecustomize.py on its path at every start; this one cuts the network off.
NO_NETWORK = """
import socket
def refuse(*_):
    raise AssertionError("the network is switched off, and something reached for it")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


# How a command starts, up to an argument that is then refused by its name.
ENTRIES = [
    ("-m", "t4s.check", "DATA"),
    (str(ROOT / "t4s" / "check.py"), "DATA"),
    ("-m", "t4s.eval", "--dataset", "DATA"),
    ("-m", "t4s.label", "--merge"),
    ("-m", "t4s.bench", "codec"),
    ("-m", "t4s.train", "--dataset", "DATA", "--out", "OUT"),
    (str(ROOT / "t4s" / "train.py"), "--dataset", "DATA", "--out", "OUT"),
    ("-m", "t4s.hub", "FOLDER", "ID"),
    ("-m", "t4s.training.refiner.train", "--dataset", "DATA", "--out", "OUT"),
    ("-m", "t4s.training.tower.train", "--dataset", "DATA", "--out", "OUT"),
]


def _python(*arguments: object, cwd: Path = ROOT, path: tuple[Path, ...] = (ROOT,), **environment: str):
    """`python ...` in a process of its own, the package taken from `path` (by default the checkout)."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **environment},
        capture_output=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=180,
    )


def _t4s(*arguments: object, **options):
    """`python -m t4s ...`, with the options of `_python`."""
    return _python("-m", "t4s", *arguments, **options)


def _iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


# --- a photo and a phrase -----------------------------------------------------------------------------


def test_segment_offline_from_another_folder(tmp_path: Path, examples: Path, true_masks):
    """The whole path with the network cut off, not only asked to stay quiet (HF_HUB_OFFLINE unset)."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_NETWORK)
    done = _t4s(
        "segment", examples / "two_cats.jpg", "cat", "-o", "cats.png", "--overlay", "seen.png", "--json", "--by-part",
        cwd=tmp_path, path=(ROOT, tmp_path / "site"), HF_HUB_OFFLINE="0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)  # one object and nothing else on stdout

    truth = true_masks["two_cats.jpg"]["cat"]
    picture = Image.open(tmp_path / "cats.png")
    mask = np.asarray(picture.convert("L")) > 127
    assert picture.size == Image.open(tmp_path / "seen.png").size == truth.shape[::-1]
    assert _iou(mask, truth) >= 0.5
    _check_answer(answer, mask)


def _check_answer(answer: dict, mask: np.ndarray) -> None:
    """The JSON says the same thing as the PNG, in every form that it holds."""
    from pycocotools import mask as coco

    grid, faults = codec.repair(answer["text"], (16, 16))
    assert len(faults) == len(answer["faults"])
    if not faults:
        assert codec.encode(codec.decode(answer["text"], (16, 16))) == answer["text"]
    assert answer["labels"] == list(grid.labels) and np.array_equal(answer["rows"], grid.ids)
    assert answer["present"] is True and 0 < answer["score"] <= 1
    ys, xs = np.nonzero(mask)
    assert answer["box"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert answer["stats"]["forwards"] < answer["stats"]["tokens"]
    assert np.array_equal(coco.decode(answer["coco_rle"]), mask)
    parts = [coco.decode(part["coco_rle"]).astype(bool) for part in answer["parts"]]  # asked for with --by-part
    assert len(parts) >= 2 and not (np.any(parts, axis=0) & ~mask).any()


PEAK = """import re, sys
from t4s.__main__ import main
code = main(sys.argv[1:])
print("peak", re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(code)"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see a process's own peak")
def test_segment_prints_the_text_and_stays_small(examples: Path):
    """Without --json: the raw text and a line of facts; and never more memory than a small laptop has to spare.

    The process says its own peak: what the parent learns (ru_maxrss) begins with the parent's size at the fork.
    """
    command = [sys.executable, "-c", PEAK, "segment", str(examples / "riders.jpg"), "horse"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    opening, rest = done.stdout.split("<seg>")
    body, facts = rest.split("</seg>\n")
    assert opening == "" and codec.repair(body, (16, 16))[0].shape == (16, 16)
    assert facts.startswith("horse: ") and "passes" in facts
    assert int(done.stderr.split()[-1]) * 1024 < MAX_MEMORY


def test_the_grid_depends_on_neither_refiner_nor_decoding(examples: Path, capsys):
    """A refiner once smoothed the grid it was given in place."""
    answers = []
    for options in (["--refine", "none"], ["--refine", "smooth"], ["--refine", "edge"], ["--decoding", "constrained"]):
        assert main(["segment", str(examples / "riders.jpg"), "horse", "--json", *options]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert all(answer["rows"] == answers[0]["rows"] for answer in answers)
    assert answers[0]["coco_rle"] != answers[1]["coco_rle"] != answers[2]["coco_rle"]
    assert gc.isenabled()  # it is off while the model is loaded


def test_an_installed_package_has_its_weights(tmp_path: Path, examples: Path, true_masks):
    """`pip install .` once shipped the modules and left the checkpoint in the checkout."""
    pytest.importorskip("hatchling")
    build = "pip wheel -q --no-deps --no-index --no-build-isolation --disable-pip-version-check -w".split()
    subprocess.run([sys.executable, "-m", *build, str(tmp_path), str(ROOT)], check=True, timeout=180)
    (wheel,) = tmp_path.glob("t4s-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "installed")

    command = ("segment", examples / "two_cats.jpg", "cat", "-o", "mask.png")
    done = _t4s(*command, cwd=tmp_path, path=(tmp_path / "installed",))
    assert done.returncode == 0, done.stderr
    mask = np.asarray(Image.open(tmp_path / "mask.png").convert("L")) > 127
    assert _iou(mask, true_masks["two_cats.jpg"]["cat"]) >= 0.5


# --- bad input: one sentence, exit code 2, no file, no traceback ----------------------------------------


def _refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and done.stdout == ""
    assert "Traceback" not in done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("t4s: ") and sentence.endswith(".")
    return sentence


def test_a_photo_that_is_none(tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("a cat sat on a mat")
    target = tmp_path / "mask.png"
    assert "nowhere.jpg" in _refused(_t4s("segment", tmp_path / "nowhere.jpg", "cat", "-o", target))
    assert "notes.jpg" in _refused(_t4s("segment", tmp_path / "notes.jpg", "cat", "-o", target))
    _refused(_t4s("segment", tmp_path, "cat", "-o", target))
    assert not target.exists()


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("mask.jpg", "PNG"),  # lossy: the edges of the mask would come back grey
        ("nowhere/mask.png", "does not exist"),  # found after a minute of work, once
        ("photo.png", "overwrite"),  # the photo itself
        ("folder.png", "overwrite"),
    ],
)
@pytest.mark.parametrize("option", ["-o", "--overlay"])
def test_an_output_that_cannot_be(option: str, target: str, hint: str, tmp_path: Path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    (tmp_path / "folder.png").mkdir()
    before = (tmp_path / "photo.png").read_bytes()
    assert main(["segment", str(tmp_path / "photo.png"), "cat", option, str(tmp_path / target)]) == 2
    assert hint in capsys.readouterr().err
    assert (tmp_path / "photo.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["  "], "1 to 200"),
        (["|*<>"], "empty"),
        (["x" * 201], "201"),
        (["others"], "reserved"),
        (["cat", "--refine", "magic"], "magic"),
        (["cat", "--decoding", "slow"], "slow"),
        (["cat", "--checkpoint", "no/such/folder/here"], "no/such/folder/here"),
    ],
)
def test_a_question_that_cannot_be_asked(arguments: list[str], hint: str, examples: Path, capsys):
    assert main(["segment", str(examples / "gull.jpg"), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("t4s: ") and captured.err.count("\n") == 1
    assert hint in captured.err and captured.out == ""


def test_a_question_is_checked_before_a_checkpoint_is_looked_for(examples: Path, capsys):
    """It took a download to learn that a refiner is spelled otherwise."""
    for arguments, hint in (
        (["x" * 201], "201"),
        (["cat", "--refine", "egde"], "egde"),
        (["cat", "--decoding", "quick"], "quick"),
    ):
        assert main(["segment", str(examples / "gull.jpg"), *arguments, "--checkpoint", "no/such/folder"]) == 2
        assert hint in capsys.readouterr().err


def test_help_names_the_refiners():
    from t4s.refine.refiner import NAMES

    told = " ".join(_t4s("segment", "--help").stdout.split())
    assert f"refiner: {', '.join(NAMES)} or sam:SOURCE" in told


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_files_and_pipes_get_utf8(examples: Path, encoding: str):
    """`t4s segment … > o.json` ended in a traceback after the model ran."""
    photo = str(examples / "gull.jpg")
    arguments = ["-m", "t4s", "segment", photo, "猫 naïve", "--json", "--refine", "none"]
    done = _python(*arguments, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert "猫 naïve" in answer["text"] + answer["query"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: Path(entry[entry[0] == "-m"]).name)
def test_every_entry_writes_utf8(entry: tuple[str, ...], tmp_path: Path):
    """Only `t4s …` did: without a locale, `python -m t4s.check` wrote the names of files as numbers."""
    done = _python(*entry, "猫", cwd=tmp_path, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.returncode == 2 and "猫" in done.stderr and "Traceback" not in done.stderr


def test_no_entry_is_forgotten():
    guarded = {file for file in (ROOT / "t4s").rglob("*.py") if '__name__ == "__main__"' in file.read_text()}
    assert {file.relative_to(ROOT).as_posix() for file in guarded if "use_utf8()" not in file.read_text()} == {
        "t4s/models/trial.py"  # a child process that is spoken to in numbers
    }


@pytest.mark.parametrize("arguments", [[], ["segment"], ["segment", "photo.jpg"], ["paint", "photo.jpg"]])
def test_a_command_that_is_none(arguments: list[str]):
    done = _t4s(*arguments)
    assert done.returncode == 2 and "usage: t4s" in done.stderr and "Traceback" not in done.stderr


# --- what is printed, over a stand-in model -------------------------------------------------------------


@pytest.fixture
def answers(monkeypatch):
    """Puts a Segmenter in place that gives the prediction set on it."""
    door = types.SimpleNamespace(prediction=None, asked=[])

    class Segmenter:
        @classmethod
        def from_pretrained(cls, source=None):
            door.asked.append(source)
            return lambda photo, phrase, **options: door.asked.append((photo.size, phrase, options)) or door.prediction

    monkeypatch.setitem(sys.modules, "t4s.segmenter.segmenter", types.SimpleNamespace(Segmenter=Segmenter))
    return door


def _prediction(text: str, size: tuple[int, int]) -> Prediction:
    grid, faults = codec.repair(text, (2, 2))
    masks = {label: codec.mask_from_grid(grid, label, size) for label in grid.labels[1:]}
    mask = np.logical_or.reduce([np.zeros(size, bool), *masks.values()])
    confidence = np.full((2, 2), 0.75, np.float32)
    stats = {"tokens": 9, "forwards": 3, "prefill_seconds": 0.1, "decode_seconds": 0.2, "refine_seconds": 0.1}
    box = (0, 0, 2, 2) if mask.any() else None
    return Prediction("dog", text, grid, mask, masks, confidence, mask.any(), 0.75, box, faults, stats)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


def test_not_in_the_photo_is_an_answer(answers, photo: str, tmp_path: Path, capsys):
    """An absent target is a result: exit code 0, said in words, and an all-black mask."""
    answers.prediction = _prediction("others *2\n others *2\n", (4, 4))
    assert main(["segment", photo, "dog", "-o", str(tmp_path / "mask.png")]) == 0
    assert "dog: not in this photo (score 0.75; 9 tokens in 3 passes, 0.4 s)" in capsys.readouterr().out
    assert not np.asarray(Image.open(tmp_path / "mask.png")).any()
    assert answers.asked == [None, ((4, 4), "dog", {})]


def test_a_word_that_was_not_taught_is_said(answers, photo: str, capsys):
    drawn, absent = (_prediction(f"{label} *2\n others *2\n", (4, 4)) for label in ("dog", "others"))
    answers.prediction = replace(drawn, query="Mutt", asked="dog", stats=drawn.stats | {"read_as": {"mutt": "dog"}})
    assert main(["segment", photo, "Mutt"]) == 0
    assert capsys.readouterr().out.endswith("\nIt read 'mutt' as 'dog'.\n")
    answers.prediction = replace(absent, status="unknown word", stats=absent.stats | {"nearest": ["horse"]})
    assert main(["segment", photo, "dog"]) == 0
    printed = capsys.readouterr().out
    assert "dog: nothing drawn" in printed
    assert printed.endswith("\n'dog' is not a word this checkpoint was taught; nearest: horse.\n")


def test_mending_is_said(answers, photo: str, capsys):
    answers.prediction = _prediction("dog *2\n dog *1\n", (4, 4))
    assert main(["segment", photo, "dog", "--refine", "none", "--checkpoint", "my/model"]) == 0
    fault = answers.prediction.faults[0]
    assert f"repaired at row 1, column {fault.column}: {fault.message}" in capsys.readouterr().out
    assert answers.asked == ["my/model", ((4, 4), "dog", {"refine": "none"})]


def test_errors_of_the_other_commands_are_sentences_too(monkeypatch, capsys):
    def train(argv):
        raise DataError(f"There is no dataset {argv[0]!r}; name another.")

    monkeypatch.setitem(sys.modules, "t4s.train", types.SimpleNamespace(main=train))
    assert main(["train", "nothing"]) == 2
    assert capsys.readouterr().err == "t4s: There is no dataset 'nothing'; name another.\n"
