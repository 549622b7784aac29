"""A checkpoint on a server: what a stand-in server does to it, and what comes of it."""

from __future__ import annotations

import json
import math
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants

from t4s import Segmenter, codec
from t4s.decoding import generate
from t4s.decoding.confidence import of as confidence_of
from t4s.decoding.dialects import MAX_DISTINCT_LABELS
from t4s.decoding.grammar import Grammar
from t4s.errors import CheckpointError, EndpointError, QueryError
from t4s.models.checkpoint import CheckpointConfig
from t4s.segmenter.endpoint import Reply, Token
from t4s.segmenter.queries import check_query
from t4s.segmenter.remote import RemoteStep, answer_grammar, cell_confidence
from tests.support.chat_server import SURE, ChatServer
from tests.support.families import build

pytestmark = pytest.mark.usefixtures("local_server")
GRID = (4, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What a checkpoint on a server needs here: its t4s.json."""
    path = tmp_path_factory.mktemp("format")
    CheckpointConfig(grid=GRID, image_size=32, refiner="none", classes_per_query=40).write(path)
    return path


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, (30, 40, 3), np.uint8)


def grid_of(question: str) -> codec.DescriptorGrid:
    """The stand-in's answer: the last word of a question is in the middle."""
    label = question.split("only the ")[-1].removesuffix(" in the image.")
    ids = np.zeros(GRID, int)
    ids[1:3, 2:5] = 1
    return codec.DescriptorGrid(ids, ("others", label))


def answer(question: str, photo: np.ndarray) -> str:
    return f"Sure, here is the segmentation mask: <seg>{codec.encode(grid_of(question))}</seg>"


def remote(server: ChatServer, folder: Path, **options) -> Segmenter:
    return Segmenter.remote(server.url, server.model, checkpoint=folder, **options)


# --- an answer


def test_a_photo_goes_out_and_a_mask_comes_back(folder: Path, photo: np.ndarray):
    with ChatServer(answer) as server:
        found = remote(server, folder)(photo, "the dog")
    assert found.grid == grid_of("only the the dog in the image.") and found.text == codec.encode(found.grid)
    assert found.mask.shape == photo.shape[:2] and found.present and found.status == "found" and not found.faults
    assert (found.confidence == 1).all() and found.stats["probabilities"] is False
    (request,) = server.requests
    assert set(request) == {"model", "messages", "stream", "temperature", "max_tokens"}
    assert request["temperature"] == 0 and request["messages"][0]["content"][1]["text"] == (
        "Please segment only the the dog in the image."
    )


def test_the_photo_is_sent_as_the_model_was_trained_to_see_it(folder: Path, photo: np.ndarray):
    seen = []
    with ChatServer(lambda question, photo: seen.append(photo.shape) or answer(question, photo)) as server:
        segmenter = remote(server, folder)
        encoded = segmenter.encode(photo)
        segmenter(encoded, "dog")
        segmenter(encoded, "cat")
    assert seen == [(32, 32, 3)] * 2 and (encoded.photo == photo).all() and encoded.nbytes > photo.nbytes


def test_it_streams_and_stops(folder: Path, photo: np.ndarray):
    with ChatServer(answer, pause=0.002) as server:
        segmenter = remote(server, folder)
        partial = list(segmenter.stream(photo, "dog"))
        stopped = list(segmenter.stream(photo, "dog", stop=lambda: True))
    assert [each.stats["ended"] for each in partial] == [""] * (len(partial) - 1) + ["complete"] and len(partial) > 20
    texts = [each.text for each in partial]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert [each.stats["ended"] for each in stopped] == ["stopped"]


def test_spaces_of_a_tokenizer_around_the_body(folder: Path, photo: np.ndarray):
    def spaced(question: str, photo: np.ndarray) -> str:
        return answer(question, photo).replace("<seg>", "<seg> ").replace("</seg>", " </seg>.")

    with ChatServer(spaced) as server:
        found = remote(server, folder)(photo, "dog")
    assert not found.faults and found.text == codec.encode(found.grid)


def test_faults_of_a_text_without_a_grammar_are_reported(folder: Path, photo: np.ndarray):
    def faulty(question: str, photo: np.ndarray) -> str:
        return answer(question, photo).replace("dog *3", "dog *9", 1)

    with ChatServer(faulty) as server:
        found = remote(server, folder)(photo, "dog")
    assert found.faults and found.grid.shape == GRID


def test_a_long_class_list_is_asked_in_parts(tmp_path: Path, photo: np.ndarray):
    CheckpointConfig(grid=GRID, image_size=32, refiner="none").write(tmp_path)
    names = [f"name {number}" for number in range(45)]
    with ChatServer(lambda question, photo: f"Sure, here is the segmentation mask: <seg>{'others *6' + chr(10)}"
                    + " others *6\n" * 3 + "</seg>") as server:  # fmt: skip
        found = remote(server, tmp_path).classes(photo, names)
    assert [request["messages"][0]["content"][1]["text"].count("name ") for request in server.requests] == [15] * 3
    assert not found.present and found.stats["parts"] == 3 and found.stats["probabilities"] is False


# --- the grammar


@pytest.mark.parametrize("form", ["structured_outputs", "ebnf", "grammar"])
def test_the_grammar_goes_along_where_the_server_keeps_to_it(form: str, folder: Path, photo: np.ndarray):
    with ChatServer(answer, grammar=form) as server:
        segmenter = remote(server, folder)
        for query in ("dog", "cat"):
            segmenter(photo, query)
        segmenter(photo, "dog", decoding="free")
        probes = len(server.probes)
        segmenter(photo, "cow")
    assert len(server.probes) == probes, "asked once, remembered"
    sent = [form in request for request in server.requests]
    assert sent == [True, True, False, True]
    assert "cat" in json.dumps(server.requests[1][form]) and "dog" not in json.dumps(server.requests[1][form])


def test_a_server_that_ignores_the_grammar_is_found_out(folder: Path, photo: np.ndarray):
    with ChatServer(answer, grammar="ignored", logprobs=True) as server:
        found = remote(server, folder)(photo, "dog")
    assert not set(server.requests[0]) & {"structured_outputs", "ebnf", "grammar"} and found.present


@pytest.mark.parametrize("dialect", ["ebnf", "lark"])
@pytest.mark.parametrize("before", ["Sure, here is the mask: <seg>", 'It "is"\\ so:\n<seg>'])
def test_real_engines_accept_whole_answers(dialect: str, before: str):
    labels = ("dog", 'a "b"')
    ids = np.random.default_rng(4).integers(0, 3, GRID)
    body = codec.encode(codec.DescriptorGrid(ids, ("others", *labels)))
    grammar = answer_grammar(GRID, labels, before, dialect)
    good = [f"{before}{body}</seg>", f"{before} {body} </seg>"]
    bad = [f"{before}{body}", f"{body}</seg>", f"{before}{body}</seg> and", f"{before}{body[:-3]}</seg>"]
    if dialect == "ebnf":
        xgrammar = pytest.importorskip("xgrammar")
        from xgrammar.testing import _is_grammar_accept_string

        parsed = xgrammar.Grammar.from_ebnf(grammar)
        accepts = [_is_grammar_accept_string(parsed, text) for text in [*good, *bad]]
    else:
        accepts = [_lark_accepts(grammar, text) for text in [*good, *bad]]
    assert accepts == [True] * 2 + [False] * 4


def _lark_accepts(grammar: str, text: str) -> bool:
    llguidance = pytest.importorskip("llguidance")
    tokenizer = llguidance.LLTokenizer("byte")
    matcher = llguidance.LLMatcher(tokenizer, llguidance.LLMatcher.grammar_from_lark(grammar))
    assert not matcher.get_error()
    tokens = tokenizer.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def test_equal_neighbours_of_a_loose_grammar_are_one_run(folder: Path, photo: np.ndarray):
    """With many labels the grammar does not keep neighbours apart; the text that is reported is valid all the same."""
    names = [f"n{number}" for number in range(MAX_DISTINCT_LABELS)]

    def loose(question: str, photo: np.ndarray) -> str:
        rows = "others *6\n n0 *1| n0 *2| others *3\n others *6\n others *6\n"
        return f"Sure, here is the segmentation mask: <seg>{rows}</seg>"

    with ChatServer(loose, grammar="structured_outputs", logprobs=True) as server:
        found = remote(server, folder).classes(photo, names)
    assert codec.decode(found.text, GRID) == found.grid and not found.faults
    assert (found.grid.ids[1] == [1, 1, 1, 0, 0, 0]).all() and (found.confidence > 0).all()


# --- probabilities


def test_probabilities_become_confidence(folder: Path, photo: np.ndarray):
    with ChatServer(answer, logprobs=True) as server:
        found = remote(server, folder)(photo, "dog")
    assert "probabilities" not in found.stats and 0.9 < found.score < 0.97 and found.stats["tokens"] > 20
    # The label's token has 0.9, what cannot be has 0.04, the rest may be anything: the middle of none and all of it.
    assert found.confidence[0, 0] == pytest.approx(SURE / 0.96 + 0.5 * 0.06 / 0.96)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Segmenter:
    """A small LLaVA with random weights."""
    path = build("llava", tmp_path_factory.mktemp("llava"))
    CheckpointConfig(grid=GRID, image_size=32, refiner="none").write(path)
    return Segmenter.from_pretrained(path, device="cpu")


@pytest.mark.parametrize("query", ["dog", ("cat", "the dog on the left")])
def test_confidence_is_that_of_the_same_model_here(local: Segmenter, photo: np.ndarray, query):
    """Every token of a real model with all its alternatives, as a server would list them; then with only some."""
    vlm, checked = local.vlm, check_query(query)
    constraint = generate.check("constrained", vlm.tokenizer, GRID, checked.labels)
    decoder = vlm.begin(local.encode(photo), checked.asked)
    step = generate.last_step(generate.decode("constrained", decoder, constraint))
    picks = step._hypothesis.picks[: len(step.ids)]
    expected = confidence_of(constraint, picks)

    def listed(most: int) -> np.ndarray:
        tokens = []
        for pick in picks:
            likeliest = np.argsort(-pick.p, kind="stable")[:most]
            top = [(pick.choice.texts[at].encode("latin-1"), math.log(max(pick.p[at], 1e-300))) for at in likeliest]
            chosen = pick.choice.texts[pick.best].encode("latin-1")
            tokens.append(Token(chosen, math.log(pick.p[pick.best]), tuple(top)))
        length = sum(len(token.data) for token in tokens)
        return cell_confidence(tokens, 0, length, Grammar(GRID, checked.labels))

    assert np.allclose(listed(10**6), expected, atol=1e-4)
    assert np.abs(listed(3) - expected).max() < 0.5, "what is not listed is left open, not taken for sure"


def test_tokens_that_do_not_spell_the_text_are_not_used():
    """As of servers that decode each token alone and lose its space."""
    text = "It is <seg>others *4\n</seg>"
    pieces = ["It", " is", " <seg>", "others", " *", "4", "\n", "</seg>", "</s>"]
    labels = ("others", "dog")
    for spelled, known in (
        (["<s>", "It", " is", " <seg>", *pieces[3:]], True),
        ([p.strip(" ") for p in pieces], False),
    ):
        reply = Reply(text, [Token(piece.encode(), -0.1, ()) for piece in spelled], 9, "stop")
        step = RemoteStep(reply, (1, 4), labels, "complete", False)
        assert step.probabilities == known and step.text == "others *4\n"
        assert (step.confidence() < 1).all() == known


def test_a_faulty_text_has_no_confidence_behind_the_fault():
    grammar = Grammar((2, 4), ("others", "dog"))
    text = "others *4\n dog *9\n"
    tokens = [Token(char.encode(), 0.0, ()) for char in text]
    found = cell_confidence(tokens, 0, len(text), grammar)
    assert (found[0] == 1).all() and (found[1] == 0).all()


# --- what goes wrong


@pytest.mark.parametrize(
    "fault", ["overload", "error", "cut", "garbage", "error in the stream", "another shape", "slow", "long"]
)
def test_a_bad_moment_is_survived(fault: str, folder: Path, photo: np.ndarray):
    with ChatServer(answer) as server:
        segmenter = remote(server, folder)
        expected = segmenter(photo, "dog")
        server.faults += [fault] * (1 if fault == "long" else 2)
        found = segmenter(photo, "dog")
    assert found.text == expected.text and not found.faults
    assert len(server.requests) == {"slow": 2, "long": 3}.get(fault, 4)


def test_silence_has_a_limit(folder: Path, photo: np.ndarray):
    with ChatServer(answer) as server:
        segmenter = remote(server, folder, silence=0.3)
        server.faults += ["silence"]
        assert segmenter(photo, "dog").present
        server.faults += ["silence"] * 3
        started = time.monotonic()
        with pytest.raises(EndpointError, match="said nothing for 0.2 seconds. It was tried 2 times") as error:
            remote(server, folder, silence=0.2, tries=2)(photo, "dog")
    assert error.value.concerns == "moment" and time.monotonic() - started < 5


def test_a_stream_that_begins_anew_never_shows_two_answers_as_one(folder: Path, photo: np.ndarray):
    with ChatServer(answer) as server:
        server.faults += ["cut"]
        texts = [each.text for each in remote(server, folder).stream(photo, "dog")]
    whole = texts[-1]
    assert all(whole.startswith(text) for text in texts)


@pytest.mark.parametrize(
    ("server", "given", "concerns", "message"),
    [
        ({"key": "secret"}, {}, "server", "refused the key"),
        ({"model": "other"}, {"model": "tiny"}, "server", "has no model 'tiny'"),
        ({"images": False}, {}, "server", "takes no photos"),
        ({"largest": 200}, {}, "photo", "too large"),
    ],
)
def test_what_is_wrong_is_said(server: dict, given: dict, concerns: str, message: str, folder: Path, photo: np.ndarray):
    with ChatServer(answer, **server) as running:
        segmenter = Segmenter.remote(running.url, given.get("model", running.model), checkpoint=folder)
        with pytest.raises(EndpointError, match=message) as error:
            segmenter(photo, "dog")
    assert error.value.concerns == concerns


def test_a_text_without_a_grid_is_no_answer(folder: Path, photo: np.ndarray):
    with ChatServer(lambda question, photo: "I see a dog.") as server:
        with pytest.raises(EndpointError, match="answered without <seg>: 'I see a dog.'") as error:
            remote(server, folder)(photo, "dog")
    assert error.value.concerns == "photo"


def test_no_network_is_wanted(folder: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with ChatServer(answer) as server, pytest.raises(EndpointError, match="HF_HUB_OFFLINE is set") as error:
        remote(server, folder)(photo, "dog")
    assert error.value.concerns == "server"


def test_nobody_there(folder: Path, photo: np.ndarray):
    segmenter = Segmenter.remote("http://127.0.0.1:9/v1", "tiny", checkpoint=folder, tries=2)
    with pytest.raises(EndpointError, match="cannot be reached.*tried 2 times"):
        segmenter(photo, "dog")


def test_the_right_key_and_never_the_token_of_the_hub(folder: Path, photo: np.ndarray, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_private")
    with ChatServer(answer, key="secret") as server:
        assert remote(server, folder, api_key="secret")(photo, "dog").present
    with ChatServer(answer) as open_server:
        remote(open_server, folder)(photo, "dog")
    assert not any("hf_private" in key for key in [*server.keys, *open_server.keys])


@pytest.mark.parametrize("address", ["", "127.0.0.1:8000", "ftp://x/v1", "http://"])
def test_an_address_that_is_none(address: str, folder: Path):
    with pytest.raises(QueryError, match="The endpoint is"):
        Segmenter.remote(address, "tiny", checkpoint=folder)


def test_the_embedded_checkpoint_is_not_for_servers():
    with pytest.raises(CheckpointError, match="no server knows"):
        Segmenter.remote("http://127.0.0.1:9", "x", checkpoint=Path(__file__).parents[2] / "assets" / "t4s-tiny")


def test_a_folder_without_a_format(tmp_path: Path):
    with pytest.raises(CheckpointError, match="has no t4s.json"):
        Segmenter.remote("http://127.0.0.1:9", str(tmp_path))


def test_what_is_asked_is_checked_before_anything_is_sent(folder: Path, photo: np.ndarray):
    with ChatServer(answer) as server:
        segmenter = remote(server, folder)
        for bad in ({"query": ""}, {"query": "dog", "decoding": "slow"}, {"query": "dog", "refine": "magic"}):
            with pytest.raises(QueryError):
                segmenter(photo, **bad)
        with pytest.raises(QueryError, match="run here"):
            segmenter.ask(photo, "What is this?")
        assert not server.requests and not server.probes


def test_threads_share_a_segmenter(folder: Path, photo: np.ndarray):
    with ChatServer(answer, pause=0.003, grammar="structured_outputs") as server:
        segmenter, found = remote(server, folder), []
        threads = [threading.Thread(target=lambda: found.append(segmenter(photo, "dog").text)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 6 and len(set(found)) == 1 and server.busiest > 1 and len(server.probes) <= 3


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(EndpointError("too large", "photo")))
    assert (str(error), error.concerns) == ("too large", "photo")
