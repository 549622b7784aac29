"""One run of `t4s label`: what is still to be done, in order, with progress, and a summary at the end."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

import t4s
from t4s.errors import EndpointError
from t4s.models.checkpoint import EMBEDDED, find, fingerprint, is_from_hub
from t4s.segmenter.labelling.answering import Questions
from t4s.segmenter.labelling.arguments import LabelConfig
from t4s.segmenter.labelling.shards import FAILED, FAILURES, UNANSWERED, Row, Shards, arrow, write_whole
from t4s.segmenter.labelling.sources import PhotoSource, absolute, open_source
from t4s.segmenter.labelling.workers import Todo, make_segmenter, many_at_a_time, on_ray, one_after_the_other
from t4s.segmenter.remote import find_format

VERSION = 1  # of label.json
SHOWN = 10  # failures that are printed
HOPELESS = 16  # photos in a row without an answer, after which a server is given up


def label(config: LabelConfig) -> int:
    """Label what is left; returns the exit code: 0, or 1 if a server left questions unanswered."""
    assert config.out is not None
    arrow()  # before any work: the labels cannot be written without it
    config = replace(config, source=tuple(map(absolute, config.source)))
    source = open_source(config.source, config.out)
    photos = min(len(source), config.limit or len(source))
    shards = Shards(config.out, photos, config.shard_size)
    questions = _questions(config)
    shards.agree(_settings(config, source, photos, questions))
    index, parts = config.part
    mine = range(index, shards.total, parts)
    shards.remove_parts(mine)
    todo = {shard: kept for shard in mine if (kept := shards.kept(shard)) is not None}
    if todo:
        _work(config, source, questions, shards, todo, sum(len(shards.photos_of(shard)) for shard in mine))
    if not all(map(shards.done, range(shards.total))):
        print(f"Part {index}/{parts} is done; other parts are not.", file=sys.stderr)
        return 0
    return _conclude(shards)


def _questions(config: LabelConfig) -> Questions:
    name = config.checkpoint or config.model
    revision = config.revision
    if config.endpoint is not None:  # its weights are elsewhere
        file = find_format(str(name), revision)
        folder, digest = file.parent, hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    else:
        folder = find(name, revision)
        digest = fingerprint(folder)
    commit = folder.name if is_from_hub(folder) else digest
    public = Path(name).name if name is not None and Path(name).exists() else name or EMBEDDED
    asked = (config.classes,) if config.classes else config.query
    return Questions(asked, config.refine, config.decoding, config.classes_per_query, public, commit)


def _settings(config: LabelConfig, source: PhotoSource, photos: int, questions: Questions) -> dict[str, Any]:
    """What decides the answers, and so must be the same when a run goes on."""
    return {
        "format_version": VERSION,
        "t4s": t4s.__version__,
        "source": [text if text.startswith("hub:") else os.path.relpath(text, config.out) for text in config.source],
        "photos": photos,
        "photos_state": source.state,
        "shard_size": config.shard_size,
        "queries": list(config.query),
        "classes": list(config.classes),
        "checkpoint": questions.checkpoint,
        "revision": questions.revision,
        "engine": "local" if config.endpoint is None else "endpoint",
        "refine": config.refine,
        "decoding": config.decoding,
        "classes_per_query": config.classes_per_query,
    }


def _work(
    config: LabelConfig, source: PhotoSource, questions: Questions, shards: Shards, todo: Todo, photos: int
) -> None:
    left = sum(len(shards.photos_of(shard)) - len(kept) for shard, kept in todo.items())
    with tqdm(initial=photos - left, total=photos, unit="photo", dynamic_ncols=True) as bar:
        tick = _Progress(bar)
        if config.ray is not None:
            finished = on_ray(replace(config, out=None), questions, shards, todo, tick)
        elif config.endpoint is not None:
            finished = many_at_a_time(make_segmenter(config), source, questions, shards, todo, tick, config.concurrency)
        else:
            finished = one_after_the_other(make_segmenter(config), source, questions, shards, todo, tick)
        for shard, rows in finished:
            shards.write(shard, rows)


class _Progress:
    """The bar: photos, rate, time left, and failures so far. Gives a server up that answers nothing any more."""

    def __init__(self, bar: tqdm):
        self._bar, self._failed, self._in_a_row = bar, 0, 0

    def __call__(self, rows: Sequence[Row]) -> None:
        self._bar.update()
        failed = [row for row in rows if row["status"] in (FAILED, UNANSWERED)]
        self._failed += bool(failed)
        if failed:
            self._bar.set_postfix_str(f"{self._failed} failed", refresh=False)
        silent = [row for row in rows if row["status"] == UNANSWERED]
        self._in_a_row = self._in_a_row + 1 if silent else 0
        if self._in_a_row >= HOPELESS:
            raise EndpointError(
                f"{HOPELESS} photos in a row got no answer ({silent[0]['error']}) Finished shards are kept; give the "
                "same command again when the server is well."
            )


def _conclude(shards: Shards) -> int:
    """The failures as a file, the counts on the screen."""
    statuses: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    for row in shards.all_rows():
        statuses[row["status"]] += 1
        if row["error"] is not None:
            failures.append({name: row[name] for name in ("index", "photo", "query", "status", "error")})
    lines = [json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures]
    write_whole(shards.folder / FAILURES, "".join(lines).encode())
    counts = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    print(f"{shards.photos} photos, {statuses.total()} answers: {counts}. {shards.folder}")
    for failure in failures[:SHOWN]:
        print(f"  {failure['photo']}: {failure['error']}")
    if len(failures) > SHOWN:
        print(f"  … and {len(failures) - SHOWN} more in {shards.folder / FAILURES}")
    if statuses[UNANSWERED]:
        print(f"{statuses[UNANSWERED]} questions are unanswered; the same command asks them again.", file=sys.stderr)
    return 1 if statuses[UNANSWERED] else 0
