"""The model card: written once with what a reader needs to repeat the training; figures are added to it later.

What it says about a checkpoint comes from the folder's `t4s.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from t4s.data.spec import DatasetSpec
from t4s.errors import CheckpointError
from t4s.hub.paths import is_machine_path, public
from t4s.models.checkpoint import ADAPTER, EMBEDDED, CheckpointConfig

CARD = "README.md"
FIGURES = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True)
class Figure:
    """One measured number: `metric` ("cIoU"), on what `data` (a dataset as it is written), over `count` samples."""

    metric: str
    value: float
    data: str
    count: int


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
    file in `folder`; license: a Hub licence id; None: the one in t4s.json, if any, else the card says that it
    follows from the base and the data. Paths are
    cut to their last part.
    """
    folder = Path(folder)
    config = CheckpointConfig.read(folder)
    if picture is not None and not (folder / picture).is_file():
        raise CheckpointError(f"The card's picture {picture!r} is not in {folder}; write it there first.")
    license = license or config.license
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
        license="other" if license and license == config.license else license,
        license_name=config.license if license == config.license else None,
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
