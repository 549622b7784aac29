"""Clients that wish an app no good, in a process of their own: python attackers.py ADDRESS SECONDS PHOTO...

They ask as sixteen visitors at once, a third of whom leave before the answer is there; post calls that they never
listen to; name refiners and addresses that they should not. Each has a network address of its own, as a proxy on the
same machine would tell it. Prints one JSON object: answers by photo and phrase, and what went wrong.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

PHRASES = ("cat", "person", "dog", "the horse")
FILE = {"_type": "gradio.FileData"}
REFINERS = ("sam:nobody/nothing", "sam:../../etc", "sam:/etc/passwd", "sam", "sam:", "crf; rm")
ADDRESSES = (
    "http://127.0.0.1:22/",
    "http://localhost/",
    "http://[::1]/",
    "http://169.254.169.254/latest/meta-data",
    "data:image/png;base64," + "A" * 27_500_000,
    "data:text/html,x",
)


class Attack:
    """Everything that the attackers share. `answers`: texts by photo and phrase; `wrong`: what should not have been."""

    def __init__(self, address: str, seconds: float, photos: list[Path]):
        self.base, self.until, self.photos = f"{address.rstrip('/')}/gradio_api", time.monotonic() + seconds, photos
        self.answers: dict[str, Counter[str]] = {}
        self.left = self.refused = 0
        self.wrong: list[str] = []
        self.uploads: dict[Path, dict[str, Any]] = {}
        self.http = httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=200))

    async def run(self) -> None:
        for photo in self.photos:
            posted = await self.http.post(f"{self.base}/upload", files={"files": (photo.name, photo.read_bytes())})
            self.uploads[photo] = {"path": posted.json()[0], "meta": FILE}
        await asyncio.gather(*(self.visitor(number) for number in range(16)), self.deaf(), self.liar())

    async def ask(self, data: list[Any], client: str, leave: bool = False) -> tuple[str, Any]:
        """(the last event, its data) of a call to /segment."""
        headers = {"X-Forwarded-For": client}
        posted = await self.http.post(f"{self.base}/call/segment", json={"data": data}, headers=headers)
        if posted.status_code != 200:
            return f"status {posted.status_code}", None
        event, content = "", "null"
        url = f"{self.base}/call/segment/{posted.json()['event_id']}"
        async with self.http.stream("GET", url, headers=headers) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: ") and event in ("complete", "error", "generating"):
                    content = line.removeprefix("data: ")
                    if leave:
                        return "left", None
        return event, json.loads(content)

    async def visitor(self, number: int) -> None:
        choose = random.Random(number)
        while time.monotonic() < self.until:
            photo, phrase = choose.choice(self.photos), choose.choice(PHRASES)
            data = [self.uploads[photo], phrase, "", "fast"]
            event, answer = await self.ask(data, f"203.0.113.{number}", leave=choose.random() < 1 / 3)
            if event == "left":
                self.left += 1
            elif event == "complete":
                self.answers.setdefault(f"{photo.name} {phrase}", Counter())[answer[0]] += 1
            else:
                self.wrong.append(f"{photo.name}, {phrase}: {event} {answer}")

    async def deaf(self) -> None:
        """64 posts at once, again and again, from four addresses."""
        photo = self.uploads[self.photos[0]]
        while time.monotonic() < self.until:
            for number in range(64):
                headers = {"X-Forwarded-For": f"198.51.100.{number % 4}"}
                data = {"data": [photo, "cat", "", "fast"]}
                posted = await self.http.post(f"{self.base}/call/segment", json=data, headers=headers)
                if posted.status_code not in (200, 503):
                    self.wrong.append(f"a deaf post: {posted.status_code} {posted.text}")
            await asyncio.sleep(5)

    async def liar(self) -> None:
        """Refiners and addresses that are not for visitors: each is refused in a sentence."""
        photo = self.uploads[self.photos[0]]
        tries = [[photo, "cat", refiner, "fast"] for refiner in REFINERS]
        tries += [[{"path": address, "meta": FILE}, "cat", "", "fast"] for address in ADDRESSES]
        while time.monotonic() < self.until:
            for data in tries:
                event, answer = await self.ask(data, "192.0.2.1")
                if event != "error" or not str(answer.get("error")).endswith("."):
                    self.wrong.append(f"{str(data)[:80]}: {event} {answer}")
                self.refused += 1


def main() -> None:
    attack = Attack(sys.argv[1], float(sys.argv[2]), [Path(name) for name in sys.argv[3:]])
    asyncio.run(attack.run())
    found = {"answers": attack.answers, "left": attack.left, "refused": attack.refused, "wrong": attack.wrong}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
