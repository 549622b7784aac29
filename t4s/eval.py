"""Measure a checkpoint on a data set.

    python t4s/eval.py --dataset folder:PHOTOS@val                                         # the embedded checkpoint
    python t4s/eval.py --checkpoint ID --dataset refcoco:PATH@val --refine edge --decoding fast
    python t4s/eval.py --dataset ade20k:PATH@val --limit 200 --save predictions
    python t4s/eval.py --dataset folder:PHOTOS@val --oracle grid --refine edge             # no model: the true grids
    python t4s/eval.py --checkpoint ID --dataset vqa:FILE.jsonl                            # what it knows besides
    torchrun --nproc_per_node 4 t4s/eval.py --checkpoint ID --dataset grefcoco:PATH@val

Every photo's answers are written down as soon as they are there, so a run that was stopped goes on where it was
when the same command is given again. Answers are greedy, questions use the first template, and all scores are sums
of whole numbers: two runs, or one process and four, give the same figures to the last digit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t4s.data.spec import Dataset
    from t4s.data.vqa import VqaDataset
    from t4s.evaluation.baselines import Averages
    from t4s.evaluation.predictors import ChatPredictor, Model, Oracle
    from t4s.evaluation.run_log import RunLog


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME[:PATH][@SPLIT]", help="what to measure on (SPLIT: val unless named)")
    add("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    add("--revision", help="of a Hub id")
    add("--refine", metavar="NAME", help="refiner (default: the checkpoint's own)")
    add("--decoding", default="fast", choices=("fast", "constrained", "free"))
    add("--oracle", choices=("grid", "mask"), help="score the true grids (refined) or the true masks, without a model")
    add("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="of --oracle (16 16)")
    add(
        "--classes-per-query",
        type=int,
        metavar="N",
        help="names of a class list in one question (default: what the checkpoint does best, or all that fit)",
    )
    add("--limit", type=int, metavar="N", help="only N photos, evenly spaced over the dataset")
    add(
        "--min-cover",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave out targets that cover less than this share of the scored pixels (0.01: one percent)",
    )
    add("--only", nargs="+", metavar="PHRASE", help="ask only these phrases, about the photos that have them")
    add(
        "--class-list",
        nargs="+",
        metavar="NAME",
        help="ask for these names as one class list, of each photo that has one, in place of its phrases",
    )
    add("--synonyms", action="store_true", help="also ask for each class by its plural and its synonyms")
    add(
        "--mean-mask-baseline",
        metavar="NAME[:PATH][@SPLIT]",
        help="also score the class-average baseline: each class's mean grid over these photos",
    )
    add("--out", type=Path, help="folder of the run: results.json and what a stopped run goes on from")
    add("--save", type=Path, metavar="DIR", help="write predictions (JSON lines, COCO RLE) and a picture sheet")
    add("--update-card", action="store_true", help="put the figures into a checkpoint folder's card and t4s.json")
    add("--device", help='"cpu", "cuda", "cuda:1" (default: a GPU if there is one)')
    add("--dtype", help='"float32", "bfloat16" or "float16" (default: what the device does best)')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one evaluation; returns the exit code: 0, or 2 (130 if interrupted) after one sentence on stderr."""
    from t4s.errors import T4SError

    options = arguments().parse_args(argv)
    try:
        evaluate(options)
    except T4SError as error:
        print(f"t4s eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("t4s eval: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def evaluate(options: argparse.Namespace) -> dict[str, Any] | None:
    """Answer what is not answered yet, then put all records together. None in every process but the first."""
    from t4s.data.spec import DatasetSpec, open_dataset
    from t4s.data.vqa import VqaDataset
    from t4s.evaluation.predictors import ChatPredictor, Model, Oracle
    from t4s.evaluation.run_log import RunLog
    from t4s.hub import public

    started = time.perf_counter()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    check(options)
    spec = DatasetSpec.parse(options.dataset)
    split, words = spec.split or "val", spec.name == "vqa"
    if words:
        check_words(options)
    dataset = VqaDataset(spec.path, split) if words else open_dataset(spec, split)
    asker = ChatPredictor(options) if words else Oracle(options) if options.oracle else Model(options)
    settings = asker.settings | {
        "dataset": public(options.dataset),
        "split": split,
        "limit": options.limit,
        "min_cover": options.min_cover,
        "average_from": options.mean_mask_baseline and public(options.mean_mask_baseline),
        "other_words": options.synonyms,
        "only": options.only,
        "together": options.class_list,
    }
    folder = options.out or default_folder(settings)
    private = {"state": asker.state, "photos": len(dataset), "saved": bool(options.save), "place": place_of(spec.path)}
    journal = RunLog(folder, settings | private, rank)
    photos = chosen(len(dataset), options.limit)
    answer_photos(options, dataset, photos[rank::world], asker, journal)
    if world > 1:
        wait_for_all()
    if rank:
        return None
    return conclude(options, dataset, photos, settings, journal, time.perf_counter() - started)


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded. QueryError, DataError."""
    from t4s.errors import DataError, QueryError
    from t4s.refine.refiner import check_refiner

    if options.refine is not None:
        check_refiner(options.refine)
    if options.oracle and options.checkpoint:
        raise QueryError("--oracle takes the true answers in a model's place; leave --checkpoint or --oracle out.")
    if options.grid and not options.oracle:
        raise QueryError("--grid is the size of --oracle's grids, a checkpoint has a size of its own; leave it out.")
    if options.limit is not None and options.limit < 1:
        raise QueryError(f"--limit is {options.limit}; it is a number of photos, 1 or more.")
    if not 0 <= options.min_cover < 1:
        raise QueryError(f"--min-cover is {options.min_cover}; it is a share of the photo from 0 to below 1.")
    if options.classes_per_query is not None and options.classes_per_query < 1:
        raise QueryError(f"--classes-per-query is {options.classes_per_query}; it is a number of names, 1 or more.")
    if options.class_list and (options.only or options.synonyms):
        raise QueryError("--class-list asks for its own names and nothing else; leave --only and --synonyms out.")
    if options.class_list and len(set(options.class_list)) < len(options.class_list):
        raise QueryError(f"--class-list names one twice ({', '.join(options.class_list)}); name each once.")
    if options.update_card and (options.only or options.class_list):
        raise QueryError(
            "--update-card takes figures over all phrases of a dataset; leave --only, --class-list or "
            "--update-card out."
        )
    if options.update_card and options.oracle:
        raise QueryError("--update-card takes figures of a checkpoint, --oracle has none; leave one of the two out.")
    if options.update_card and options.checkpoint and not Path(options.checkpoint).is_dir():
        raise QueryError(
            f"--update-card writes into a checkpoint's folder, and {options.checkpoint!r} is none here; "
            "download it, update its card, and push it with `python -m t4s.hub FOLDER ID`."
        )
    for folder in (options.out, options.save):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; name a folder.")
    if options.update_card:
        check_card(options.checkpoint)


def check_card(checkpoint: str | None) -> None:
    """Refuse a card without a place for figures now, and not after hours. CheckpointError."""
    from t4s import hub
    from t4s.assets import asset
    from t4s.errors import CheckpointError
    from t4s.models.checkpoint import EMBEDDED

    card = (Path(checkpoint) if checkpoint else asset(EMBEDDED)) / hub.CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not all(mark in text for mark in hub.FIGURES):
        raise CheckpointError(
            f"{card} has no place for figures; write the lines {hub.FIGURES[0]} and {hub.FIGURES[1]} "
            "where they belong, or leave --update-card out."
        )


def check_words(options: argparse.Namespace) -> None:
    """Refuse what belongs to masks where there are none. QueryError."""
    from t4s.errors import QueryError

    foreign = {
        "--oracle": options.oracle,
        "--refine": options.refine,
        "--min-cover": options.min_cover,
        "--classes-per-query": options.classes_per_query,
        "--synonyms": options.synonyms,
        "--only": options.only,
        "--class-list": options.class_list,
        "--mean-mask-baseline": options.mean_mask_baseline,
    }
    given = [name for name, value in foreign.items() if value]
    if given:
        raise QueryError(f"{given[0]} belongs to masks, and a vqa dataset has none; leave it out.")


def place_of(path: str) -> str:
    """A dataset's path in full: two data sets may well end in the same name."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def chosen(total: int, limit: int | None) -> list[int]:
    """The photos to answer: all, or `limit` of them evenly spaced (data sets lie sorted by source or class)."""
    count = total if limit is None else min(limit, total)
    return [index * total // count for index in range(count)]


def default_folder(settings: dict[str, Any]) -> Path:
    """eval-results/CHECKPOINT-CORPUS-REFINER-… below the current folder."""
    names = ("checkpoint", "dataset", "refine", "decoding", "limit")
    parts = [*(str(settings[name]) for name in names if settings.get(name))]
    parts += [*(settings["only"] or ()), *(settings["together"] or ())]
    return Path("eval-results") / "-".join("".join(c if c.isalnum() or c in "._+" else "_" for c in p) for p in parts)


# --- answering


def answer_photos(
    options: argparse.Namespace,
    dataset: Dataset | VqaDataset,
    mine: Sequence[int],
    asker: Model | Oracle | ChatPredictor,
    journal: RunLog,
) -> None:
    """Every question about every photo of `mine` that has no record yet; one line a photo."""
    from tqdm import tqdm

    from t4s.evaluation.scoring import Running

    averages = (
        train_averages(options.mean_mask_baseline, asker.shape, journal.folder) if options.mean_mask_baseline else None
    )
    done, running = journal.done(extras=bool(options.save)), Running()
    todo = [photo for photo in mine if photo not in done]
    quiet = int(os.environ.get("RANK", 0)) > 0
    bar = tqdm(todo, initial=len(mine) - len(todo), total=len(mine), unit="photo", disable=quiet)
    for photo in bar:
        started = time.perf_counter()
        every = selected(options, dataset[photo])
        questions = asked(options, every)
        records, saved = answered(asker, questions, averages, saving=bool(options.save))
        for record in records:
            running.add(record)
        left_out = len(every) - sum(not mark for _, mark in questions)
        record = {"left_out": left_out, "answers": records, "seconds": time.perf_counter() - started}
        journal.append(photo, record, saved if options.save else None)
        bar.set_postfix_str(running.text(), refresh=False)


def selected(options: argparse.Namespace, every: Sequence[Any]) -> Sequence[Any]:
    """The samples or questions of a photo that --only and --class-list leave, or make."""
    from t4s.evaluation.scoring import as_list

    if options.class_list:
        together = as_list(every, options.class_list)
        return () if together is None else (together,)
    return [one for one in every if options.only is None or one.query in options.only]


def asked(options: argparse.Namespace, every: Sequence[Any]) -> list[tuple[Any, dict[str, Any]]]:
    """What is asked about a photo: its samples or questions, those in other words marked so in their records."""
    from t4s.data.vqa import Question
    from t4s.evaluation.baselines import covers
    from t4s.evaluation.scoring import other_words

    named = [one for one in every if isinstance(one, Question) or covers(one, options.min_cover)]
    questions: list[tuple[Any, dict[str, Any]]] = [(one, {}) for one in named]
    if options.synonyms:
        questions += [(other, {"words": [kind, s.id]}) for s in named for kind, other in other_words(s)]
    return questions


def answered(
    asker: Model | Oracle | ChatPredictor,
    questions: Sequence[tuple[Any, dict[str, Any]]],
    averages: Averages | None,
    saving: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records of one photo's answers, and, with `saving`, the lines that --save writes of them."""
    from t4s.data.vqa import Question
    from t4s.evaluation.report import saved_answer, saved_line
    from t4s.evaluation.scoring import score, score_answer

    records, saved = [], []
    answers = asker.answers([one for one, _ in questions]) if questions else ()
    for (one, mark), (answer, refused) in zip(questions, answers, strict=True):
        in_words = isinstance(one, Question)
        if in_words:
            records.append(score_answer(one, answer, refused))
        else:
            average = averages.cells(one) if averages and isinstance(one.query, str) and not mark else None
            records.append(score(one, answer, refused, asker.layout, average) | mark)
        if saving:
            saved.append((saved_answer if in_words else saved_line)(one, answer, refused))
    return records, saved


def train_averages(spec: str, shape: tuple[int, int], folder: Path) -> Averages:
    """The class-average grids of a dataset, "train" unless it names a split; kept in the run's folder."""
    from tqdm import tqdm

    from t4s.data.spec import open_dataset
    from t4s.evaluation.baselines import Averages
    from t4s.evaluation.run_log import write_whole

    path = folder / "averages.json"
    if path.is_file():
        return Averages.from_json(path.read_text(encoding="utf-8"))
    averages, dataset = Averages(shape), open_dataset(spec, "train")
    for photo in tqdm(range(len(dataset)), desc="class averages", unit="photo", leave=False):
        for sample in dataset[photo]:
            averages.add(sample)
    write_whole(path, averages.to_json())
    return averages


def wait_for_all() -> None:
    """Until every process is done, however unequal their shares."""
    import torch.distributed as distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=7))
    distributed.barrier()
    distributed.destroy_process_group()


# --- putting together


def conclude(
    options: argparse.Namespace,
    dataset: Dataset | VqaDataset,
    photos: Sequence[int],
    settings: dict[str, Any],
    journal: RunLog,
    seconds: float,
) -> dict[str, Any]:
    """Records → results.json and results.md, the saved predictions, the card, and the tables on the screen."""
    from t4s import hub
    from t4s.errors import QueryError
    from t4s.evaluation import report
    from t4s.evaluation.run_log import write_whole
    from t4s.evaluation.scoring import figures, timings

    lines = journal.records(photos)
    records = [record for line in lines for record in line["answers"]]
    left_out = sum(line["left_out"] for line in lines)
    named = options.only or options.class_list
    if named and not records and not left_out:
        raise QueryError(
            f"No photo of {settings['dataset']} is asked for {', '.join(named)}; --only and --class-list "
            "take phrases as the dataset has them."
        )
    results = {"settings": settings, "versions": report.versions(), "photos": len(photos), "left_out": left_out}
    whole = {"seconds_a_question": sum(line["seconds"] for line in lines) / max(len(records), 1)}
    results |= figures(records) | {"timings": timings(records) | whole | {"last_start_seconds": seconds}}
    write_whole(journal.folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    tables = report.summary(results)
    every = filter(None, (report.overview(results), tables, report.by_class(results)))
    write_whole(journal.folder / "results.md", "\n\n".join(every) + "\n")
    print(f"\n{tables}\n\n{journal.folder / 'results.json'}")
    if options.save:
        save(options.save, dataset, photos, [line["answers"] for line in lines], journal, settings)
    if options.update_card:
        from t4s.models.checkpoint import find

        folder = find(options.checkpoint)
        print(hub.add_figures(folder, report.card_figures(results, settings["dataset"])))
        hub.add_names(folder, report.names_drawn(results))
    return results


def save(
    folder: Path,
    dataset: Dataset,
    photos: Sequence[int],
    records: Sequence[Sequence[dict[str, Any]]],
    journal: RunLog,
    settings: dict[str, Any],
) -> None:
    """predictions.jsonl, in the photos' order, and sheet.png."""
    from t4s.evaluation import report
    from t4s.evaluation.run_log import write_whole

    folder.mkdir(parents=True, exist_ok=True)
    saved = journal.extras(photos)
    lines = [json.dumps(line, ensure_ascii=False) for own in saved for line in own]
    write_whole(folder / "predictions.jsonl", "".join(f"{line}\n" for line in lines))
    title = f"{settings['checkpoint']}, {settings['dataset']}, {settings['refine']}"
    sheet = report.picture_sheet(dataset, photos, records, saved, title)
    if sheet is not None:
        sheet.save(folder / "sheet.png")
    print(folder / "predictions.jsonl")


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
