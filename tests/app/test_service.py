"""What the app asks of the model, and when; refiners; and calls that run in processes of their own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import multiprocessing
import pickle
import runpy
import shutil
import socket
import sys
import weakref
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import torch

import app
from t4s import Segmenter
from t4s.app import controller, downloads, service
from t4s.app.serving import settings
from t4s.app.suggestions import Suggestions
from t4s.errors import CheckpointError, QueryError
from t4s.imaging.loading import open_photo
from t4s.records import Prediction
from t4s.refine import sam
from t4s.refine.refiner import refine as refine_grid
from tests.support import stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"


def test_fields_are_checked_before_anything_runs():
    """One verdict a field, so that the message stands beside the field that it is about."""

    def verdicts(checked: list[dict]) -> list[bool]:
        return [each["is_valid"] for each in checked]

    segmenter = stand_in.StandIn()
    segmenter.vlm.config = dataclasses.replace(segmenter.vlm.config, normalize_queries=True)
    talk = controller.TabController(app.gpu_model(service.InferenceService(segmenter)), str)
    many = ", ".join(map(str, range(65)))
    lists = (("cat, dog", True), ("cat\ncat,,", True), (" , ", False), (many, False), ("x" * 201, False),
             ("cat, others", False), ("cat, the cat", False))  # fmt: skip
    for names, good in lists:
        assert verdicts(talk.check_names("photo", names, "", "", "")) == [True, good, True, True, True], names
    assert verdicts(talk.check_phrase(None, " ", "")) == [False, False, True]
    reserved = "is reserved for the background"
    for phrase, reason in (("x" * 201, "this has 201"), ("Others", reserved), ("Show me the others", reserved)):
        _, phrase_verdict = talk.check_phrase("photo", phrase)
        assert not phrase_verdict["is_valid"] and reason in phrase_verdict["message"]


def test_a_photo_is_encoded_once_and_a_refiner_asks_nothing():
    segmenter = stand_in.StandIn()
    model = app.gpu_model(service.InferenceService(segmenter))
    *_, first = model.write(str(CATS), "cat", "smooth", "fast")
    assert segmenter.encoded == segmenter.asked == 1
    list(model.write(str(CATS), "toilet", "smooth", "fast"))
    assert (segmenter.encoded, segmenter.asked) == (1, 2)  # the second phrase finds the photo encoded
    again = model.refine(str(CATS), first, "none")
    assert (segmenter.encoded, segmenter.asked) == (1, 2)
    expected = refine_grid("none", np.asarray(open_photo(CATS)), first.grid, first.confidence)["cat"]
    assert again.grid == first.grid and (again.mask == expected).all() and (again.mask != first.mask).any()
    ys, xs = np.nonzero(again.mask)
    assert again.box == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_encoded_photos_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(service, "ENCODED_BYTES", 2_500_000)  # the stand-in says a million bytes a photo
    segmenter = stand_in.StandIn()
    encode = service.InferenceService(segmenter).encode
    for path in (CATS, RIDERS, CATS, EXAMPLES / "gull.jpg", CATS, RIDERS):
        encode(str(path))
    assert segmenter.encoded == 4  # the riders went when the gull came: they had not been asked for the longest


def test_an_example_asks_the_model_once_and_grows_again_for_the_next_visitor():
    segmenter = stand_in.StandIn()
    talk = controller.TabController(app.gpu_model(service.InferenceService(segmenter)), str)
    ask = (0, str(CATS), "cat", "smooth", "", "fast", "")
    first, again = list(talk.ask_example(*ask)), list(talk.ask_example(*ask))
    assert segmenter.asked == 1
    growing = [view["written"] for view, _ in again[:-1]]
    assert len(growing) > 10 and growing == sorted(growing) and all(view["running"] for view, _ in again[:-1])
    assert again[-1][0] == first[-1][0]  # the same page in the end
    *_, (view, answered) = talk.ask_example(0, str(CATS), "cat", "none", "", "fast", "")
    assert (
        segmenter.asked == 1 and "refine (none)" in [name for name, *_ in view["facts"]] and answered.path == str(CATS)
    )
    assert (answered.shown.mask != first[-1][1].shown.mask).any()
    list(talk.ask_example(0, str(CATS), "dog", "smooth", "", "fast", ""))
    assert segmenter.asked == 2  # another question


def test_answers_kept_for_examples_cannot_be_poisoned():
    """Index, photo and phrase came from the client: anyone could choose what the next visitor saw."""
    segmenter = stand_in.StandIn()
    talk = controller.TabController(app.gpu_model(service.InferenceService(segmenter)), str)
    for index, photo, phrase in ((0, RIDERS, "cat"), (0, CATS, "person"), (99, CATS, "cat"), (-8, CATS, "cat"),
                                 ("0", CATS, "cat"), ([], CATS, "cat"), (1, CATS, "cat")):  # fmt: skip
        before = segmenter.asked
        _, answered = list(talk.ask_example(index, str(photo), phrase, "smooth", "", "fast", ""))[-1]
        assert segmenter.asked == before + 1 and answered.path == str(photo)
    _, answered = list(talk.ask_example(0, str(CATS), "cat", "smooth", "", "fast", ""))[-1]
    right = segmenter(CATS, "cat", "smooth")
    assert (answered.shown.mask == right.mask).all() and answered.shown.query == "cat"


def test_an_answer_is_refined_on_its_own_photo_alone():
    """With a new photo in the field and the old answer still kept, a changed refiner drew the old grid over it."""
    import gradio as gr

    segmenter = stand_in.StandIn()
    talk = controller.TabController(app.gpu_model(service.InferenceService(segmenter)), str)
    *_, (_, answered) = talk.ask(str(CATS), "cat", "smooth", "", "fast", "")
    assert talk.refine(str(RIDERS), answered, "none", "") == talk.refine(None, answered, "none", "")
    assert talk.refine(str(RIDERS), answered, "none", "") == talk.refine(str(CATS), None, "none", "")
    assert talk.refine(str(RIDERS), answered, "none", "") == (gr.skip(), gr.skip())
    view, again = talk.refine(str(CATS), answered, "none", "")
    assert (
        again.path == str(CATS)
        and (again.shown.mask != answered.shown.mask).any()
        and "refine (none)" in [name for name, *_ in view["facts"]]
    )
    assert segmenter.asked == 1


def test_an_answer_stopped_before_it_drew_anything_is_no_past_answer(tmp_path: Path):
    talk = controller.TabController(app.gpu_model(service.InferenceService(stand_in.StandIn())), str)
    stop_file = tmp_path / "stop"
    *_, (_, whole) = talk.ask(str(CATS), "cat", "smooth", "", "fast", str(stop_file))
    history, _ = talk.remember(whole, [])
    assert len(history) == 1
    stop_file.touch()
    *_, (_, stopped) = talk.ask(str(CATS), "dog", "smooth", "", "fast", str(stop_file))
    assert stopped.answer.stats["ended"] == "stopped"
    kept, choices = talk.remember(stopped, history)
    assert kept == history and len(choices["items"]) == 1


def test_a_stopped_example_is_not_kept(tmp_path: Path):
    segmenter = stand_in.StandIn()
    talk = controller.TabController(app.gpu_model(service.InferenceService(segmenter)), str)
    (tmp_path / "stop").touch()
    *_, (view, _) = talk.ask_example(0, str(CATS), "cat", "smooth", "", "fast", str(tmp_path / "stop"))
    assert view["kind"] == "stopped"
    *_, (view, _) = talk.ask_example(0, str(CATS), "cat", "smooth", "", "fast", "")
    assert view["kind"] == "found" and segmenter.asked == 2


def _zero_gpu(used: list[str]):
    """What stands for `spaces.GPU`: each call is a fork; arguments and results are pickled, as ZeroGPU does it."""

    def decorate(duration):
        def wrap(function):
            used.append(f"decorated {function.__name__}")

            @functools.wraps(function)
            def call(*arguments):
                seconds = duration(*arguments) if callable(duration) else duration
                assert 0 < seconds <= 120
                used.append(function.__name__)
                yield from _forked(function, pickle.dumps(arguments))

            if inspect.isgeneratorfunction(function):
                return call
            return lambda *arguments: next(call(*arguments))

        return wrap

    return decorate


def _forked(function, arguments: bytes) -> list:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        try:
            made = function(*pickle.loads(arguments))
            results = list(made) if inspect.isgenerator(made) else [made]
        except gr.Error as error:  # of all errors ZeroGPU brings these back alone
            results = error
        there.send_bytes(pickle.dumps(results))

    process = context.Process(target=run)
    process.start()
    assert here.poll(60), "the forked process gave no answer"
    results = pickle.loads(here.recv_bytes())
    process.join(10)
    if isinstance(results, gr.Error):
        raise results
    return results


def test_gpu_functions_work_in_a_process_of_their_own(tiny_sam: str, monkeypatch: pytest.MonkeyPatch):
    """As on ZeroGPU, where the app's own SAM is loaded before the fork and inherited."""
    used: list[str] = []
    monkeypatch.setattr(app.spaces, "GPU", _zero_gpu(used))
    segmenter = stand_in.StandIn()
    sam.load.cache_clear()
    model = app.gpu_model(service.InferenceService(segmenter, f"sam:{tiny_sam}"))
    assert sam.load.cache_info().currsize == 1
    *growing, answer = model.write(str(CATS), "cat", model.service.refiner, "fast")
    assert len(growing) > 5 and isinstance(answer, Prediction) and answer.mask.any()
    assert segmenter.encoded == 0  # here, where the next fork would find it: each call encodes for itself
    with pytest.raises(gr.Error, match="reserved"):
        list(model.write(str(CATS), "others", "smooth", "fast"))
    with pytest.raises(gr.Error, match="not offered"):
        model.refine(str(CATS), answer, "sam:nobody/nothing")
    monkeypatch.setattr(service, "suggest", lambda vlm, encoded, count: Suggestions(("cat",)))
    assert model.suggest(str(CATS)).names == ("cat",)
    answers, problem = model.write_all(str(CATS), ["cat", "toilet"], "smooth")
    assert [each.query for each in answers] == ["cat", "toilet"] and problem == ""
    again = model.refine(str(CATS), answers[0], model.service.refiner)
    assert (again.mask == answer.mask).all() and (again.mask != answers[0].mask).any()
    decorated = [name.removeprefix("decorated ") for name in used if name.startswith("decorated ")]
    assert sorted(decorated) == sorted({name for name in used if not name.startswith("decorated ")})
    assert model.refine(str(CATS), answer, "none").mask.any() and used.count("refine") == 2  # no GPU for the others


def test_gpu_functions_work_after_real_answers_with_two_threads(monkeypatch: pytest.MonkeyPatch):
    """Forks waited for ever for the threads that torch had started in the parent."""
    used: list[str] = []
    monkeypatch.setattr(app.spaces, "GPU", _zero_gpu(used))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = app.gpu_model(service.InferenceService(Segmenter.from_pretrained(device="cpu")))
        for answer in model.service.write(str(CATS), "cat", "edge", "fast"):
            last = answer
        *_, forked = model.write(str(CATS), "cat", "edge", "fast")
        assert forked.text == last.text and (forked.mask == last.mask).all()
        *_, forked = model.write(str(RIDERS), ["horse", "person"], "guided", "constrained")
        assert forked.stats["ended"] == "complete"
        (forked,), problem = model.write_all(str(RIDERS), ["horse"], "edge")
        assert forked.mask.any() and problem == ""
        assert "cat" in model.suggest(str(CATS)).names
        assert model.refine_on_gpu(str(CATS), last, "guided").mask.any()
        assert torch.get_num_threads() == 2  # here
    finally:
        torch.set_num_threads(before)
    decorated = {name.removeprefix("decorated ") for name in used if name.startswith("decorated ")}
    assert decorated == {name for name in used if not name.startswith("decorated ")}


def test_a_photo_whose_file_changed_is_encoded_again(tmp_path: Path):
    """An address may deliver another photo the next day, under the same name."""
    segmenter = stand_in.StandIn()
    encode = service.InferenceService(segmenter).encode
    shutil.copy(CATS, tmp_path / "photo.jpg")
    first = encode(str(tmp_path / "photo.jpg"))
    shutil.copy(RIDERS, tmp_path / "photo.jpg")
    assert encode(str(tmp_path / "photo.jpg")).photo.shape != first.photo.shape
    assert encode(str(CATS)) is first and segmenter.encoded == 2  # a photo is the same at any path


def test_sam_encodes_each_photo_once(tiny_sam: str, monkeypatch: pytest.MonkeyPatch):
    segmenter = stand_in.StandIn()
    own = service.InferenceService(segmenter, f"sam:{tiny_sam}")
    model, _ = sam.load(tiny_sam)
    calls, embed = [], model.get_image_embeddings
    monkeypatch.setattr(model, "get_image_embeddings", lambda pixels: calls.append(1) or embed(pixels))
    sam._cache.clear()
    for path, phrase in ((CATS, "cat"), (RIDERS, "horse"), (CATS, "toilet"), (RIDERS, "person")):
        *_, answer = own.write(str(path), phrase, own.refiner, "fast")
        own.refine(str(path), answer, own.refiner)
    assert len(calls) == 2 and segmenter.encoded == 2


def test_a_wrong_refiner_of_the_owner_stops_the_start():
    with pytest.raises(QueryError, match="no refiner 'egde'"):
        service.InferenceService(stand_in.StandIn(), "egde")
    with pytest.raises(CheckpointError, match="not in the cache"):
        service.InferenceService(stand_in.StandIn(), "sam:nobody/nothing")


def test_a_wrong_space_variable_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("T4S_CHECKPOINT", str(tmp_path))
    with pytest.raises(SystemExit, match="has no t4s.json.*give a checkpoint"):
        runpy.run_path(str(ROOT / "app.py"), run_name="__main__")


@pytest.mark.parametrize("port", ["taken", "seven"])
def test_a_port_that_cannot_be_had_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch, port: str):
    monkeypatch.setattr(app.Segmenter, "from_pretrained", lambda source: stand_in.StandIn())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        monkeypatch.setenv("GRADIO_SERVER_PORT", number if port == "taken" else port)
        with pytest.raises(SystemExit, match="cannot listen.*name another with GRADIO_SERVER_PORT"):
            app.main()


def test_visitors_choose_among_what_the_operator_allows(tiny_sam: str, tmp_path: Path):
    """One anonymous request could have the server download and build any repository, in place of its own SAM."""
    own = service.InferenceService(stand_in.StandIn(), "edge", [tiny_sam])
    assert own.refiners[0] == "edge" and f"sam:{tiny_sam}" in own.refiners
    assert own.resolve("") == "edge" and own.resolve("sam") == own.resolve(f"sam:{tiny_sam}") == f"sam:{tiny_sam}"
    (tmp_path / "config.json").write_text("{}")
    said = set()
    for refiner in ("sam:nobody/nothing", f"sam:{tmp_path}", "sam:no/such/folder", "sam:../..", "sam:", "egde"):
        with pytest.raises(QueryError, match="is not offered here; choose one of edge, smooth") as caught:
            own.resolve(refiner)
        said.add(str(caught.value).replace(repr(refiner), ""))
    assert len(said) == 1  # whether it exists or not
    assert sam.load.cache_info().currsize <= 4
    closed = service.InferenceService(stand_in.StandIn())
    assert not [name for name in closed.refiners if name.startswith("sam")]
    with pytest.raises(QueryError, match="not offered"):
        closed.resolve("sam")


def test_a_server_of_ones_own_takes_any_sam_of_the_hub(tiny_sam: str):
    own = service.InferenceService(stand_in.StandIn(), f"sam:{tiny_sam}", None)
    assert own.resolve("") == own.resolve("sam") == own.refiner == f"sam:{tiny_sam}"
    with pytest.raises(CheckpointError, match="not in the cache"):
        own.resolve("sam:nobody/nothing")
    with pytest.raises(QueryError, match="not a Hub id"):
        own.resolve("sam:assets/examples")


def test_a_refiner_without_its_package_stops_the_start(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(CheckpointError, match="pip install pydensecrf2"):
        service.InferenceService(stand_in.StandIn(), "crf")


@pytest.mark.parametrize(
    ("environment", "public", "sams"),
    [
        ({}, False, None),
        ({"GRADIO_SERVER_NAME": "127.0.0.1"}, False, None),
        ({"GRADIO_SERVER_NAME": "0.0.0.0"}, True, ()),
        ({"SPACE_ID": "me/space"}, True, ()),
        ({"GRADIO_SHARE": "True"}, True, ()),
        ({"SPACE_ID": "me/space", "T4S_SAM": "a/b, c/d,a/b"}, True, ("a/b", "c/d")),
        ({"SPACE_ID": "me/space", "T4S_SAM": "*"}, True, None),
        ({"T4S_SAM": ""}, False, ()),
    ],
)
def test_sams_are_closed_where_others_can_reach_the_server(environment: dict, public: bool, sams: tuple | None):
    assert settings.is_public(environment) is public
    assert settings.Settings.read(environment).sams == sams
    with pytest.raises(QueryError, match="at most 4"):
        settings.Settings.read({"T4S_SAM": "a/a,b/b,c/c,d/d,e/e"})


class Endless(stand_in.StandIn):
    """Writes on and on, `tokens` a step."""

    def __init__(self, tokens: int = 1):
        super().__init__()
        self.tokens, self.steps = tokens, 0

    def stream(self, image, query, refine=None, decoding="fast", stop=lambda: False):
        photo = self.encode(image).photo
        for self.steps in range(1, 100_000):
            ended = "stopped" if stop() else ""
            answer = self.predict(photo, query, "others *16\n others *4| cat *12\n", refine, self.steps, ended)
            answer.stats["tokens"] = self.steps * self.tokens
            yield answer
            if ended:
                return


def test_an_answer_ends_when_its_seconds_or_tokens_are_spent(monkeypatch: pytest.MonkeyPatch):
    """A visitor's odd phrase took 156 CPU seconds, and the others waited."""
    endless = Endless(tokens=1000)
    for answer in service.InferenceService(endless).write(str(CATS), "cat", "smooth", "fast"):
        last = answer
    assert last.stats["ended"] == "truncated" and endless.steps == 10  # 8,192 tokens, and the pass under way
    assert last.mask.any()  # what there is
    monkeypatch.setattr(service, "MAX_SECONDS", 0.2)
    slow = service.InferenceService(Endless())
    for answer in slow.write(str(CATS), "cat", "smooth", "fast"):
        last = answer
    assert last.stats["ended"] == "truncated"
    answers, problem = slow.write_all(str(CATS), ["cat", "person"], "smooth")
    assert [each.stats["ended"] for each in answers] == ["truncated"] * 2 and problem == ""


def test_only_the_last_steps_of_an_answer_are_kept():
    """`*_, last = steps` keeps all of them, each with its masks."""
    alive: weakref.WeakSet[Prediction] = weakref.WeakSet()
    most = 0

    class Watched(Endless):
        def stream(self, *arguments, **settings):
            nonlocal most
            for answer in super().stream(*arguments, **settings):
                alive.add(answer)
                most = max(most, len(alive))
                yield answer

    watched = service.InferenceService(Watched(tokens=100))
    answers, _ = watched.write_all(str(CATS), ["cat", "dog"], "none")
    assert len(answers) == 2 and watched.segmenter.steps > 80 and most <= 6
    most = 0
    for _ in watched.write(str(CATS), "cat", "none", "fast"):
        pass
    assert most <= 6


def test_a_stopped_answer_is_stopped_and_not_truncated(tmp_path: Path):
    (tmp_path / "stop").touch()
    for answer in service.InferenceService(Endless()).write(str(CATS), "cat", "none", "fast", str(tmp_path / "stop")):
        last = answer
    assert last.stats["ended"] == "stopped"


def test_a_batch_asks_for_a_few_phrases_at_once(tmp_path: Path):
    """So that a visitor who left, or stops it, is noticed soon, and no call takes longer than a GPU is lent for."""
    calls = []

    def write_all(path: str, phrases: list[str], refiner: str):
        calls.append(phrases)
        return [], "broken" if path == "b" else ""

    results = downloads.ResultsZip(tmp_path / "text4seg.zip")
    phrases = [f"thing {number}" for number in range(10)]
    steps = list(service.run_batch(write_all, ["a", "b"], "\n".join(phrases), "", results))
    assert calls == [phrases[:4], phrases[4:8], phrases[8:], phrases[:4]]
    assert [(done, path) for done, _, path, _ in steps] == [(0, ""), (0, ""), (0, ""), (1, "a"), (2, "b")]
    assert [row["error"] for row in results.rows] == ["broken"]
    assert service.gpu_seconds("a", phrases[:4], "edge") <= 120
