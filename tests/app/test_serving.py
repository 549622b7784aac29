"""What strangers may send to the running app, and that each of them gets an answer or a sentence."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from t4s import limits
from t4s.app import downloads
from t4s.app.serving import fetching, gate, queueing, storage
from t4s.errors import ImageError
from t4s.limits import MAX_BODY, MAX_BYTES, MAX_PLACES, QUEUE_PLACES
from tests.support import stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS = EXAMPLES / "two_cats.jpg"
FILE = {"_type": "gradio.FileData"}


# --- inputs -------------------------------------------------------------------------------------------


def _told(client: Client, endpoint: str, *inputs: object) -> str:
    """The sentence that a call is refused with."""
    with pytest.raises(AppError) as caught:
        client.predict(*inputs, api_name=endpoint)
    message = str(caught.value)
    assert message.endswith(".") and "Traceback" not in message and "upstream" not in message, message
    return message


def test_an_input_of_the_wrong_kind_is_told_in_a_sentence(client: Client):
    photo = handle_file(CATS)
    for image in ("assets/examples/two_cats.jpg", "photo.jpg", 5, [photo], {"a": 1}, True, {"path": 5, "meta": FILE}):
        assert "The input 'image' is" in _told(client, "/segment", image, "cat")
    assert "no photo" in _told(client, "/segment", None, "cat")
    for phrase in (None, 5, ["cat"], {"a": 1}, True):
        assert "The input 'phrase' is" in _told(client, "/segment", photo, phrase)
    assert "choose one of fast, constrained, free" in _told(client, "/segment", photo, "cat", "", "quick")
    for number in ("abc", None, [], True, {}):
        assert "The input 'height' is" in _told(client, "/decode_text", "others *2\n", number, 3)
    assert "The input 'by_part' is" in _told(client, "/segment", photo, "cat", "", "fast", "yes")
    assert "number 1" in _told(client, "/batch", ["photo.jpg"], "cat")
    assert "a list of texts" in _told(client, "/batch", [photo], [5])


def test_one_file_in_place_of_a_list_is_a_list_of_one(client: Client):
    _, result = client.predict(handle_file(CATS), "cat", api_name="/batch")
    assert [each["query"] for each in result["results"]] == ["cat"]


def _call(address: str, endpoint: str, body: str) -> str:
    """What a raw call ends with: the last line of its stream."""
    url = f"{address}gradio_api/call/{endpoint}"
    posted = httpx.post(url, content=body, headers={"Content-Type": "application/json"}, timeout=30)
    assert posted.status_code == 200, posted.text
    with httpx.stream("GET", f"{url}/{posted.json()['event_id']}", timeout=30) as stream:
        lines = [line for line in stream.iter_lines() if line.strip()]
    return " ".join(lines[-2:])


@pytest.mark.parametrize(
    ("endpoint", "data", "says"),
    [
        ("decode_text", '["others *2", NaN, 3, "rows"]', "finite number"),
        ("decode_text", '["others *2", Infinity, 3, "rows"]', "finite number"),
        ("decode_text", '["others *2", 1e400, 3, "rows"]', "finite number"),
        ("decode_text", '["others *2", 99999999999999999999999, 3, "rows"]', "1 to 64"),
        ("decode_text", "[]", "0 inputs were given; there are 4: text, height, width, layout"),
        ("decode_text", '[{"path": "a", "meta": {"_type": "gradio.FileData"}}, 1, 2, "rows"]', "is no file field"),
        ("segment", '[{"path": "a", "url": 5, "meta": {"_type": "gradio.FileData"}}, "cat", "", "fast"]', "is no text"),
        ("segment", '[{"url": "data:,x", "meta": {"_type": "gradio.FileData"}}, "cat", "", "fast"]', "form data:image"),
        ("encode_mask", '[{"url": "data:image/svg+xml,x", "meta": {"_type": "gradio.FileData"}}]', "SVG is a drawing"),
        ("decode_text", f'[{"[" * 400}{"]" * 400}, 1, 2, "rows"]', "give a text"),
    ],
)
def test_raw_json_is_told_in_a_sentence_too(address: str, endpoint: str, data: str, says: str):
    last = _call(address, endpoint, f'{{"data": {data}}}')
    assert "event: error" in last and says in last


def test_a_path_says_nothing_about_what_exists(address: str):
    said = set()
    for path in (str(ROOT / "README.md"), "/etc/passwd", "/no/such/file", "README.md", "../../etc/passwd"):
        body = json.dumps({"data": [{"path": path, "meta": FILE}, "cat", "", "fast"]})
        said.add(_call(address, "segment", body).replace(path, ""))
    assert len(said) == 1 and "was not uploaded" in said.pop()


def test_what_nobody_foresaw_is_logged_and_told(
    client: Client, segmenter: stand_in.StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret of /srv/models")

    monkeypatch.setattr(segmenter, "stream", fail)
    message = _told(client, "/segment", handle_file(CATS), "cat")
    assert "Something went wrong in the app itself" in message and "secret" not in message
    assert "ZeroDivisionError: secret" in capfd.readouterr().err


def test_monitoring_and_the_screen_recorder_are_closed(address: str):
    for path in ("monitoring", "monitoring/summary", "monitoring/x"):
        assert httpx.get(address + path).status_code == 403
    assert httpx.post(f"{address}gradio_api/process_recording").status_code == 404


def test_a_call_cannot_go_round_the_queue(address: str):
    for way in ("run", "api"):
        assert httpx.post(f"{address}gradio_api/{way}/segment", json={"data": []}).status_code == 404


# --- sizes --------------------------------------------------------------------------------------------


class _Site(http.server.BaseHTTPRequestHandler):
    """A web site of one's own: a photo, an endless file, one that lies about its size, redirects."""

    sent = 0

    def do_GET(self) -> None:
        if self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        if self.path == "/cat.jpg":
            self.end_headers()
            self.wfile.write(CATS.read_bytes())
            return
        if self.path == "/huge":
            self.send_header("Content-Length", "400000000")
        self.end_headers()
        try:
            while self.path == "/endless":
                _Site.sent += self.wfile.write(bytes(1_000_000))
        except OSError:
            pass

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Its address, with this machine counted among the public ones."""

    async def transport(address: str) -> None:
        return None

    monkeypatch.setattr(fetching, "transport", transport)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_web_addresses_are_measured_while_they_are_read(client: Client, site: str):
    """400 MB at an address took 860 MB of memory."""
    assert client.predict(handle_file(f"{site}/cat.jpg"), "cat", api_name="/segment")[3]["present"]
    assert client.predict(f"{site}/cat.jpg", "cat", api_name="/segment")[3]["present"]  # a plain address, too
    for path, says in (("huge", "20 MB"), ("endless", "20 MB"), ("round", "5 redirects"), ("gone", "status 404")):
        assert says in _told(client, "/segment", handle_file(f"{site}/{path}"), "cat")
        assert says in _told(client, "/batch", [handle_file(f"{site}/{path}")], "cat")
    assert _Site.sent < 4 * MAX_BYTES  # two tries, and what lies in the sockets


def test_only_public_addresses_are_fetched(tmp_path: Path):
    for address in ("http://127.0.0.1:9/a", "http://localhost/a", "http://[::1]/a", "http://169.254.1.1/a",
                    "http://0.0.0.0/a", "http://no.such.host.invalid/a", "http://", "http://a b/c"):  # fmt: skip
        with pytest.raises(ImageError, match="cannot be fetched"):
            asyncio.run(fetching.fetch(address, tmp_path))


def test_data_urls_are_measured_before_they_are_decoded(address: str, tmp_path: Path):
    """60 MB were decoded and stored, and then refused."""

    def ask(data: bytes) -> str:
        url = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        return _call(address, "segment", json.dumps({"data": [{"url": url, "meta": FILE}, "cat", "", "fast"]}))

    assert "event: complete" in ask(CATS.read_bytes())
    assert "20 MB" in ask(bytes(MAX_BYTES + 3))
    with pytest.raises(ImageError, match="valid base64"):
        asyncio.run(fetching.fetch("data:image/png;base64,$$$", tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_request_is_measured_while_it_is_read(address: str):
    url = f"{address}gradio_api/call/decode_text"

    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY // 500_000 + 40):
            yield bytes(500_000)

    announced = httpx.post(url, content=bytes(MAX_BODY + 1), timeout=60)
    assert announced.status_code == 413 and "30 MB" in announced.text
    assert httpx.post(url, content=pieces(), timeout=60).status_code in (400, 413)


def test_files_are_stored_whole_or_not_at_all(tmp_path: Path):
    data = CATS.read_bytes()
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: fetching.store(data, "../../a b%2f..%2fc.jpg", tmp_path), range(64)))
    (path,) = paths
    assert path.read_bytes() == data and path.parent.parent == tmp_path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_identical_answers_at_once_are_whole(client: Client):
    """A picture named by its contents was rewritten in place while another client read it."""

    def ask(_: int) -> tuple[bytes, ...]:
        _, grid, mask, _ = client.predict(handle_file(CATS), "cat", api_name="/segment")
        return Path(grid).read_bytes(), Path(mask).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(16)))
    ((grid, mask),) = answers
    assert grid.startswith(b"\x89PNG") and mask.endswith(b"IEND\xaeB`\x82")


def test_the_app_outlives_its_scratch_folder(client: Client):
    import shutil

    shutil.rmtree(downloads.scratch_file("x").parents[1])
    assert client.predict(handle_file(CATS), "cat", api_name="/segment")[3]["present"]


def test_the_readmes_limits_are_those_of_the_code():
    table = (ROOT / "t4s" / "app" / "README.md").read_text("utf-8").partition("### Limits")[2]
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", table, re.M)
    assert len(rows) > 15
    assert {name: int(value.replace(",", "")) for name, value in rows} == {name: vars(limits)[name] for name, _ in rows}
    tested = {name for name in vars(limits) if name.startswith(("MAX_", "QUEUE_"))} - dict(rows).keys()
    assert not [name for name in tested if not name.startswith(("MAX_SAM_", "MAX_PARTS", "MAX_QUESTION", "MAX_ANSWER"))]


# --- the queue ----------------------------------------------------------------------------------------


def _event(client: str, at: float, name: str) -> SimpleNamespace:
    request = SimpleNamespace(client=SimpleNamespace(host=client), headers={})
    return SimpleNamespace(request=request, enqueue_time=at, _id=name, session_hash=name)


def _fair(*events: SimpleNamespace) -> queueing.FairQueue:
    queue = queueing.FairQueue(queueing.Listeners(), True, 40, 1, None, None)
    waiting = queue.event_queue_per_concurrency_id["model"] = queueing_of(events)
    assert waiting.queue == list(events)
    return queue


def queueing_of(events: tuple[SimpleNamespace, ...]) -> SimpleNamespace:
    return SimpleNamespace(queue=list(events), concurrency_limit=1, current_concurrency=0)


def test_clients_take_turns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queueing.Listeners, "hear", lambda *_: True)
    now = time.monotonic()
    greedy = [_event("greedy", now + at, f"g{at}") for at in range(4)]
    others = [_event("second", now + 4, "s"), _event("third", now + 5, "t")]
    queue = _fair(*greedy, *others)
    assert [event._id for event in queue._in_turn("model", greedy + others)] == ["g0", "s", "t", "g1", "g2", "g3"]
    served = [queue.get_events()[0][0]._id for _ in range(6)]
    assert served == ["g0", "s", "t", "g1", "g2", "g3"] and queue.get_events() is None
    late = _event("second", now + 9, "s2"), _event("new", now + 9.5, "n")
    queue.event_queue_per_concurrency_id["model"] = queueing_of(late)
    assert queue.get_events()[0][0]._id == "n"  # the one who has had no turn yet


def test_a_job_that_nobody_listens_to_waits_and_is_dropped(monkeypatch: pytest.MonkeyPatch):
    now = time.monotonic()
    deaf, fresh, old = _event("a", now, "deaf"), _event("b", now, "fresh"), _event("c", now - 60, "old")
    queue = _fair(deaf, fresh, old)
    queue.event_ids_to_events = {"old": old}
    queue._listeners.begin("fresh")
    assert queue.get_events()[0] == [fresh]
    assert queue.get_events() is None and queue.event_queue_per_concurrency_id["model"].queue == [deaf]
    assert queue.event_ids_to_events == {}
    queue._listeners.end("fresh")
    assert not queue._listeners.hear(fresh)


def test_the_client_is_the_peer_or_what_the_spaces_proxy_says(monkeypatch: pytest.MonkeyPatch):
    def request(forwarded: str) -> SimpleNamespace:
        return SimpleNamespace(client=SimpleNamespace(host="10.0.0.1"), headers={"x-forwarded-for": forwarded})

    assert queueing.client_address(request("8.8.8.8")) == "10.0.0.1"
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert queueing.client_address(request("1.1.1.1, 8.8.8.8, 10.1.2.3")) == "8.8.8.8"  # the first is invented
    assert queueing.client_address(request("")) == "10.0.0.1"


@pytest.fixture
def slow() -> Iterator[tuple[stand_in.StandIn, str]]:
    """An app whose model needs some time for a row, and its address."""
    segmenter = stand_in.StandIn(pause=0.05)
    blocks = app.build(segmenter).queue()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    yield segmenter, url
    blocks.close()


def _upload(url: str) -> dict:
    path = httpx.post(f"{url}gradio_api/upload", files={"files": CATS.read_bytes()}, timeout=30).json()[0]
    return {"path": path, "meta": FILE}


def _post(url: str, photo: dict, client: str, session: str) -> httpx.Response:
    """A call that nobody listens to. `client`: its address, as a proxy on this machine would tell it."""
    body = {"data": [photo, "cat", "", "fast"], "session_hash": session}
    return httpx.post(f"{url}gradio_api/call/segment", json=body, headers={"X-Forwarded-For": client}, timeout=30)


def test_posts_that_never_listen_take_no_turn_and_not_all_places(
    slow: tuple[stand_in.StandIn, str], monkeypatch: pytest.MonkeyPatch
):
    """64 of them filled the queue, and each held the model to the end of its answer."""
    monkeypatch.setattr(queueing, "MAX_LISTEN_SECONDS", 600)
    segmenter, url = slow
    photo = _upload(url)
    posted = [_post(url, photo, "8.8.4.4", f"deaf-{number}") for number in range(MAX_PLACES + 4)]
    assert [answer.status_code for answer in posted] == [200] * MAX_PLACES + [503] * 4
    assert "as many as one may" in posted[-1].text
    started = time.monotonic()
    *_, result = Client(url, verbose=False).predict(handle_file(CATS), "cat", api_name="/segment")
    assert result["present"] and segmenter.asked == 1 and time.monotonic() - started < 10
    more = [_post(url, photo, f"8.8.8.{number // MAX_PLACES}", f"more-{number}") for number in range(QUEUE_PLACES)]
    assert {answer.status_code for answer in more} == {200}  # in the places of older ones
    assert httpx.get(f"{url}gradio_api/queue/status").json()["queue_size"] == QUEUE_PLACES
    *_, result = Client(url, verbose=False).predict(handle_file(CATS), "cat", api_name="/segment")
    assert result["present"] and segmenter.asked == 2


def test_the_place_in_the_queue_is_told(slow: tuple[stand_in.StandIn, str]):
    """In a script by the job's status; on the page beside the phrase."""
    segmenter, url = slow
    segmenter.pause = 0.3
    clients = [Client(url, verbose=False) for _ in range(3)]
    jobs = [client.submit(handle_file(CATS), "cat", api_name="/segment") for client in clients]
    places: set[tuple[int, int]] = set()
    until = time.monotonic() + 30
    while (1, 2) not in places and time.monotonic() < until:
        places |= {(status.rank, status.queue_size) for job in jobs if (status := job.status()).rank is not None}
        time.sleep(0.02)
    assert (1, 2) in places  # one runs, one is the next, and this one is the second of two
    segmenter.pause = 0.0
    assert all(job.result(timeout=60)[3]["present"] for job in jobs)
    config = clients[0].config
    asking = [each for each in config["dependencies"] if each["show_progress"] == "minimal"]
    assert len(asking) >= 4 and all(each["show_progress_on"] for each in asking)


def test_an_answer_ends_when_its_client_leaves(slow: tuple[stand_in.StandIn, str], monkeypatch: pytest.MonkeyPatch):
    segmenter, url = slow
    segmenter.pause = 0.5
    rows, ended, stream_of = [], threading.Event(), segmenter.stream

    def watched(*arguments: object, **settings: object) -> Iterator[object]:
        try:
            for answer in stream_of(*arguments, **settings):
                rows.append(answer.text)
                yield answer
        finally:
            ended.set()

    monkeypatch.setattr(segmenter, "stream", watched)
    event = _post(url, _upload(url), "8.8.4.4", "leaves").json()["event_id"]
    with httpx.stream("GET", f"{url}gradio_api/call/segment/{event}", timeout=30) as stream:
        next(line for line in stream.iter_lines() if line.startswith("event: generating"))
    assert ended.wait(30) and len(rows) < 16
    segmenter.pause = 0.0
    assert Client(url, verbose=False).predict(handle_file(CATS), "cat", api_name="/segment")[3]["present"]


def test_the_gate_counts_who_listens():
    listeners = queueing.Listeners()
    seen = []

    async def inside(scope, receive, send) -> None:
        seen.append(dict(listeners._open))

    async def nothing(*_: object) -> None:
        return None

    for path, query in (("/gradio_api/queue/data", b"session_hash=s"), ("/gradio_api/call/segment/e", b""),
                        ("/x/gradio_api/call/v2/segment/e/", b"")):  # fmt: skip
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": []}
        asyncio.run(gate.Gate(inside, listeners, storage.Storage())(scope, nothing, nothing))
    assert seen == [{"s": 1}, {"e": 1}, {"e": 1}] and not listeners._open


def test_pictures_of_a_call_are_pngs(client: Client):
    _, grid, mask, _ = client.predict(handle_file(CATS), "cat", api_name="/segment")
    assert Image.open(grid).format == Image.open(mask).format == "PNG" and Image.open(mask).mode == "L"
