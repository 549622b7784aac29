"""Publishes a checkpoint on the Hugging Face Hub: the repository, the model card, one commit.

    repo_id = create("me/t4s-cells")                  # before training: a missing login or right ends the run here
    write_card(folder, repo_id, datasets=["folder:PHOTOS"], settings={...}, figures=[Figure("cIoU", 0.71, ...)])
    push(folder, repo_id)                             # everything in one commit; if it fails, nothing is lost

    python -m t4s.hub FOLDER ID                       # push again after a failed upload

Knows files and not models: what the card says about a checkpoint comes from the folder's `t4s.json`.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, EvalResult, HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, LocalTokenNotFoundError
from huggingface_hub.errors import OfflineModeIsEnabled as Offline

from t4s.data.spec import NAMES, PATHLESS, DatasetSpec
from t4s.errors import CheckpointError
from t4s.models.checkpoint import ADAPTER, EMBEDDED, FORMAT_FILE, CheckpointConfig

CARD = "README.md"
UPLOADED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
    ".txt",
    ".md",
    ".png",
    ".jpg",
)  # of the files directly in the folder
NOT_UPLOADED = ("trainer_state.json", "results.json", "sample.png")  # of no use to others
REPLACED = (
    ".safetensors",
    ".json",
    ".jinja",
    ".model",
)  # deleted if an earlier push left them: otherwise both would load
PATH_FIELDS = ("base_model", "base_model_name_or_path", "_name_or_path", "name_or_path", "tokenizer_file")
# What huggingface_hub raises: HTTPError also for lost connections, RuntimeError around the failure of a file's upload.
HUB_ERRORS = (HTTPError, OSError, HFValidationError, RuntimeError)
FIGURES = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Figure:
    """One measured number: `metric` ("cIoU"), on what `data` (a dataset as it is written), over `count` samples."""

    metric: str
    value: float
    data: str
    count: int


# --- the repository


def create(repo_id: str, private: bool = False) -> str:
    """Create the model repository, or check that it exists and may be written to → its full id, "user/name".

    CheckpointError without login, right or network, or if the repository holds something other than a t4s checkpoint.
    Called before training starts, so that no training is wasted.
    """
    api = HfApi()
    try:
        full = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        api.auth_check(full, write=True)  # create_repo accepts a repository that others own
        files = api.list_repo_files(full)
    except HUB_ERRORS as error:
        raise CheckpointError(f"The repository {repo_id} cannot be used: {_why(error, api)}") from error
    if FORMAT_FILE not in files and any(name.endswith(".safetensors") for name in files):
        raise CheckpointError(
            f"The repository {full} holds weights but no {FORMAT_FILE}, so it is another model; push to another id."
        )
    return full


def push(folder: str | Path, repo_id: str, message: str = "Upload a Text4Seg checkpoint") -> str:
    """Upload the checkpoint in `folder` (its files, not its subfolders) in one commit → the commit's URL.

    Weights, JSON and templates of an earlier push that this folder lacks are deleted in the same commit.
    CheckpointError if the folder is not a complete checkpoint, if a file names a path of this machine, or if the upload
    fails: the folder stays unchanged, and the message contains the command that tries again.
    """
    folder, api = Path(folder), HfApi()
    files = checkpoint_files(folder)
    refuse_machine_paths(files)
    added: list[Any] = [CommitOperationAdd(file.name, file) for file in files]
    try:
        old = [name for name in api.list_repo_files(repo_id) if name.endswith(REPLACED)]
        stale = [CommitOperationDelete(name) for name in old if name not in {file.name for file in files}]
        commit = api.create_commit(repo_id, [*added, *stale], commit_message=message)
    except HUB_ERRORS as error:
        again = shlex.join(["python", "-m", "t4s.hub", str(folder.resolve()), repo_id])
        raise CheckpointError(
            f"The upload to {repo_id} failed: {_why(error, api)} Nothing is lost, the checkpoint is in {folder}; "
            f"to try again, run: {again}"
        ) from error
    return commit.commit_url


def checkpoint_files(folder: Path) -> list[Path]:
    """The files to upload. CheckpointError if the folder is not a complete checkpoint with a card."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; give the one that training wrote.")
    files = [file for file in sorted(folder.iterdir()) if file.is_file()]
    files = [file for file in files if file.suffix in UPLOADED and file.name not in NOT_UPLOADED]
    names = {file.name for file in files}
    for ending, what in ((FORMAT_FILE, "its format"), (CARD, "its model card"), (".safetensors", "weights")):
        if not any(name.endswith(ending) for name in names):
            raise CheckpointError(f"{folder} has no {ending} ({what}); give a folder that t4s/train.py has finished.")
    return files


def refuse_machine_paths(files: Iterable[Path]) -> None:
    """CheckpointError if a JSON file names its base by a path: it is useless elsewhere and reveals this machine."""
    for file in files:
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            for key in PATH_FIELDS if isinstance(content, dict) else ():
                value = content.get(key)
                if isinstance(value, str) and value != EMBEDDED and is_machine_path(value):
                    raise CheckpointError(
                        f"{file} names {key} by a path of this machine, {value!r}; push the model merged, or give "
                        "its base a Hub id with --base-id."
                    )


def is_machine_path(text: str) -> bool:
    """True for what can only be a path: absolute, starting with a dot or tilde, Windows, or an existing folder."""
    return bool(text) and (
        text.startswith(("/", ".", "~")) or "\\" in text or PureWindowsPath(text).is_absolute() or Path(text).is_dir()
    )


def _why(error: BaseException, api: HfApi) -> str:
    """A sentence: what the Hub or the connection refused, and what to do."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _why(error.__cause__, api)
    status, detail = None, " ".join(str(error).split())[:200]
    if isinstance(error, HfHubHTTPError):
        status, detail = error.response.status_code, error.server_message or error.response.reason_phrase
    if isinstance(error, LocalTokenNotFoundError) or status == 401:
        return f"there is no valid login at {api.endpoint}; run `hf auth login` with a token that may write."
    if status in (403, 404):
        return "this login may not write there, or it does not exist; use a token that may write, or another id."
    if isinstance(error, Offline):
        return "HF_HUB_OFFLINE is set; unset it to reach the Hub."
    if isinstance(error, HFValidationError):
        return f"its id must look like user/name ({detail})."
    if status is not None:
        return f"the Hub answered {status} ({detail}); try again later."
    return f"{api.endpoint} could not be reached or read ({detail}); check the network and the disk."


# --- the model card


def write_card(
    folder: str | Path,
    repo_id: str,
    datasets: Sequence[str] = (),
    settings: Mapping[str, object] | None = None,
    figures: Sequence[Figure] = (),
    picture: str | None = None,
    license: str | None = None,
    notes: str = "",
) -> Path:
    """Write `README.md`, replacing any other (PEFT writes one of its own) → its path.

    datasets: the specs it was trained on; settings: what a reader needs to repeat the training; picture: the name of a
    file in `folder`; license: a Hub licence id, or None to say that it follows from the base and the data. Paths are
    cut to their last part.
    """
    folder = Path(folder)
    config = CheckpointConfig.read(folder)
    if picture is not None and not (folder / picture).is_file():
        raise CheckpointError(f"The card's picture {picture!r} is not in {folder}; write it there first.")
    head = _metadata(folder, config, repo_id, datasets, figures, license).to_yaml()
    body = _text(folder, config, repo_id, datasets, settings or {}, figures, picture, license, notes)
    card = ModelCard(f"---\n{head}\n---\n\n{body}")
    path = folder / CARD
    path.write_text(str(card), encoding="utf-8")
    return path


def add_figures(folder: str | Path, figures: Sequence[Figure]) -> Path:
    """Add figures to the card, replacing older ones of the same metric and data → its path."""
    path = Path(folder) / CARD
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CARD} to put figures into; it is written when training ends.")
    card = ModelCard.load(path)
    before, found, rest = card.text.partition(FIGURES[0])
    _, found_too, after = rest.partition(FIGURES[1])
    if not (found and found_too):
        raise CheckpointError(f"{path} has no place for figures, the lines {FIGURES[0]} and {FIGURES[1]}; add them.")
    old = [
        Figure(r.metric_name, r.metric_value, r.dataset_name, r.metric_args["samples"])
        for r in card.data.eval_results or []
        if r.metric_args
    ]
    figures = [Figure(f.metric, f.value, public(f.data), f.count) for f in figures]
    merged = list({(f.metric, f.data): f for f in (*old, *figures)}.values())
    card.data.model_name = card.data.model_name or Path(folder).name
    card.data.eval_results = [_result(figure) for figure in merged]
    card.text = before + _table(merged) + after
    path.write_text(str(card), encoding="utf-8")
    return path


def add_names(folder: str | Path, names: Mapping[str, float]) -> None:
    """Add {class name: IoU in [0, 1]} to the folder's `t4s.json`: the app offers the classes that are drawn well."""
    config = CheckpointConfig.read(Path(folder))
    known = config.metrics.get("names", {})
    replace(config, metrics=config.metrics | {"names": known | names}).write(Path(folder))


def public(text: str) -> str:
    """A data set's spec, or any word, without this machine's folders: "folder:/home/x/CELLS@val" → "folder:CELLS@val".

    Words may follow the spec: "folder:/home/x/CELLS*3, 32 photos".
    """
    name = re.split("[:@*]", text)[0]
    if name not in NAMES or name in PATHLESS:
        return PureWindowsPath(text).name if is_machine_path(text) else text
    weighted = re.fullmatch(r"(.*\*[\d.]+)([, ].*)", text)  # the words must not be read as its weight
    written, words = weighted.groups() if weighted else (text, "")
    spec = DatasetSpec.parse(written)
    if name == "hub" and not is_machine_path(spec.path):
        return text
    folders = r"[^,=]+" if name == "scenes" else ".+"  # scenes take options: PHOTOS,-dog,scenes=60
    path = re.sub(folders, lambda folder: PureWindowsPath(folder[0]).name, spec.path)
    weight = f"*{spec.weight:g}" if spec.weight != 1 else ""
    return f"{name}:{path}" + (f"@{spec.split}" if spec.split else "") + weight + words


def _result(figure: Figure) -> EvalResult:
    """A figure in the card's metadata; `dataset_config` keeps those of different sources apart."""
    return EvalResult(
        task_type="image-segmentation",
        dataset_type="t4s",
        dataset_name=figure.data,
        dataset_config=figure.data,
        metric_type=figure.metric.lower().replace(" ", "_"),
        metric_name=figure.metric,
        metric_value=figure.value,
        metric_args={"samples": figure.count},
    )


def _table(figures: Sequence[Figure]) -> str:
    if not figures:
        return f"{FIGURES[0]}\nNot measured.\n{FIGURES[1]}"
    rows = [f"| {f.metric} | {f.value:.4g} | {public(f.data)} | {f.count} |" for f in figures]
    return "\n".join([FIGURES[0], "| figure | value | data | samples |", "|---|---|---|---|", *rows, FIGURES[1]])


def _metadata(
    folder: Path,
    config: CheckpointConfig,
    repo_id: str,
    datasets: Sequence[str],
    figures: Sequence[Figure],
    license: str | None,
) -> ModelCardData:
    base = config.base_model
    on_hub = bool(base) and base != EMBEDDED
    relation = "adapter" if (folder / ADAPTER).is_file() else "finetune"
    hub_data = [
        spec.path for spec in map(DatasetSpec.parse, datasets) if spec.name == "hub" and not is_machine_path(spec.path)
    ]
    return ModelCardData(
        license=license,
        library_name="t4s",
        pipeline_tag="image-segmentation",
        tags=["text4seg", "referring-segmentation"],
        base_model=base if on_hub else None,
        datasets=hub_data or None,
        model_name=repo_id.rpartition("/")[2],
        base_model_relation=relation if on_hub else None,
        eval_results=[_result(Figure(f.metric, f.value, public(f.data), f.count)) for f in figures] or None,
    )


def _text(
    folder: Path,
    config: CheckpointConfig,
    repo_id: str,
    datasets: Sequence[str],
    settings: Mapping[str, object],
    figures: Sequence[Figure],
    picture: str | None,
    license: str | None,
    notes: str,
) -> str:
    rows, columns = config.grid
    base = config.base_model
    kind = "A LoRA adapter" if (folder / ADAPTER).is_file() else "A full model"
    of = {None: "", EMBEDDED: " on the checkpoint that comes with t4s"}.get(base, f" on `{base}`")
    revision = f", revision `{config.base_revision}`" if config.base_revision else ""
    trained = [f"- {public(spec)}" for spec in datasets] or ["- not stated"]
    values = [f"| {key} | {public(str(value))} |" for key, value in settings.items()]
    table = ["", "| setting | value |", "|---|---|", *values] if values else []
    terms = f"`{license}`" if license else "Not stated: the base model's terms and those of the training data apply."
    return "\n".join(
        [
            f"# {repo_id.rpartition('/')[2]}",
            "",
            f"{kind}{of}{revision} that segments a photo by writing text: a {rows}×{columns} grid of labels, "
            "run-length encoded row by row (Text4Seg, arXiv 2410.09855), which a refiner turns into a pixel mask.",
            "",
            *([f"![What it predicts, beside the truth]({picture})", ""] if picture else []),
            *([notes, ""] if notes else []),
            "## Use",
            "",
            "With t4s installed:",
            "",
            "```python",
            "from t4s import Segmenter",
            "",
            f'segment = Segmenter.from_pretrained("{repo_id}")',
            'prediction = segment("photo.jpg", "the dog on the left")',
            "print(prediction.present, prediction.score, prediction.box)",
            "prediction.mask  # (height, width) bool",
            "```",
            "",
            f"As a demo in a browser: `T4S_CHECKPOINT={repo_id} python app.py`",
            "",
            "## Figures",
            "",
            _table(figures),
            "",
            "## Training",
            "",
            "Data:",
            "",
            *trained,
            *table,
            "",
            "## Licence",
            "",
            terms,
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m t4s.hub FOLDER ID [--private]`: create the repository if needed, push, print the commit's URL."""
    parser = argparse.ArgumentParser(prog="python -m t4s.hub", description="Push a finished checkpoint to the Hub.")
    parser.add_argument("folder", type=Path, help="the folder that training wrote")
    parser.add_argument("id", help="the repository on the Hub, such as user/name")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    options = parser.parse_args(argv)
    try:
        checkpoint_files(options.folder)
        print(push(options.folder, create(options.id, options.private)))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
