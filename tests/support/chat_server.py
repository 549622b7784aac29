"""A stand-in for an OpenAI-compatible server, on 127.0.0.1, that streams given answers and fails as it is told.

    with ChatServer(answer) as server:          # answer(question, photo) → the whole text
        server.faults += ["overload", "cut"]    # what the next questions about photos get instead, one each

It counts what it is asked. `grammar` is the form in which it takes one: "structured_outputs", "ebnf", "grammar", or
"" (refuses unknown fields, as transformers does) or "ignored" (takes every field and pays no attention).
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

Answer = Callable[[str, np.ndarray], str]
FIELDS = {"model", "messages", "stream", "temperature", "max_tokens"}
TOKEN = re.compile(r" ?[^\s|*<>]+|.|\n")
SURE = 0.9  # probability of every token that it writes


class ChatServer:
    """`requests`: the bodies of the questions about photos; `probes`: those without a photo."""

    def __init__(
        self,
        answer: Answer,
        *,
        model: str = "tiny",
        key: str = "",
        grammar: str = "",
        logprobs: bool = False,
        images: bool = True,
        largest: int = 10**9,
        pause: float = 0.0,
    ):
        self.answer, self.model, self.key, self.grammar = answer, model, key, grammar
        self.logprobs, self.images, self.largest, self.pause = logprobs, images, largest, pause
        self.faults: deque[str] = deque()
        self.requests: list[dict[str, Any]] = []
        self.probes: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.busy = self.busiest = 0
        self.lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> ChatServer:
        handler = type("Handler", (_Handler,), {"chat": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def wait(self, seconds: float) -> None:
        self._closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    chat: ChatServer

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        chat = self.chat
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with chat.lock:
            chat.keys.append(self.headers.get("Authorization", ""))
            chat.busy += 1
            chat.busiest = max(chat.busiest, chat.busy)
        try:
            self._answer(body)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client has heard enough
        finally:
            with chat.lock:
                chat.busy -= 1

    def _answer(self, body: dict[str, Any]) -> None:
        chat = self.chat
        if chat.key and self.headers.get("Authorization") != f"Bearer {chat.key}":
            return self._refuse(401, "Invalid key")
        if body["model"] != chat.model:
            return self._refuse(404, f"The model `{body['model']}` does not exist.")
        unknown = set(body) - FIELDS - {chat.grammar} - ({"logprobs", "top_logprobs"} if chat.logprobs else set())
        if unknown and chat.grammar != "ignored":
            return self._refuse(422, f"Unexpected fields in the request: {unknown}")
        content = body["messages"][0]["content"]
        question = next(part["text"] for part in content if part["type"] == "text")
        urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if not urls:
            chat.probes.append(body)
            return self._stream(self._probe_answer(body), body)
        if not chat.images:
            return self._refuse(400, "At most 0 image(s) may be provided in one prompt.")
        if len(urls[0]) > chat.largest:
            return self._refuse(413, "Payload too large")
        with chat.lock:
            chat.requests.append(body)
            fault = chat.faults.popleft() if chat.faults else ""
        photo = np.asarray(Image.open(BytesIO(base64.b64decode(urls[0].partition(",")[2]))))
        if fault == "overload":
            return self._refuse(429, "Too many requests", {"Retry-After": "0.05"})
        if fault == "error":
            return self._refuse(500, "Internal error")
        if fault == "long" and "max_tokens" in body:
            return self._refuse(400, "This model's maximum context length is 64 tokens.")
        return self._stream(chat.answer(question, photo), body, fault)

    def _probe_answer(self, body: dict[str, Any]) -> str:
        given = body.get(self.chat.grammar)
        for _ in range(2):
            if isinstance(given, dict):
                given = given.get("grammar", given.get("value"))
        literal = re.search(r'"(.*)"', given) if given else None
        return literal[1] if literal else "Hello! How are you?"

    def _refuse(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        data = json.dumps({"error": {"message": message}}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, text: str, body: dict[str, Any], fault: str = "") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        tokens = TOKEN.findall(text)[: body.get("max_tokens", 10**9)]
        for at, token in enumerate(tokens):
            if at == len(tokens) // 2:
                if fault == "cut":
                    return
                if fault == "silence":
                    return self.chat.wait(30)
                if fault == "garbage":
                    self.wfile.write(b"data: <html>Bad gateway</html>\n\n")
                    return
                if fault == "error in the stream":
                    self.wfile.write(b'data: {"error": "CUDA out of memory"}\n\n')
                    return
                if fault == "another shape":
                    self.wfile.write(b'data: {"choices": [{"delta": {"content": {"text": 3}}}]}\n\n')
                    return
            choice: dict[str, Any] = {"index": 0, "delta": {"content": token}, "finish_reason": None}
            if body.get("logprobs"):
                top = [{"token": token, "logprob": float(np.log(SURE))}, {"token": "£", "logprob": float(np.log(0.04))}]
                choice["logprobs"] = {"content": [top[0] | {"top_logprobs": top[: body["top_logprobs"]]}]}
            self._chunk(choice)
            if self.chat.pause or fault == "slow":
                time.sleep(self.chat.pause or 0.01)
        end: dict[str, Any] = {
            "index": 0,
            "delta": {},
            "finish_reason": "stop" if tokens == TOKEN.findall(text) else "length",
        }
        if body.get("logprobs"):
            end["logprobs"] = {"content": [{"token": "</s>", "logprob": -0.1, "top_logprobs": []}]}
        self._chunk(end)
        self.wfile.write(b"data: [DONE]\n\n")

    def _chunk(self, choice: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n")
