"""The folder of uploads: it stays below its limit, whatever is sent and however it ends."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import app
from t4s.app.serving import gate
from t4s.app.serving.queueing import Listeners
from t4s.app.serving.storage import SMALLEST, STEP, Storage, StorageFull
from tests.support import stand_in

CATS = Path(__file__).resolve().parents[2] / "assets" / "examples" / "two_cats.jpg"
FILE = {"_type": "gradio.FileData"}
MOST = 8 * STEP


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def _write(file: Path, size: int) -> Path:
    """A sparse file."""
    file.parent.mkdir(exist_ok=True)
    with file.open("wb") as opened:
        opened.truncate(size)
    time.sleep(0.01)  # the files' order is that of their times
    return file


def test_the_oldest_files_go_first(folder: Path):
    files = [_write(folder / str(number) / "photo.jpg", STEP) for number in range(9)]
    Storage(most=MOST).take()
    assert [file.exists() for file in files] == [False] * 3 + [True] * 6


def test_files_of_the_page_and_of_uploads_under_way_stay(folder: Path):
    own = _write(folder / "a" / "example.jpg", 4 * STEP)
    arriving = _write(folder / "tmp123", 4 * STEP)
    storage = Storage(lambda: {str(own)}, MOST)
    with pytest.raises(StorageFull, match="no room"):
        storage.take()
    assert own.exists() and arriving.exists()


def test_small_files_count_too(folder: Path):
    for number in range(MOST // SMALLEST + 1):
        (folder / str(number)).mkdir()
        (folder / str(number) / "x").write_bytes(b"x")
    Storage(most=MOST).take()
    left = list(folder.glob("*/x"))
    assert len(left) == MOST // SMALLEST * 3 // 4


def test_folders_that_stay_empty_go(folder: Path, monkeypatch: pytest.MonkeyPatch):
    (folder / "old").mkdir()
    storage = Storage(most=MOST)
    storage.take()
    assert (folder / "old").exists()  # its file may be about to come
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 120)
    Storage(most=MOST).take()
    assert not (folder / "old").exists()


# --- in the running app -------------------------------------------------------------------------------


@pytest.fixture
def small(folder: Path) -> Iterator[str]:
    """An app that keeps little."""
    blocks = app.build(stand_in.StandIn(), sams=None).queue()
    blocks.storage = Storage(blocks.storage._kept, MOST)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    yield url
    blocks.close()


def _upload(url: str, data: bytes, field: str = "files") -> httpx.Response:
    return httpx.post(f"{url}gradio_api/upload", files={field: ("photo.jpg", data)}, timeout=60)


def _stored(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_uploads_do_not_fill_the_disk(small: str, folder: Path):
    """Files of another field's name were never removed, and the others after hours."""
    page = set(folder.rglob("*.jpg"))
    _upload(small, os.urandom(5_000_000), field="other")
    assert [file.is_file() for file in folder.glob("tmp*")] == [True]
    photo = _upload(small, CATS.read_bytes()).json()[0]
    for _ in range(8):
        assert _upload(small, os.urandom(15_000_000)).status_code == 200
        assert _stored(folder) <= MOST
    assert page and all(file.exists() for file in page)
    assert not Path(photo).exists()
    url = f"{small}gradio_api/call/encode_mask"
    call = httpx.post(url, json={"data": [{"path": photo, "meta": FILE}, "cat", 16, 16, "rows"]}, timeout=30).json()
    answer = httpx.get(f"{url}/{call['event_id']}", timeout=30).text
    assert "The input 'mask' is a file that is no longer kept; upload it again." in answer


def test_an_upload_without_room_is_told_so():
    class Full(Storage):
        def take(self, size: int = STEP) -> None:
            raise StorageFull("There is no room.")

    sent = []

    async def reads(scope, receive, send) -> None:
        await receive()

    async def receive() -> dict:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(part: dict) -> None:
        sent.append(part)

    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    scope = {"type": "http", "method": "POST", "path": "/upload", "query_string": b"", "headers": headers}
    asyncio.run(gate.Gate(reads, Listeners(), Full())(scope, receive, send))
    assert sent[0]["status"] == 507 and b"no room" in sent[1]["body"]
