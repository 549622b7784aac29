"""One evaluation: query what has not been measured yet, log every photo, then turn all records into results.

Several processes share the photos (torchrun): each logs its own, the first one writes the results. What is on disk is
checked first: an answer that was measured with other weights, other code or other data is stale and measured again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from tqdm import tqdm

from t4s import hub
from t4s.data.spec import Dataset, DatasetSpec, open_dataset
from t4s.data.vqa import Question, VqaDataset
from t4s.errors import QueryError
from t4s.evaluation import report
from t4s.evaluation.arguments import EvalConfig, check_vqa
from t4s.evaluation.figures import RunningScore, figures, timings
from t4s.evaluation.predictors import (
    ORACLE_GRID,
    ChatPredictor,
    MeanMasks,
    OraclePredictor,
    Predictor,
    PredictorInfo,
    SegmenterPredictor,
)
from t4s.evaluation.run_log import (
    Key,
    RunLog,
    code_version,
    data_digest,
    digest_of,
    files_state,
    write_atomically,
)
from t4s.evaluation.scoring import (
    Record,
    Rewording,
    as_class_list,
    covers,
    record_from_json,
    reworded,
    score,
    score_answer,
)

RESULTS_VERSION = 2  # of results.json: settings have the names of the options
MAX_NAME = 120  # bytes of a run's folder name; file systems take 255
MEAN_MASKS = "mean_masks.json"
DEPENDENCIES = {  # the parts of a record's key
    "checkpoint": "the checkpoint",
    "code": "the code of t4s",
    "data": "the data",
    "baseline": "the data of the baseline",
}


@dataclass(frozen=True)
class RunSettings:
    """What was measured, on what: the settings in results.json."""

    predictor: PredictorInfo
    dataset: str  # without this machine's folders
    split: str
    limit: int | None
    min_cover: float
    mean_mask_baseline: str | None
    synonyms: bool
    only: tuple[str, ...]
    class_list: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        flat = asdict(self)
        return flat.pop("predictor") | flat


@dataclass(frozen=True)
class PhotoRecord:
    """One photo's line in the log. `left_out`: targets below --min-cover; `seconds`: for all of its queries."""

    answers: tuple[Record, ...]
    left_out: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        rows = [record.to_json() for record in self.answers]
        return {"left_out": self.left_out, "answers": rows, "seconds": self.seconds}

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> PhotoRecord:
        return cls(tuple(record_from_json(answer) for answer in row["answers"]), row["left_out"], row["seconds"])


def evaluate(config: EvalConfig) -> dict[str, Any] | None:
    """Measure what is missing or stale, then put all records together; None in every process but the first."""
    started = time.perf_counter()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    spec = DatasetSpec.parse(config.dataset)
    split = spec.split or "val"
    if spec.name == "vqa":
        check_vqa(config)
        dataset: Dataset | VqaDataset = VqaDataset(spec.path, split)
        predictor: Predictor = ChatPredictor(config)
    else:
        dataset = open_dataset(spec, split)
        if config.oracle:
            predictor = OraclePredictor(config.oracle, config.grid or ORACLE_GRID, config.refine)
        else:
            predictor = SegmenterPredictor(config)
    settings = RunSettings(
        predictor.info,
        hub.public(config.dataset),
        split,
        config.limit,
        config.min_cover,
        config.mean_mask_baseline and hub.public(config.mean_mask_baseline),
        config.synonyms,
        config.only,
        config.class_list,
    )
    folder = config.out or default_folder(settings)
    local = {"saved": bool(config.save), "path": absolute(spec.path)}  # not for others to read
    log = RunLog(folder, settings.to_json() | local, rank)
    photos = evenly_spaced(len(dataset), config.limit)
    measure(config, dataset, photos[rank::world], predictor, log)
    if world > 1:
        wait_for_all()
    if rank:
        return None
    return conclude(config, dataset, photos, settings, log, time.perf_counter() - started)


def absolute(path: str) -> str:
    """A dataset's path in full: two data sets may well end in the same name."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def evenly_spaced(total: int, limit: int | None) -> list[int]:
    """The photos to measure: all, or `limit` of them evenly spaced (data sets are sorted by source or class)."""
    count = total if limit is None else min(limit, total)
    return [index * total // count for index in range(count)]


def default_folder(settings: RunSettings) -> Path:
    """eval-results/CHECKPOINT-DATASET-REFINER-… below the current folder; a long name ends in a digest of itself."""
    about = settings.predictor
    parts = [about.checkpoint, settings.dataset, about.refine, about.decoding, settings.limit]
    parts += [*settings.only, *settings.class_list]
    texts = [str(part) for part in parts if part]
    name = "-".join("".join(c if c.isalnum() or c in "._+" else "_" for c in text) for text in texts)
    if len(name.encode()) > MAX_NAME:
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        name = f"{name.encode()[: MAX_NAME - 9].decode(errors='ignore')}-{digest}"
    return Path("eval-results") / name


def wait_for_all() -> None:
    """Until every process is done, however unequal their shares."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=7))
    distributed.barrier()
    distributed.destroy_process_group()


# --- measuring


def measure(
    config: EvalConfig,
    dataset: Dataset | VqaDataset,
    photos: Sequence[int],
    predictor: Predictor,
    log: RunLog,
) -> None:
    """Every query about every photo of `photos` that has no valid record yet; one line per photo."""
    quiet = int(os.environ.get("RANK", 0)) > 0
    means = None
    shared = {"checkpoint": predictor.state, "code": code_version()}
    if config.mean_mask_baseline:
        means = mean_masks(config.mean_mask_baseline, predictor.shape, log.folder)
        shared["baseline"] = digest_of(means.to_json())
    revisions = _revisions(dataset, photos, log, shared, extras=bool(config.save), quiet=quiet)
    running = RunningScore()
    done = len(photos) - len(revisions)
    bar = tqdm(revisions.items(), initial=done, total=len(photos), unit="photo", disable=quiet)
    for photo, revision in bar:
        started = time.perf_counter()
        samples = dataset[photo]
        key = shared | {"data": data_digest(samples)}
        chosen = selected(config, samples)
        queries = queries_about(config, chosen)
        records, saved = answer(predictor, queries, means, saving=bool(config.save))
        for record in records:
            running.add(record)
        left_out = len(chosen) - sum(rewording is None for _, rewording in queries)
        line = PhotoRecord(tuple(records), left_out, time.perf_counter() - started)
        log.append(photo, key, line.to_json(), saved if config.save else None, revision)
        bar.set_postfix_str(str(running), refresh=False)


def _revisions(
    dataset: Dataset | VqaDataset, photos: Sequence[int], log: RunLog, shared: Key, extras: bool, quiet: bool
) -> dict[int, int]:
    """{photo: the revision to write} of every photo that has no record, or a stale one."""
    entries = log.entries(extras)
    newest = log.entries()
    revisions = {}
    changed: set[str] = set()
    stale = 0
    checked = tqdm(photos, desc="checking what is on disk", unit="photo", disable=quiet or not entries, leave=False)
    for photo in checked:
        if photo in entries:
            differing = _differing(entries[photo].key, shared, dataset, photo)
            if not differing:
                continue
            stale += 1
            changed |= differing
        revisions[photo] = newest[photo].revision + 1 if photo in newest else 0
    if stale:
        causes = " and ".join(DEPENDENCIES[name] for name in sorted(changed))
        message = f"{stale} of {len(photos)} photos in {log.folder} were measured before {causes} changed"
        print(f"{message}; measuring them again.", file=sys.stderr)
    return revisions


def _differing(key: Key, shared: Key, dataset: Dataset | VqaDataset, photo: int) -> set[str]:
    """The parts of a record's key that have changed; the photo is only read if the others have not."""
    differing = {name for name, value in shared.items() if key.get(name) != value}
    if not differing and key.get("data") != data_digest(dataset[photo]):
        return {"data"}
    return differing


def selected(config: EvalConfig, samples: Sequence[Any]) -> Sequence[Any]:
    """The samples or questions of a photo that --only leaves, or the class list that --class-list makes of them."""
    if config.class_list:
        together = as_class_list(samples, config.class_list)
        return () if together is None else (together,)
    if config.only:
        return [sample for sample in samples if sample.query in config.only]
    return samples


def queries_about(config: EvalConfig, samples: Sequence[Any]) -> list[tuple[Any, Rewording | None]]:
    """What is queried about a photo: its samples or questions, then their rewordings, marked as such."""
    named = [sample for sample in samples if isinstance(sample, Question) or covers(sample, config.min_cover)]
    queries: list[tuple[Any, Rewording | None]] = [(sample, None) for sample in named]
    if config.synonyms:
        queries += [(other, rewording) for sample in named for rewording, other in reworded(sample)]
    return queries


def answer(
    predictor: Predictor, queries: Sequence[tuple[Any, Rewording | None]], means: MeanMasks | None, saving: bool
) -> tuple[list[Record], list[dict[str, Any]]]:
    """The records of one photo's answers, and, with `saving`, the lines that --save writes of them."""
    records: list[Record] = []
    saved = []
    answers = predictor.answers([sample for sample, _ in queries]) if queries else ()
    for (sample, rewording), (given, refused) in zip(queries, answers, strict=True):
        if isinstance(sample, Question):
            records.append(score_answer(sample, given, refused))
            line = report.saved_answer
        else:
            scored = means is not None and isinstance(sample.query, str) and rewording is None
            mean_mask = means.cells(sample) if scored else None
            records.append(score(sample, given, refused, mean_mask, rewording))
            line = report.saved_line
        if saving:
            saved.append(line(sample, given, refused))
    return records, saved


def mean_masks(spec: str, shape: tuple[int, int], folder: Path) -> MeanMasks:
    """The mean masks of a dataset, "train" unless it names a split; kept in the run's folder."""
    path = folder / MEAN_MASKS
    dataset = open_dataset(spec, "train")
    key = digest_of(f"{code_version()} {files_state(DatasetSpec.parse(spec).path)} {len(dataset)}")
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return MeanMasks.from_json(kept["means"])
    means = MeanMasks(shape)
    for photo in tqdm(range(len(dataset)), desc="mean masks", unit="photo", leave=False):
        for sample in dataset[photo]:
            means.add(sample)
    write_atomically(path, json.dumps({"key": key, "means": means.to_json()}))
    return means


# --- results


def conclude(
    config: EvalConfig,
    dataset: Dataset | VqaDataset,
    photos: Sequence[int],
    settings: RunSettings,
    log: RunLog,
    seconds: float,
) -> dict[str, Any]:
    """Records → results.json and results.md, the saved predictions, the card, and the tables on the screen."""
    lines = [PhotoRecord.from_json(row) for row in log.contents(photos)]
    records = [record for line in lines for record in line.answers]
    left_out = sum(line.left_out for line in lines)
    named = config.only or config.class_list
    if named and not records and not left_out:
        raise QueryError(
            f"No photo of {settings.dataset} has a query for {', '.join(named)}; --only and --class-list "
            "take phrases as the dataset has them."
        )
    per_query = sum(line.seconds for line in lines) / max(len(records), 1)
    results = {
        "format_version": RESULTS_VERSION,
        "settings": json.loads(json.dumps(settings.to_json())),
        "versions": report.versions(),
        "photos": len(photos),
        "left_out": left_out,
        **figures(records),
        "timings": timings(records) | {"seconds_a_question": per_query, "last_start_seconds": seconds},
    }
    tables = report.summary(results)
    write_atomically(log.folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    parts = filter(None, (report.overview(results), tables, report.by_class(results)))
    write_atomically(log.folder / "results.md", "\n\n".join(parts) + "\n")
    print(f"\n{tables}\n\n{log.folder / 'results.json'}")
    if config.save:
        save(config.save, dataset, photos, lines, log, settings)
    if config.update_card:
        from t4s.models.checkpoint import find

        folder = find(config.checkpoint)
        print(hub.add_figures(folder, report.card_figures(results, settings.dataset)))
        hub.add_names(folder, report.names_drawn(results))
    return results


def save(
    folder: Path,
    dataset: Dataset,
    photos: Sequence[int],
    lines: Sequence[PhotoRecord],
    log: RunLog,
    settings: RunSettings,
) -> None:
    """predictions.jsonl, in the photos' order, and sheet.png."""
    folder.mkdir(parents=True, exist_ok=True)
    saved = log.extras(photos)
    rows = [json.dumps(row, ensure_ascii=False) for of_photo in saved for row in of_photo]
    write_atomically(folder / "predictions.jsonl", "".join(f"{row}\n" for row in rows))
    title = f"{settings.predictor.checkpoint}, {settings.dataset}, {settings.predictor.refine}"
    sheet = report.picture_sheet(dataset, photos, [line.answers for line in lines], saved, title)
    if sheet is not None:
        sheet.save(folder / "sheet.png")
    print(folder / "predictions.jsonl")
