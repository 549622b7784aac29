"""The queue: a client has a few places, clients take turns, and a job that nobody listens to does not run.

Gradio's own queue is first come, first served: one client may take all places, and a call whose answer nobody reads
runs to its end. A client here is a network address, for session hashes are the clients' own invention.
"""

from __future__ import annotations

import ipaddress
import math
import os
import time
from collections import Counter
from typing import Any

from gradio.queueing import Event, Queue

from t4s.limits import MAX_LISTEN_SECONDS, MAX_PLACES, QUEUE_PLACES

FADE_SECONDS = 10.0  # after which a turn counts 1/e of what it did


class Listeners:
    """Which sessions and events have an open connection that waits for their messages."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def begin(self, key: str) -> None:
        self._open[key] += 1

    def end(self, key: str) -> None:
        self._open[key] -= 1
        if self._open[key] <= 0:
            del self._open[key]

    def hear(self, event: Event) -> bool:
        """True if someone waits for this event's messages."""
        return event.session_hash in self._open or event._id in self._open


class FairQueue(Queue):
    """Gradio's queue with places, turns and listeners."""

    def __init__(self, listeners: Listeners, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self._listeners = listeners
        self._joining: Counter[str] = Counter()
        self._turns: dict[tuple[str, str], tuple[float, float]] = {}  # (queue, client): (turns, counted at this time)

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """As Gradio's; refused if all places are taken, or all that one client may take.

        In a full queue the oldest job that nobody listens to gives up its place.
        """
        client = client_address(request)
        if len(self) + self._joining.total() >= QUEUE_PLACES and not self._make_room():
            return False, f"All {QUEUE_PLACES} places of the queue are taken; try again in a moment.", "queue_full"
        if self._places(client) >= MAX_PLACES:
            return False, f"You wait for {MAX_PLACES} answers, as many as one may; wait for one of them.", "queue_full"
        self._joining[client] += 1
        try:
            return await super().push(body, request, username)
        finally:
            self._joining[client] -= 1
            self._joining += Counter()  # drops the zeros
            self._take_turns()

    def get_events(self) -> tuple[list[Event], bool, str] | None:
        """The next job to run: of those that someone listens to, that of the client who had the fewest turns lately."""
        for name, waiting in self.event_queue_per_concurrency_id.items():
            self._forget_unheard(waiting.queue)
            limit = waiting.concurrency_limit
            if limit is not None and waiting.current_concurrency >= limit:
                continue
            heard = [event for event in waiting.queue if self._listeners.hear(event)]
            if heard:
                first = self._in_turn(name, heard)[0]
                waiting.queue.remove(first)
                self._had_turn(name, client_address(first.request))
                return [first], False, name
        return None

    def compute_analytics_summary(self, records: Any) -> dict[str, Any]:
        """Nothing: monitoring is closed, and Gradio's summary takes longer with every call there was."""
        return self.cached_event_analytics_summary

    def _places(self, client: str) -> int:
        """How many jobs of a client wait."""
        waiting = [event for queue in self.event_queue_per_concurrency_id.values() for event in queue.queue]
        return self._joining[client] + sum(client_address(event.request) == client for event in waiting)

    def _take_turns(self) -> None:
        """Orders each queue as it will be served, so that the places that clients are told are right."""
        for name, waiting in self.event_queue_per_concurrency_id.items():
            waiting.queue[:] = self._in_turn(name, waiting.queue)

    def _in_turn(self, queue: str, events: list[Event]) -> list[Event]:
        """A client's first job comes after as many turns as it had lately, each further one a turn later."""
        turns: dict[str, float] = {}
        ranked = []
        for event in sorted(events, key=lambda event: event.enqueue_time):
            client = client_address(event.request)
            turns[client] = turns[client] + 1 if client in turns else self._turns_lately((queue, client))
            ranked.append((turns[client], len(ranked), event))
        return [event for *_, event in sorted(ranked, key=lambda rank: rank[:2])]

    def _had_turn(self, queue: str, client: str) -> None:
        self._turns[queue, client] = self._turns_lately((queue, client)) + 1, time.monotonic()
        for other in [other for other in self._turns if self._turns_lately(other) < 0.01]:
            del self._turns[other]

    def _turns_lately(self, client: tuple[str, str]) -> float:
        """How many turns a client had; they fade with time, so that a visitor who looks at an answer is soon first."""
        turns, counted = self._turns.get(client, (0.0, 0.0))
        return turns * math.exp((counted - time.monotonic()) / FADE_SECONDS)

    def _forget_unheard(self, events: list[Event]) -> None:
        """Drops jobs whose client has not asked for the answer in time."""
        for event in [event for event in events if time.monotonic() - event.enqueue_time > MAX_LISTEN_SECONDS]:
            if not self._listeners.hear(event):
                self._forget(event, events)

    def _make_room(self) -> bool:
        """Drops the oldest job that nobody listens to; False if there is none."""
        queues = [waiting.queue for waiting in self.event_queue_per_concurrency_id.values()]
        unheard = [(event, queue) for queue in queues for event in queue if not self._listeners.hear(event)]
        if not unheard:
            return False
        self._forget(*min(unheard, key=lambda pair: pair[0].enqueue_time))
        return True

    def _forget(self, event: Event, events: list[Event]) -> None:
        events.remove(event)
        self.event_ids_to_events.pop(event._id, None)
        self.pending_event_ids_session.get(event.session_hash, set()).discard(event._id)


def client_address(request: Any) -> str:
    """The network address that a request comes from.

    On a Space that is the last public one of X-Forwarded-For (the ones before it are whatever the client wrote);
    elsewhere the peer's, or what a proxy on this machine says of it (uvicorn reads that).
    """
    peer = request.client.host if request.client else ""
    if os.environ.get("SPACE_ID"):
        forwarded = request.headers.get("x-forwarded-for", "").split(",")
        return next((address.strip() for address in reversed(forwarded) if _is_public(address.strip())), peer)
    return peer


def _is_public(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return False
