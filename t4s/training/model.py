"""The model that training starts from: fresh or a base, in full or with frozen parts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from t4s import lexicon
from t4s.data.spec import Mixture
from t4s.errors import CheckpointError, DataError
from t4s.models import create
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.vlm import VLM
from t4s.training.config import WHOLE_TOWER, TrainConfig
from t4s.training.trainer import state_to_resume


def check_tokens(vlm: VLM) -> None:
    """CheckpointError if the tokenizer cannot end an answer."""
    if vlm.tokenizer.eos_token_id is None:
        raise CheckpointError(
            f"The tokenizer of {vlm.config.base_model or 'this model'} has no end-of-text token, so an answer would "
            "never end; name one as eos_token in its tokenizer_config.json."
        )


def initial_vlm(config: TrainConfig, mixture: Mixture, bf16: bool) -> VLM:
    """The model that training starts from: fresh, or --base. CheckpointError."""
    if not config.base:
        names = {name for dataset in mixture.datasets for name in getattr(dataset, "names", ())}
        return create.fresh(
            names,
            config.grid or (16, 16),
            config.width,
            config.layers,
            config.seed,
            config.tower,
            config.image_size,
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    half = bf16 and device != "cpu" and not config.trains_base_in_full
    return create.base(
        config.base,
        config.base_revision,
        config.grid,
        config.image_size,
        torch.bfloat16 if half else torch.float32,
        device,
        config.quantize,
        config.base_id,
    )


def with_taught_words(config: CheckpointConfig, mixture: Mixture, cells: Iterable[str] | None) -> CheckpointConfig:
    """The settings of a checkpoint that learns from these data sets too. cells: the names of --cell-loss-data, if any.

    A list of `names` grows by class names and by what the phrases of a data set are about; where its phrases are not
    known in advance, the list goes, and with it the answer "unknown word". Which words a phrase may have beside a name
    is not known either. Without the lesson of the cells, their similarity to a new name says nothing.
    """
    names = set(config.names)
    if names:
        taught = [_taught(dataset, config.names) for dataset in mixture.datasets]
        names = set() if None in taught else names.union(*taught)
    if cells is None:
        config = replace(config, unsure_similarity_below=None)
    return replace(config, names=tuple(sorted(names.union(cells or ()))), drop_untaught_words=False)


def _taught(dataset: Any, known: Sequence[str]) -> set[str] | None:
    """What a data set asks for, beyond the known names; None if it does not say."""
    if hasattr(dataset, "names"):
        return set(dataset.names)
    if not hasattr(dataset, "phrases"):
        return None
    heads = {" ".join(lexicon.head_words(phrase, known)) or phrase for phrase in dataset.phrases()}
    return {head for head in heads if not lexicon.is_taught(head, known)}


def prepare_full(vlm: VLM, config: TrainConfig) -> None:
    """Make all weights float32 and trainable, but for what --freeze-tower names. DataError.

    With --resume the weights come from the last state. Trainer alone would not load them: models whose saved names
    differ from their own, such as LLaVA's, resume with their initial weights and a warning.
    """
    if config.resume and not config.fsdp:
        vlm.model = AutoModelForImageTextToText.from_pretrained(state_to_resume(config.out / "state"))
    vlm.model.float().requires_grad_(True)
    if config.freeze_tower is not None:
        freeze_tower(vlm, config.freeze_tower)


def freeze_tower(vlm: VLM, stages: int | str) -> None:
    """Freeze the vision tower; of the embedded one, the body ("all") or its first `stages`. DataError."""
    tower = vlm.model.get_encoder("image")
    embedded = vlm.config.positions == "cells"
    if stages == WHOLE_TOWER and not embedded:
        tower.requires_grad_(False)
    elif stages == WHOLE_TOWER:
        tower.freeze()
    elif not embedded:
        raise DataError(
            f"--freeze-tower {stages} counts stages of the embedded model's tower, and this base has another one; "
            "leave out the number to freeze the whole tower."
        )
    elif not 1 <= stages <= len(tower.stages):
        raise DataError(
            f"--freeze-tower is {stages}; the body has stages 1 to {len(tower.stages)}. Leave out the number to freeze "
            "all of them."
        )
    else:
        tower.freeze(stages)
