"""Before anything is parsed: how large a request may be, routes that are closed, and who listens to which answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from t4s.app.serving.queueing import Listeners
from t4s.app.serving.storage import STEP, Storage, StorageFull
from t4s.limits import MAX_BODY, MAX_UPLOAD, MAX_UPLOAD_SECONDS

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

CLOSED = ("/process_recording",)  # Gradio's screen recorder: stores and converts any video
_LISTENING = re.compile(r"/call/(?:v2/)?[^/]+/([^/]+)/?$")


class BodyTooLarge(Exception):
    """A request body went past its limit while it was read."""


class Gate:
    """ASGI middleware around Gradio's app."""

    def __init__(self, app: ASGI, listeners: Listeners, storage: Storage):
        self._app, self._listeners, self._storage = app, listeners, storage

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"].rstrip("/").endswith(CLOSED):
            await _answer(send, 404, "Not found.")
        elif key := _listened_to(scope):
            self._listeners.begin(key)
            try:
                await self._app(scope, receive, send)
            finally:
                self._listeners.end(key)
        else:
            await self._limited(scope, receive, send)

    async def _limited(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        upload = headers.get(b"content-type", b"").startswith(b"multipart/form-data")
        most = MAX_UPLOAD if upload else MAX_BODY
        announced = headers.get(b"content-length", b"0")
        message = f"The request is larger than the {most // 10**6} MB that are allowed; send less at once."
        if not announced.isdigit() or int(announced) > most:
            await _answer(send, 413, message)
            return
        read, room, started = 0, 0 if upload else most, False

        async def measured() -> Message:
            nonlocal read, room
            part = await receive()
            read += len(part.get("body", b""))
            if read > most:
                raise BodyTooLarge
            while read > room:
                await asyncio.to_thread(self._storage.take)
                room += STEP
            return part

        async def noted(part: Message) -> None:
            nonlocal started
            started = True
            await send(part)

        status = 413
        try:
            async with asyncio.timeout(MAX_UPLOAD_SECONDS if upload else None):
                await self._app(scope, measured, noted)
        except BodyTooLarge:
            pass
        except StorageFull as problem:
            status, message = 507, str(problem)
        except TimeoutError:
            minutes = MAX_UPLOAD_SECONDS // 60
            status, message = 408, f"The upload did not arrive within {minutes} minutes; send fewer files at once."
        else:
            return
        if not started:
            await _answer(send, status, message)


def _listened_to(scope: MutableMapping[str, Any]) -> str:
    """The session or event whose messages a request waits for, or ""."""
    if scope["method"] != "GET":
        return ""
    if scope["path"].rstrip("/").endswith("/queue/data"):
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    found = _LISTENING.search(scope["path"])
    return found[1] if found else ""


async def _answer(send: Send, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": message}).encode()})
