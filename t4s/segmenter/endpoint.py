"""An OpenAI-compatible server: streamed chat answers, with retries, back-off and clear errors. Knows no grids.

    endpoint = Endpoint("http://127.0.0.1:8000/v1", "mine")
    for reply in endpoint.stream(messages, max_tokens=1000):     # a Reply that grows; begins anew after a broken stream
        print(reply.text)

What a server can do beside chat is asked once, with a few tokens each, and remembered: whether it keeps to a grammar
(vLLM's `structured_outputs`, SGLang's `ebnf`, llama.cpp's and mistral.rs's `grammar`), and whether it gives the
probabilities of tokens. A server that takes a field and ignores it is found out, as it does not keep to the grammar.

Overload (429), errors of the server (5xx), lost connections, silence and streams that break off are tried again, with
pauses that double; everything else is an EndpointError at once. Its `concerns` says whether trying again, or another
photo, may help.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlparse

from t4s.errors import Concern, EndpointError, QueryError

SILENCE = 120.0  # seconds without a word after which a request is given up
TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between tries; Retry-After of the server counts, up to the longest
TOP_LOGPROBS = (20, 5)  # alternatives a token that are asked for: the most that OpenAI and vLLM give, or fewer
KEY_VARIABLE = "T4S_ENDPOINT_KEY"  # a key on a command line would be seen by others
NO_KEY = "none"  # without a key the client would send the token that this machine has for the Hub

Message = dict[str, Any]


class GrammarForm(NamedTuple):
    """How a server takes a grammar: the fields of the request, and the dialect (`decoding.dialects`)."""

    dialect: str
    fields: Callable[[str], dict[str, Any]]


GRAMMAR_FORMS = (
    GrammarForm("ebnf", lambda grammar: {"structured_outputs": {"grammar": grammar}}),  # vLLM
    GrammarForm("ebnf", lambda grammar: {"ebnf": grammar}),  # SGLang
    GrammarForm("gbnf", lambda grammar: {"grammar": grammar}),  # llama.cpp
    GrammarForm("lark", lambda grammar: {"grammar": {"type": "lark", "value": grammar}}),  # mistral.rs
)
_WORD = "t4s-7351"  # no model says this by itself
_PROBES = {
    "ebnf": f'root ::= "{_WORD}"\n',
    "gbnf": f'root ::= "{_WORD}"\n',
    "lark": f'start: "{_WORD}"\n',
}


class Token(NamedTuple):
    """A token of the answer as UTF-8 bytes, its log probability, and the (bytes, log probability) of the likeliest."""

    data: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...]


@dataclass
class Reply:
    """An answer so far. `finish`: "" while it is written, "stop" (the model's own end), "length" (a limit)."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    chunks: int = 0
    finish: str = ""


class Endpoint:
    """One model of one server. Threads may share it."""

    def __init__(
        self, base_url: str, model: str, api_key: str | None = None, silence: float = SILENCE, tries: int = TRIES
    ):
        """Raises QueryError for an address that is none. Nothing is sent yet."""
        if urlparse(base_url).scheme not in ("http", "https") or not urlparse(base_url).hostname:
            raise QueryError(f"The endpoint is {base_url!r}; write its address, such as http://127.0.0.1:8000/v1.")
        self.base_url, self.model, self.silence, self.tries = base_url, model, silence, tries
        self._key = api_key or os.environ.get(KEY_VARIABLE) or NO_KEY
        self._lock = threading.Lock()
        self._grammar: list[GrammarForm | None] = []  # once it is known, its one element
        self._logprobs: list[dict[str, Any]] = []

    # What it can do

    def grammar_form(self) -> GrammarForm | None:
        """How it takes a grammar; None if it does not."""
        with self._lock:
            if not self._grammar:
                self._grammar.append(next(filter(self._obeys, GRAMMAR_FORMS), None))
            return self._grammar[0]

    def logprob_options(self) -> dict[str, Any]:
        """The fields that make it give probabilities; {} if it gives none."""
        with self._lock:
            if not self._logprobs:
                options = ({"logprobs": True, "top_logprobs": count} for count in TOP_LOGPROBS)
                self._logprobs.append(next(filter(self._gives, options), {}))
            return self._logprobs[0]

    def _obeys(self, form: GrammarForm) -> bool:
        reply = self._probe(extra_body=form.fields(_PROBES[form.dialect]), max_tokens=16)
        return reply is not None and reply.text.strip() == _WORD

    def _gives(self, options: dict[str, Any]) -> bool:
        reply = self._probe(**options, max_tokens=2)
        return reply is not None and bool(reply.tokens)

    def _probe(self, **options: Any) -> Reply | None:
        """The answer to a word; None if the server refuses the options, or fails over them."""
        messages = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
        try:
            return list(self._with_retries(lambda: self._attempt(messages, options), fails=(400, 422, 500, 501)))[-1]
        except _RefusedOptions:
            return None

    # Answers

    def stream(self, messages: Sequence[Message], **options: Any) -> Iterator[Reply]:
        """The answer as it grows; after a broken stream it begins anew. The last one has `finish` set.

        options: those of `InferenceClient.chat_completion`. Closing the iterator ends the request.
        """
        try:
            yield from self._with_retries(lambda: self._attempt(messages, options))
        except EndpointError as error:
            if error.concerns != "photo" or not options.pop("max_tokens", None):
                raise
            yield from self._with_retries(lambda: self._attempt(messages, options))  # they may have been too many

    def _with_retries(self, attempt: Callable[[], Iterator[Reply]], fails: tuple[int, ...] = ()) -> Iterator[Reply]:
        """Attempts until one is whole. `fails`: statuses that are raised as _RefusedOptions."""
        for tried in range(1, self.tries + 1):
            try:
                yield from attempt()
                return
            except _failures() as error:
                found = self._diagnosis(error)
                if found.status in fails:
                    raise _RefusedOptions from error
                if not found.again:
                    raise EndpointError(found.message, found.concerns) from error
                if tried == self.tries:
                    message = f"{found.message} It was tried {tried} times; try again when the server is well."
                    raise EndpointError(message) from error
                pause = min(FIRST_PAUSE * 2 ** (tried - 1), LONGEST_PAUSE) * random.uniform(0.75, 1.25)
                time.sleep(max(pause, min(found.retry_after, LONGEST_PAUSE)))

    def _attempt(self, messages: Sequence[Message], options: dict[str, Any]) -> Iterator[Reply]:
        from huggingface_hub import InferenceClient

        reply, heard = Reply(), time.monotonic()
        with InferenceClient(base_url=self.base_url, api_key=self._key, timeout=self.silence) as client:
            chunks = client.chat_completion(list(messages), model=self.model, stream=True, temperature=0.0, **options)
            for chunk in chunks:
                for choice in (chunk.choices or ())[:1]:
                    text = (choice.delta.content if choice.delta else None) or ""
                    if not isinstance(text, str):
                        raise ValueError(f"a piece of text is {text!r}")
                    reply.text += text
                    reply.chunks += bool(text)
                    reply.tokens += _tokens(choice)
                    reply.finish = choice.finish_reason or ""
                    if text or reply.finish:
                        heard = time.monotonic()
                        yield reply
                if time.monotonic() - heard > self.silence:
                    raise TimeoutError
                if reply.finish:
                    return
        raise _BrokenOff

    def _diagnosis(self, error: Exception) -> _Diagnosis:
        """What a failure means."""
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled, TextGenerationError

        if isinstance(error, HfHubHTTPError):
            return self._http_diagnosis(error)
        if isinstance(error, OfflineModeIsEnabled):
            message = f"HF_HUB_OFFLINE is set, so {self.base_url} is not asked either; unset it."
            return _Diagnosis(message, "server")
        if isinstance(error, _BrokenOff):
            message = f"The stream of {self.base_url} broke off in the middle of an answer."
        elif isinstance(error, TextGenerationError):
            message = f"{self.base_url} reported an error in the middle of an answer: {_short(error)}."
        elif isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
            message = f"{self.base_url} said nothing for {self.silence:g} seconds."
        elif isinstance(error, (HTTPError, OSError)):
            message = f"{self.base_url} cannot be reached ({_short(error) or type(error).__name__})."
        else:
            message = f"{self.base_url} sent what is no chat answer ({_short(error)})."
        return _Diagnosis(message, again=True)

    def _http_diagnosis(self, error: Any) -> _Diagnosis:
        status, said = error.response.status_code, _said(error.response)
        lower = said.lower()
        if status in (401, 403):
            return _Diagnosis(f"{self.base_url} refused the key ({status}: {said}); give its own.", "server", status)
        if status == 404 or (status in (400, 422) and re.search(r"model .*(not (exist|found)|unknown)", lower)):
            message = f"{self.base_url} has no model {self.model!r} ({status}: {said}); name one that it serves."
            return _Diagnosis(message, "server", status)
        if status == 413 or re.search(r"(image|payload|body|request).*too (large|big)|too many (image )?tokens", lower):
            return _Diagnosis(f"The photo is too large for {self.base_url} ({status}: {said}).", "photo", status)
        if status in (400, 422) and re.search(r"context|max_model_len|maximum.*tokens|too long", lower):
            message = f"Photo and question are longer than {self.model!r} takes ({status}: {said})."
            return _Diagnosis(message, "photo", status)
        if status in (400, 415, 422, 501) and re.search(r"image|multimodal|multi-modal|vision", lower):
            message = f"{self.model!r} on {self.base_url} takes no photos ({status}: {said}); serve a model that does."
            return _Diagnosis(message, "server", status)
        if status == 429 or status >= 500 or status == 408:
            wait = error.response.headers.get("retry-after", "")
            retry_after = float(wait) if re.fullmatch(r"\d+(\.\d+)?", wait) else 0.0
            what = "is overloaded" if status in (429, 503) else "failed"
            return _Diagnosis(f"{self.base_url} {what} ({status}: {said}).", "moment", status, True, retry_after)
        return _Diagnosis(f"{self.base_url} refused the request ({status}: {said}).", "moment", status)


class _BrokenOff(Exception):
    """A stream ended without saying why."""


class _RefusedOptions(Exception):
    """The options of a probe were refused."""


class _Diagnosis(NamedTuple):
    """What went wrong. `again`: whether to try once more, after at least `retry_after` seconds."""

    message: str
    concerns: Concern = "moment"
    status: int = 0
    again: bool = False
    retry_after: float = 0.0


def _failures() -> tuple[type[Exception], ...]:
    """What the client raises: errors of the network and of HTTP, and what comes of JSON that is none or of another
    shape."""
    from huggingface_hub.errors import HTTPError

    return HTTPError, OSError, ValueError, KeyError, AttributeError, TypeError, _BrokenOff


def _said(response: Any) -> str:
    """The server's own words, on one line."""
    try:
        content = json.loads(response.text)
    except (ValueError, RuntimeError):  # RuntimeError: the text was never read
        content = getattr(response, "_content", b"").decode("utf-8", "replace")
    for name in ("error", "detail", "message"):
        if isinstance(content, dict) and content.get(name):
            content = content[name]
    return _short(content) or response.reason_phrase


def _short(value: object, limit: int = 200) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= limit else f"{text[:limit]}…"


def _tokens(choice: Any) -> list[Token]:
    """The tokens of a chunk, where it has probabilities."""
    content = choice.logprobs.content if choice.logprobs else None
    return [Token(*_spelled(each), tuple(map(_spelled, each.top_logprobs or ()))) for each in content or ()]


def _spelled(token: Any) -> tuple[bytes, float]:
    """(what a token spells, its log probability); servers give its bytes as well, since it may be half a character."""
    data = getattr(token, "bytes", None)
    return bytes(data) if data is not None else token.token.encode(), float(token.logprob)
