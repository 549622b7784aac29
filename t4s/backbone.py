"""Find and load a checkpoint, build what goes into the model, and keep one answer's place in its cache.

The one place that knows processors, chat templates, position ids and model families; training uses it too.

A prompt is cut in two: the *prefix* (everything up to and including the photo) and the *suffix* (the question and
the generation prompt). The prefix's key-value cache is computed once per photo and copied for every phrase, so
two photos or two phrases never share state. The answer is tokenised in three parts (before, inside and after the
body), here and nowhere else.

Position ids are "sequence" (0, 1, 2, …, or what the family computes for its images) or "cells" (DESIGN of the
embedded model: every answer token has a constant distance from the image token of the next cell to be written).
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, DynamicCache

from t4s import prompts, tower  # noqa: F401 (tower registers itself with the Auto classes)
from t4s.assets import asset
from t4s.errors import CheckpointError
from t4s.limits import MAX_SIDE

FORMAT_VERSION = 1
FORMAT_FILE = "t4s.json"
EMBEDDED = "t4s-tiny"
POSITIONS = ("sequence", "cells")
DTYPES = ("float32", "bfloat16", "float16", "float64")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FILES = "files:"  # a base_revision that is not the Hub's: what the base's files are
ADAPTER = "adapter_config.json"
KEPT_WHOLE = ("lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "aligner")
DOWNLOAD = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md"]


@dataclass(frozen=True)
class Format:
    """`t4s.json`: how a checkpoint was taught to answer. Read from the checkpoint, never guessed."""

    grid: tuple[int, int] = (16, 16)
    layout: str = "rows"
    image_size: int = 336
    question: str = prompts.QUESTIONS[0]
    class_question: str = prompts.CLASS_QUESTIONS[0]
    answer: str = prompts.ANSWERS[0]
    positions: str = "sequence"
    base_model: str | None = None
    base_revision: str | None = None
    refiner: str = "edge"
    metrics: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        rows, columns = self.grid
        problems = [
            (
                self.format_version != FORMAT_VERSION,
                f"format_version {self.format_version}, this t4s reads {FORMAT_VERSION}",
            ),
            (
                not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE),
                f"grid {self.grid}, allowed are 1 to {MAX_SIDE}",
            ),
            (self.positions not in POSITIONS, f"positions {self.positions!r}, allowed are {POSITIONS}"),
            ("{query}" not in self.question or "{query}" not in self.class_question, "a question without {query}"),
            (not self.answer.partition("{body}")[0].endswith("<seg>"), "an answer without <seg>{body}</seg>"),
        ]
        for wrong, what in problems:
            if wrong:
                raise CheckpointError(f"{FORMAT_FILE} has {what}.")

    @classmethod
    def read(cls, folder: Path) -> Format:
        """Raises CheckpointError if the file is missing or is not ours."""
        file = folder / FORMAT_FILE
        if not file.is_file():
            raise CheckpointError(
                f"{folder} has no {FORMAT_FILE}, so it was not trained to write masks: "
                "give a checkpoint made by t4s/train.py, or train this model with --base."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            unknown = set(content) - {f.name for f in fields(cls)}
            if unknown:
                raise CheckpointError(f"{file} has fields that this t4s does not know: {', '.join(sorted(unknown))}.")
            rows, columns = content["grid"]
            return cls(**{**content, "grid": (int(rows), int(columns))})
        except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); it is written by t4s/train.py.") from error

    def write(self, folder: Path) -> None:
        (folder / FORMAT_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def cells_written(pieces: Iterable[str], cells: int) -> list[int]:
    """For each piece of an answer, the cells that the text up to and including it has written, at most `cells`.

    A count is the number behind a `*`; digits read so far count as it, so a number may span pieces.
    """
    written, closed, count, counting = [], 0, 0, False
    for piece in pieces:
        for character in piece:
            if character == "*":
                closed, count, counting = closed + count, 0, True
            elif counting and character.isascii() and character.isdigit():
                count = min(count * 10 + int(character), cells)
            elif counting and not (character == " " and count == 0):
                closed, count, counting = closed + count, 0, False
        written.append(min(closed + count, cells))
    return written


@dataclass(frozen=True, eq=False)
class Encoded:
    """A photo that the model has seen: its pixels (h, w, 3) uint8 and the prefix's key-value cache."""

    photo: np.ndarray
    ids: tuple[int, ...]
    cache: DynamicCache
    next_position: int
    features: dict[str, Any] = field(default_factory=dict)  # for a prompt that attends both ways, in place of the cache

    @property
    def nbytes(self) -> int:
        """What keeping it costs, in bytes."""
        return self.photo.nbytes + sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)


class Backbone:
    """Processor, model and format of one checkpoint."""

    def __init__(self, model, processor, format: Format):
        self.model, self.processor, self.format = model, processor, format
        self.tokenizer = processor.tokenizer
        self.image_token = model.config.image_token_id
        self.both_ways = model.config.model_type == "paligemma"  # photo and question see each other: no prefix to keep
        tiles = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")
        self.one_tile = {name: False for name in tiles if hasattr(processor.image_processor, name)}
        self._pieces: dict[int, str] = {}
        self._suffixes: dict[str, list[int]] = {}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def cells(self) -> int:
        return self.format.grid[0] * self.format.grid[1]

    # What goes in

    def question(self, query: str | tuple[str, ...]) -> str:
        template = self.format.question if isinstance(query, str) else self.format.class_question
        return prompts.question(template, query)

    def chat(self, question: str) -> str:
        """The prompt as text: one photo, the question, and the turn handed to the model."""
        if self.both_ways:  # no chat template: its processor adds what stands between photo and answer
            return f"{self.processor.image_token}{self.tokenizer.bos_token}{question}\n"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def suffix(self, question: str) -> list[int]:
        """The tokens behind the photo: the question and the generation prompt."""
        ids = self.tokenizer(self.chat(question), add_special_tokens=False)["input_ids"]
        return ids[len(ids) - ids[::-1].index(self.image_token) :]

    def look(self, image: Image.Image) -> tuple[dict[str, torch.Tensor], list[int]]:
        """A photo → (the processor's tensors, the prefix's tokens). The photo is squashed to the model's square."""
        size = self.format.image_size
        square = image.resize((size, size), Image.Resampling.BICUBIC)
        question = self.question("others")
        text = self.processor.image_token + question if self.both_ways else self.chat(question)
        inputs = dict(self.processor(images=[square], text=[text], return_tensors="pt", **self.one_tile))
        ids = inputs.pop("input_ids")[0].tolist()
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids", "labels"):
            inputs.pop(name, None)
        suffix = self.suffix(question)
        if ids[-len(suffix) :] != suffix:
            raise CheckpointError("This model's chat template puts text that depends on the photo behind it.")
        return inputs, ids[: -len(suffix)]

    def answer_ids(self, body: str = "", template: str | None = None) -> tuple[list[int], list[int], list[int]]:
        """The answer's tokens before, inside and after the body, each tokenised on its own; the end token closes it."""
        before, after = prompts.split_answer(template or self.format.answer)
        return self.text_ids(before), self.text_ids(body), [*self.text_ids(after), self.tokenizer.eos_token_id]

    # Positions

    def piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.tokenizer.decode([token])
        return self._pieces[token]

    def prefix_positions(self, ids: Sequence[int]) -> list[int]:
        """ "cells": image token k has position k, anything else of the prefix lies out of the way."""
        if self.format.positions == "sequence":
            return list(range(len(ids)))
        image, other, positions = 0, 4 * self.cells, []
        for token in ids:
            positions.append(image if token == self.image_token else other)
            image, other = image + (token == self.image_token), other + (token != self.image_token)
        return positions

    def suffix_positions(self, length: int, start: int) -> list[int]:
        """`start`: the position after the prefix, in "sequence" order."""
        first = start if self.format.positions == "sequence" else 5 * self.cells
        return list(range(first, first + length))

    def answer_positions(self, ids: Sequence[int], start: int) -> list[int]:
        """`ids`: the whole answer so far. "cells": a constant plus the cells written."""
        if self.format.positions == "sequence":
            return list(range(start, start + len(ids)))
        return [self.cells + n for n in cells_written(map(self.piece, ids), self.cells)]

    # Running

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> Encoded:
        """Runs the prefix through the model once."""
        inputs, ids = self.look(image)
        cache = DynamicCache()
        inputs = {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        if self.both_ways:
            seen = self.model.get_image_features(inputs["pixel_values"])
            return Encoded(np.asarray(image), tuple(ids), cache, 1, {"mm_encoder_outputs": {"image": seen}})
        positions, after = self.rotary(ids, inputs)
        positions = positions[..., None, :].to(self.device)
        self.model(
            input_ids=torch.tensor([ids], device=self.device), position_ids=positions, cache=cache,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self.device), use_cache=True,
            logits_to_keep=1, **inputs,
        )  # fmt: skip
        return Encoded(np.asarray(image), tuple(ids), cache, after)

    def rotary(self, ids: Sequence[int], inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """The prefix's position ids (n,), or (3, n) where a family has time, row and column; and the next one."""
        if self.both_ways:  # counted from 1
            return torch.arange(1, len(ids) + 1), len(ids) + 1
        of_family = getattr(self.model.model, "get_rope_index", None)
        if of_family is None:
            return torch.tensor(self.prefix_positions(ids)), len(ids)
        tokens = torch.tensor([ids])
        kinds = (tokens == self.image_token).int()
        positions, _ = of_family(tokens, mm_token_type_ids=kinds, image_grid_thw=inputs["image_grid_thw"].cpu())
        return positions[:, 0], int(positions.max()) + 1

    def begin(self, encoded: Encoded, query: str | tuple[str, ...]) -> Writing:
        """The question and the answer's opening go in with one pass; the body comes next."""
        return Writing(self, encoded, self.suffix(self.question(query)), self.answer_ids()[0])


class Writing:
    """One answer under way: a `Continuation` for the loops of `decoding.py`. `fed` are the body's tokens."""

    def __init__(self, backbone: Backbone, encoded: Encoded, suffix: list[int], opening: list[int]):
        self.backbone, self.opening = backbone, opening
        self.cache = copy.deepcopy(encoded.cache)
        prefix = [*encoded.ids] if encoded.features else []  # what is not in the cache yet
        prompt, self.length = [*prefix, *suffix], len(encoded.ids) + len(suffix) + len(opening)
        self.start = encoded.next_position + len(prompt)
        self.fed: list[int] = []
        self.forwards = 0
        positions = [*backbone.suffix_positions(len(prompt), encoded.next_position),
                     *backbone.answer_positions(opening, self.start)]  # fmt: skip
        more = dict(encoded.features)
        if more:  # the prompt attends both ways (0), the answer's opening only backwards (1)
            more["token_type_ids"] = torch.tensor([[0] * len(prompt) + [1] * len(opening)], device=backbone.device)
        self.last = self._pass([*prompt, *opening], positions, len(encoded.ids) - len(prefix), keep=1, **more)[-1]

    @torch.inference_mode()
    def _pass(self, ids: Sequence[int], positions: Sequence[int], past: int, keep: int, **more: Any) -> torch.Tensor:
        device = self.backbone.device
        output = self.backbone.model(
            input_ids=torch.tensor([list(ids)], device=device),
            position_ids=torch.tensor([list(positions)], device=device),
            attention_mask=torch.ones(1, past + len(ids), dtype=torch.long, device=device),
            cache=self.cache, use_cache=True, logits_to_keep=keep, **more,
        )  # fmt: skip
        return output.logits[0].float()

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """One pass; (len(ids), V) float32 logits, row i follows ids[i]."""
        positions = self.backbone.answer_positions([*self.opening, *self.fed, *ids], self.start)[-len(ids) :]
        logits = self._pass(ids, positions, self.length + len(self.fed), keep=0)
        self.fed += ids
        self.forwards += 1
        self.last = logits[-1]
        return logits

    def crop(self, n: int) -> None:
        """Keeps the first n body tokens."""
        if n < len(self.fed):
            self.cache.crop(n - len(self.fed))  # a negative number: how many to remove
            del self.fed[n:]


def find(source: str | Path | None, revision: str | None = None) -> Path:
    """A checkpoint's folder: the embedded one (None), a local folder, or a Hub repository's snapshot."""
    if source is None:
        return asset(EMBEDDED)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=DOWNLOAD))
    except HFValidationError as error:
        raise CheckpointError(f"{source} is neither a folder nor a Hub id such as user/model.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source} is not on the Hub, or it is private: check the id, or run `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{source} has no revision {revision!r}; name a branch, tag or commit.") from error
    except (LocalEntryNotFoundError, HTTPError, OSError) as error:  # HTTPError: lost connections too
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source} could not be fetched from the Hub: {detail}") from error


def load(source: str | Path | None = None, revision: str | None = None, device: str | None = None,
         dtype: str | torch.dtype | None = None, quantize: str | None = None) -> Backbone:  # fmt: skip
    """A checkpoint by folder or Hub id, ready to run. Raises CheckpointError with what to do."""
    folder = find(source, revision)
    form = Format.read(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise CheckpointError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}.")
        dtype = getattr(torch, dtype)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32)
    model = load_model(folder, form, dtype, device, quantize)
    return Backbone(model.eval().requires_grad_(False), load_processor(folder), form)


def load_processor(folder: Path):
    """The processor of a folder, with PIL for its photos, so that they look the same with or without torchvision.

    Raises CheckpointError if it needs a package that is not there: processors that take video too need torchvision.
    """
    try:
        return AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except ImportError:  # there is no PIL version of what handles video
        pass
    try:
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except ImportError as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The processor of {folder} needs packages that are not installed, those of the extra "
                              "t4s[families]: run `pip install torchvision num2words`, with a torchvision made for "
                              f"your torch. It says: {detail}") from error  # fmt: skip
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    return processor


def load_model(folder: Path, form: Format, dtype: torch.dtype, device: str, quantize: str | None = None):
    """The model of a folder: a full one, or a LoRA adapter on the base that t4s.json names."""
    check_weights(folder)
    extra = {} if quantize is None else _quantized(quantize, dtype, device)
    if (folder / ADAPTER).is_file():
        base = base_of(folder, form)
        own = Format.read(base) if (base / ADAPTER).is_file() else form  # an adapter may be trained on another one
        return _adapted(load_model(base, own, dtype, device, quantize), folder)
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, **extra
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} cannot be loaded as an image-text-to-text model: {detail}") from error
    return model if quantize else model.to(device)


def _quantized(quantize: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What makes `from_pretrained` keep the language model in fewer bits; the rest stays whole. CheckpointError."""
    if quantize not in ("4bit", "8bit"):
        raise CheckpointError(f"quantize is '4bit' or '8bit', not {quantize!r}.")
    if not device.startswith("cuda"):
        raise CheckpointError(f"quantize={quantize!r} needs a CUDA device; this one is {device}: leave it out.")
    if find_spec("bitsandbytes") is None:
        raise CheckpointError(f"quantize={quantize!r} needs a package: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=quantize == "4bit", load_in_8bit=quantize == "8bit", bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype, llm_int8_skip_modules=list(KEPT_WHOLE),
    )  # fmt: skip
    return {"quantization_config": config, "device_map": {"": device}}


def base_of(folder: Path, form: Format) -> Path:
    """Where an adapter's base is. CheckpointError if it is named nowhere, missing, or not the one trained on."""
    if not form.base_model:
        raise CheckpointError(f"{folder} is an adapter, but its {FORMAT_FILE} names no base_model.")
    embedded, revision = form.base_model == EMBEDDED, form.base_revision
    by_files = revision is not None and revision.startswith(FILES)
    try:
        base = find(None if embedded else form.base_model, None if by_files else revision)
    except CheckpointError as error:
        raise CheckpointError(f"The adapter {folder} needs its base model, {form.base_model}: {error}") from error
    if by_files and fingerprint(base) != revision:
        raise CheckpointError(f"The adapter {folder} was trained on another {form.base_model} than the one that is "
                              "here; give it that one back, or train it again.")  # fmt: skip
    check_weights(base)
    return base


def fingerprint(folder: Path) -> str:
    """ "files:…", which changes when a folder's weights do: sizes and last mebibytes of its safetensors."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            opened.seek(max(0, size - 2**20))
            digest.update(f"{file.name} {size} ".encode() + opened.read())
    return FILES + digest.hexdigest()[:16]


def check_weights(folder: Path) -> None:
    """Refuses pickled weights and folders without weights."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for file in folder.iterdir() if file.suffix in PICKLED]
    if pickled:
        raise CheckpointError(f"{folder} holds pickled weights ({', '.join(sorted(pickled))}), which can run code when "
                              "they are read: save them as safetensors.")  # fmt: skip
    raise CheckpointError(f"{folder} holds no .safetensors weights.")


def _adapted(model, folder: Path):
    """A LoRA adapter merged into its base. Missing or unexpected keys are errors."""
    from peft import PeftModel
    from safetensors import safe_open

    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False, use_safetensors=True)
    except (RuntimeError, ValueError) as error:  # other shapes, other layers
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{folder} does not fit its base model: {detail}") from error
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        stored = set(file.keys())
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))  # "auto" asks the Hub
    if stored != expected:
        missing, foreign = sorted(expected - stored)[:3], sorted(stored - expected)[:3]
        raise CheckpointError(f"{folder} does not fit its base model: missing {missing}, unexpected {foreign}.")
    return adapted.merge_and_unload()
