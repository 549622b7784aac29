"""`bench places`: the right one of several, judged with answers that are known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from t4s import bench
from t4s.data.scenes.phrasing import Instance, placed_phrases
from t4s.data.scenes.staging import Scene
from t4s.errors import DataError
from t4s.evaluation.bench.places import ask, judge, table

SPEC = "synthetic:scenes=40,size=64@val"


def two_dogs_and_a_cat() -> Scene:
    masks = np.zeros((3, 40, 80), bool)
    masks[0, 10:20, 5:15] = masks[1, 10:30, 55:75] = masks[2, 30:38, 20:50] = True
    instances = tuple(Instance.of(name, None, mask) for name, mask in zip(("dog", "dog", "cat"), masks, strict=True))
    return Scene(Image.new("RGB", (80, 40)), instances, masks, (), complete=True)


def test_the_right_one_of_its_name_is_judged():
    scene, nothing = two_dogs_and_a_cat(), np.zeros((40, 80), bool)
    left, right, cat = scene.masks
    answers = {"right": left, "another": right, "denied": nothing}
    for verdict, mask in answers.items():
        assert judge(scene, 0, "the dog on the left", 0, mask).verdict == verdict
    assert judge(scene, 0, "the dog on the left", 0, cat).verdict == "another"
    assert judge(scene, 0, "the bigger dog", 1, left | right).verdict == "right", "more of it than of the other"
    one = judge(scene, 0, "the dog on the left", 0, left | cat)
    assert (one.kind, one.candidates, one.verdict) == ("left", 2, "right") and one.iou == pytest.approx(100 / 340)


def test_a_model_that_knows_is_always_right_and_one_that_denies_never():
    def knows(scene, phrases):
        meant = dict(placed_phrases(scene.instances))
        return [scene.masks[list(meant[phrase])].any(0) for phrase in phrases]

    asked = list(ask(SPEC, knows, 12))
    assert len({one.picture for one in asked}) == 12 and all(one.verdict == "right" for one in asked)
    assert all(one.iou == 1 for one in asked)
    none = list(ask(SPEC, lambda scene, phrases: [np.zeros(scene.masks.shape[1:], bool)] * len(phrases), 12))
    assert all(one.verdict == "denied" for one in none) and len(none) == len(asked)
    lines = table("made", asked + none).splitlines()
    assert lines[-1].startswith(f"| all | 50.0 | {2 * len(asked)} | 12 | 50.0 |")
    assert [line.split("|")[1].strip() for line in lines[4:6]] == ["left", "right"]


def test_what_cannot_be_queried_is_one_sentence(capsys):
    assert bench.main(["places", "--dataset", SPEC, "--source", "voc"]) == 2
    assert "no picture of source voc" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.main(["places"])
    assert "--dataset" in capsys.readouterr().err


def test_a_dataset_without_instances_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"image": "a.png", "mask": "a.png", "phrase": "dog"}\n')
    with pytest.raises(DataError):
        list(ask(f"jsonl:{tmp_path / 'a.jsonl'}", lambda scene, phrases: [], 1))


def test_the_embedded_model_is_asked(capsys):
    """The command as it is called; what it answers to shapes is not judged here."""
    assert bench.main(["places", "--dataset", SPEC, "--limit", "1", "--refine", "none", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "| phrases | right % | n |" in printed and "| all |" in printed and "IoU" in printed.splitlines()[0]
