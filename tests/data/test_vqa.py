"""VQA datasets and what eval.py makes of them, with a scripted talker and with tiny random chat models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import t4s.eval as evaluation
from t4s import codec
from t4s.data.spec import Mixture, open_dataset
from t4s.data.vqa import LONGEST, VqaDataset
from t4s.errors import DataError, QueryError
from t4s.evaluation import predictors
from t4s.models.checkpoint import CheckpointConfig
from t4s.records import Answer, Span
from tests.support.families import IMAGE_SIZE, build

LINES = [
    {"image": "a.png", "question": "How many dogs?", "answers": ["2", "two", "2", "two dogs"], "split": "val"},
    {"image": "b.png", "question": "What colour is it?", "answers": ["Red"], "split": "val"},
    {"image": "a.png", "question": "Is it day?", "answers": ["yes", "yes", "yes", "no"], "split": "val"},
    {"image": "b.png", "question": "A question of the training split?", "answers": ["no"], "other": [1]},
    {"image": "c.png", "question": "Where is the cat?", "answers": ["sofa", "on the sofa"], "split": "val"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    return tmp_path / "quiz.jsonl"


def test_questions_come_by_photo(file):
    dataset = VqaDataset(file, "val")
    asked = [[question.question for question in dataset[index]] for index in range(len(dataset))]
    assert asked == [["How many dogs?", "Is it day?"], ["What colour is it?"], ["Where is the cat?"]]
    first, second = dataset[0]
    assert first.image is second.image and first.image.size == (30, 20)
    assert first.answers == ("2", "two", "2", "two dogs") and (first.id, second.id) == ("quiz/1", "quiz/3")
    assert sum(len(VqaDataset(file, "all")[index]) for index in range(3)) == 5
    assert len(VqaDataset(file, "train")) == 1


@pytest.mark.parametrize("line, says", [
    ('{"image": "a.png", "question": "x?", "answers": ["y"]', "line 2 is not a JSON object .*such as {\"image\""),
    ("[1]", "line 2 is not a JSON object; write one such as"),
    ({"image": "z.png"}, 'line 2, field "image": there is no file .*z.png'), ({"image": 3}, 'field "image": it is 3'),
    ({"question": " "}, 'line 2, field "question": it is " "; write 1 to'),
    ({"question": "x" * (LONGEST + 1)}, 'field "question": it is .*1 to'), ({"question": None}, "it is missing"),
    ({"answers": []}, r'line 2, field "answers": it is \[\]; write a list of at least one text'),
    ({"answers": "two"}, '"answers": it is "two"'), ({"answers": ["two", 2]}, '"answers": it is .*2'),
    ({"split": 1}, 'field "split": it is 1'),
])  # fmt: skip
def test_bad_lines_are_named_with_file_line_and_field(file, line, says):
    whole = line if isinstance(line, str) else json.dumps(LINES[0] | line)
    file.write_text(f"{json.dumps(LINES[0])}\n{whole}\n")
    with pytest.raises(DataError, match=f"quiz.jsonl, {says}" if says.startswith("line") else says):
        VqaDataset(file)


def test_other_faults_of_the_file_are_named(file):
    with pytest.raises(DataError, match="There is no file .*none.jsonl"):
        VqaDataset(file.with_name("none.jsonl"))
    file.with_name("a.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match='quiz.jsonl, line 1, field "image"'):
        VqaDataset(file)[0]
    file.write_text(json.dumps(LINES[0]) + "\n" + json.dumps(LINES[3]))
    with pytest.raises(DataError, match="no line of the split 'test'; its lines are of train, val"):
        VqaDataset(file, "test")


def test_nothing_trains_on_questions(file):
    for opens in (lambda: Mixture.open([f"vqa:{file}"]), lambda: open_dataset(f"vqa:{file}@val")):
        with pytest.raises(DataError, match="holds questions and no masks; only t4s/eval.py takes it"):
            opens()


# --- eval.py


class ChatPredictor:
    """Knows most answers; segments one, is cut at another, and refuses a word."""

    def __init__(self) -> None:
        self.encoded, self.asked, self.stop_after = 0, [], None
        model = SimpleNamespace(device=SimpleNamespace(type="cpu"), dtype="torch.float32")
        self.vlm = SimpleNamespace(config=CheckpointConfig(), model=model)

    def encode(self, image):
        self.encoded += 1
        return image

    def ask(self, image, question: str, refine: str, limit: int) -> Answer:
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(question)
        assert limit == predictors.MAX_REPLY
        if "day" in question:
            raise QueryError("No questions of time.")
        said = {"dogs": "Two.", "colour": "red <seg>", "cat": "on a chair"}
        text = next(answer for word, answer in said.items() if word in question)
        grid = codec.DescriptorGrid(np.zeros((16, 16), int), ("others",))
        span = Span(4, 9, "", grid, np.zeros((20, 30), bool), {}, None, (codec.Fault(0, 0, "empty"),))
        cut = "<" in text
        stats = {"tokens": 3, "forwards": 2, "ended": "truncated" if cut else "complete"}
        return Answer(question, text, (span,) if cut else (), stats)


@pytest.fixture
def talker(monkeypatch, tmp_path) -> ChatPredictor:
    stand_in = ChatPredictor()
    fake = SimpleNamespace(from_pretrained=lambda *arguments, **named: stand_in)
    monkeypatch.setitem(sys.modules, "t4s.segmenter.segmenter", SimpleNamespace(Segmenter=fake))
    (tmp_path / "checkpoint").mkdir()
    CheckpointConfig().write(tmp_path / "checkpoint")
    monkeypatch.setattr("t4s.models.checkpoint.find", lambda *a, **k: tmp_path / "checkpoint")
    return stand_in


def run(file: Path, out: Path, *more: str) -> dict:
    assert evaluation.main(["--dataset", f"vqa:{file}", "--out", str(out), *more]) == 0
    results = json.loads((out / "results.json").read_text())
    results.pop("timings")
    return results


def test_accuracy_is_counted_as_the_benchmark_does(file, talker, tmp_path, capsys):
    """ "Two." is "2" to VQA: of four people three said so (3/4 of leave-one-out thirds); "red <seg>" is not "red"."""
    results = run(file, tmp_path / "out", "--save", str(tmp_path / "saved"))
    thirds = [min(1, (3 - (person < 3)) / 3) for person in range(4)]
    assert results["vqa"] == {"questions": 4, "vqa_accuracy": pytest.approx(100 * np.mean(thirds) / 4), "refused": 1,
                              "cut": 1, "with_grids": 1}  # fmt: skip
    assert results["invalid"] == [{"id": "quiz/3", "why": "No questions of time."}]
    assert results["cost"] == {"answers": 3, "tokens": 3, "forwards": 2}
    assert "phrases" not in results and results["settings"]["max_reply"] == 128
    briefly = "How many dogs?\nAnswer the question using a single word or phrase."
    assert talker.encoded == 3 and talker.asked[0] == briefly
    printed = capsys.readouterr().out
    assert "VQA accuracy" in printed and "with a grid" in printed
    lines = [json.loads(line) for line in (tmp_path / "saved" / "predictions.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["Two.", None, "red <seg>", "on a chair"]
    assert lines[1]["refused"] == "No questions of time." and lines[2]["faults"] == ["empty"]
    assert not (tmp_path / "saved" / "sheet.png").exists()


def test_a_stopped_run_goes_on_to_the_same_results(file, talker, tmp_path):
    whole = run(file, tmp_path / "whole")
    talker.asked.clear()
    talker.stop_after = 3
    assert evaluation.main(["--dataset", f"vqa:{file}", "--out", str(tmp_path / "out")]) == 130
    talker.stop_after = None
    assert run(file, tmp_path / "out") == whole


def test_accuracy_goes_into_the_card(file, talker, tmp_path):
    from t4s import hub

    (tmp_path / "checkpoint" / "README.md").write_text("---\nlicense: other\n---\n" + "\n".join(hub.FIGURES))
    run(file, tmp_path / "out", "--checkpoint", str(tmp_path / "checkpoint"), "--update-card")
    assert "| VQA accuracy | " in (tmp_path / "checkpoint" / "README.md").read_text()


@pytest.mark.parametrize("option", [
    ["--oracle", "mask"], ["--refine", "none"], ["--min-cover", "0.1"], ["--synonyms"],
    ["--mean-mask-baseline", "synthetic"], ["--classes-per-query", "3"],
])  # fmt: skip
def test_what_belongs_to_masks_is_refused(file, option, capsys):
    assert evaluation.main(["--dataset", f"vqa:{file}", *option]) == 2
    assert f"{option[0]} is about masks, and a vqa dataset has none" in capsys.readouterr().err


def test_the_embedded_checkpoint_is_refused_before_anything_is_asked(file, tmp_path, capsys):
    assert evaluation.main(["--dataset", f"vqa:{file}", "--out", str(tmp_path / "out")]) == 2
    assert "does not chat" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_before_and_after_fine_tuning(file, tmp_path):
    """A base that has no t4s.json yet is asked as its fine-tuned self is: the same photo size, the same words."""
    base, tuned = build("llava", tmp_path / "base"), build("llava", tmp_path / "tuned")
    CheckpointConfig(grid=(4, 4), image_size=IMAGE_SIZE["llava"], refiner="none").write(tuned)
    before = run(file, tmp_path / "before", "--checkpoint", str(base), "--save", str(tmp_path / "b"))
    after = run(file, tmp_path / "after", "--checkpoint", str(tuned), "--save", str(tmp_path / "a"))
    assert before["settings"]["image_size"] == after["settings"]["image_size"] == IMAGE_SIZE["llava"]
    assert before["vqa"] == after["vqa"] and before["vqa"]["questions"] == 4 and before["cost"]["answers"] == 4
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in "ab"]
    assert texts[0] == texts[1]
