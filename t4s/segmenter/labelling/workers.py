"""Who answers: this process, a server that takes many requests at a time, or actors on a Ray cluster.

Each takes the shards that are left, and yields (shard, its rows) as shards are finished. `tick` is called with the
rows of every photo that was labelled, in any order.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlparse

from t4s.errors import CheckpointError, DataError
from t4s.segmenter.labelling.answering import Answers, Questions, label_photo
from t4s.segmenter.labelling.arguments import LabelConfig
from t4s.segmenter.labelling.shards import Row, Shards
from t4s.segmenter.labelling.sources import PhotoSource, open_source

Tick = Callable[[Sequence[Row]], None]
Todo = Mapping[int, Mapping[int, list[Row]]]  # {shard: {photo: rows that are kept}}
Finished = Iterator[tuple[int, list[Row]]]

CLUSTER_SECONDS = 10.0  # to reach a cluster
_NO_CLUSTER = "There is no Ray cluster at {!r}: start one, or leave the address out for one of this machine."


def make_segmenter(config: LabelConfig) -> Any:
    """The `Segmenter` that a configuration names."""
    from transformers.utils import logging

    from t4s.segmenter.segmenter import Segmenter

    logging.disable_progress_bar()  # there is one bar, that of the photos
    if config.endpoint is not None:
        segmenter = Segmenter.remote(
            config.endpoint,
            config.model,
            checkpoint=config.checkpoint,
            revision=config.revision,
            silence=config.silence,
        )
        segmenter.vlm.endpoint.logprob_options()  # a server that is not there, or refuses the key, is told at once
        return segmenter
    return Segmenter.from_pretrained(config.checkpoint, config.revision, config.device, config.dtype)


def one_after_the_other(
    segmenter: Answers, source: PhotoSource, questions: Questions, shards: Shards, todo: Todo, tick: Tick
) -> Finished:
    """In this process."""
    for shard, kept in todo.items():
        yield shard, _label_shard(segmenter, source, questions, shards.photos_of(shard), kept, tick)


def _label_shard(
    segmenter: Answers,
    source: PhotoSource,
    questions: Questions,
    photos: range,
    kept: Mapping[int, list[Row]],
    tick: Tick,
) -> list[Row]:
    rows: list[Row] = []
    for index, photo in zip(photos, source.photos(photos.start, photos.stop), strict=True):
        if index in kept:
            rows += kept[index]
            continue
        answers = label_photo(segmenter, index, photo, questions)
        tick(answers)
        rows += answers
    return rows


def many_at_a_time(
    segmenter: Answers,
    source: PhotoSource,
    questions: Questions,
    shards: Shards,
    todo: Todo,
    tick: Tick,
    concurrency: int,
) -> Finished:
    """Threads that wait for a server. Photos are sent in order, a few ahead, and put down in order."""
    ahead: deque[tuple[int, bool, Future[list[Row]] | list[Row]]] = deque()  # (shard, the last of it, rows)
    rows: list[Row] = []

    def oldest() -> Finished:
        shard, last, answer = ahead.popleft()
        if isinstance(answer, Future):
            answer = answer.result()
            tick(answer)
        rows.extend(answer)
        if last:
            yield shard, list(rows)
            rows.clear()

    with ThreadPoolExecutor(concurrency) as pool:
        try:
            for shard, kept in todo.items():
                photos = shards.photos_of(shard)
                for index, photo in zip(photos, source.photos(photos.start, photos.stop), strict=True):
                    if index in kept:
                        answer: Future[list[Row]] | list[Row] = kept[index]
                    else:
                        answer = pool.submit(label_photo, segmenter, index, photo, questions)
                    ahead.append((shard, index == photos[-1], answer))
                    while len(ahead) > 2 * concurrency:
                        yield from oldest()
            while ahead:
                yield from oldest()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def on_ray(config: LabelConfig, questions: Questions, shards: Shards, todo: Todo, tick: Tick) -> Finished:
    """Actors with a model each. Ray starts an actor that died again and gives it its shard again."""
    try:
        import ray
    except ModuleNotFoundError as error:
        raise DataError('--ray needs the package "ray": pip install "ray>=2.60"') from error
    address = config.ray or None
    _check_cluster(address)
    try:
        ray.init(
            address, log_to_driver=False, logging_level="WARNING", include_dashboard=False if not address else None
        )
    except (ConnectionError, ValueError) as error:
        raise DataError(f"{_NO_CLUSTER.format(address)} ({error})") from error
    try:
        actor = ray.remote(num_cpus=config.cpus, num_gpus=config.gpus, max_restarts=-1, max_task_retries=-1)(_Actor)
        count = _actor_count(config, ray.cluster_resources(), grows=address is not None)
        actors = [actor.remote(config, questions) for _ in range(min(count, len(todo)))]
        left = iter(todo.items())
        running: dict[Any, tuple[int, Any]] = {}
        free = deque(actors)
        while True:
            while free and (following := next(left, None)) is not None:
                shard, kept = following
                worker = free.popleft()
                running[worker.label.remote(shards.photos_of(shard), dict(kept))] = shard, worker
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            shard, worker = running.pop(done)
            free.append(worker)
            rows = _result(ray, done)
            for index in shards.photos_of(shard):
                if index not in todo[shard]:
                    tick([row for row in rows if row["index"] == index])
            yield shard, rows
    finally:
        ray.shutdown()


def _check_cluster(address: str | None) -> None:
    """Ray itself tries for minutes to reach a cluster that is not there. Raises DataError."""
    place = urlparse(address if "://" in (address or "") else f"ray://{address}")
    if address in (None, "auto", "local"):
        return
    try:
        socket.create_connection((place.hostname or "", place.port or 6379), CLUSTER_SECONDS).close()
    except (OSError, ValueError) as error:  # ValueError: a port that is none
        raise DataError(f"{_NO_CLUSTER.format(address)} ({error})") from error


def _result(ray: Any, done: Any) -> list[Row]:
    try:
        return ray.get(done)
    except ray.exceptions.RayActorError as error:  # it died while it started; its traceback ends with the reason
        reason = " ".join(str(error).split()).rpartition("Error: ")[2]
        raise CheckpointError(f"An actor could not start: {reason[-500:]}") from error
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, Exception) else error from None


def _actor_count(config: LabelConfig, resources: Mapping[str, float], grows: bool) -> int:
    """As many as are wanted, or as many as fit. Raises DataError where they never will: one would wait for ever.

    grows  the cluster may start more nodes
    """
    shares = [(resources.get("CPU", 0), config.cpus), (resources.get("GPU", 0), config.gpus)]
    fitting = min(int(there / each) for there, each in shares if each)
    wanted = config.actors or max(fitting, 1)
    if wanted > fitting and not (grows and config.actors):
        raise DataError(
            f"The cluster has {resources.get('CPU', 0):g} cores and {resources.get('GPU', 0):g} GPUs, and {wanted} "
            f"actors ask for {config.cpus:g} and {config.gpus:g} each; lower --actors, --cpus or --gpus."
        )
    return wanted


class _Actor:
    """One model on a node of the cluster; it reads the photos itself."""

    def __init__(self, config: LabelConfig, questions: Questions):
        if config.cpus >= 1:
            import torch

            torch.set_num_threads(int(config.cpus))
        self._segmenter = make_segmenter(config)
        self._source = open_source(config.source)
        self._questions = questions

    def label(self, photos: range, kept: Mapping[int, list[Row]]) -> list[Row]:
        return _label_shard(self._segmenter, self._source, self._questions, photos, kept, lambda rows: None)
