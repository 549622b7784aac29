"""A folder in the original LLaVA layout → a folder that transformers and t4s load.

Weights are streamed: memory stays near one shard. The result appears under its name only when it is whole; until then
everything lies in `NAME.part`, where a killed conversion goes on. Every tensor is accounted for.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files as package_files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t4s.errors import CheckpointError
from t4s.models.checkpoint import ADAPTER, CheckpointConfig
from t4s.models.original import layout
from t4s.models.original.adapter import Adapter
from t4s.models.original.shards import ShardWriter, shard_files, stored_shapes, stored_tensors

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlavaConfig

KNOWN: dict[str, Any] = json.loads(package_files(__package__).joinpath("known.json").read_text(encoding="utf-8"))
SHARD_SHARE, SMALLEST_SHARD, LARGEST_SHARD = 20, 50_000_000, 1_000_000_000  # a shard is 1/20 of the whole, in bytes
SOURCE_FILE = "source.json"  # in an unfinished folder: what it is made from
PATTERNS = ["*.json", "*.safetensors", "*.bin", "*.model"]
IMAGE_MEAN, IMAGE_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # CLIP's
CHAT = (
    "{{% for message in messages %}}{{% if message['role'] == 'user' %}}<s> {system} USER: "
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}<image> \n"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}} ASSISTANT:{{% else %}} "
    "{{{{ message['content'] }}}}</s>{{% endif %}}{{% endfor %}}"
)


def converted(source: str | Path | None, revision: str | None = None) -> Path | None:
    """The converted copy of a known Hub id or of a local folder in the original layout; None for anything else.

    Converted once, into `t4s/` beside the Hub cache, and reused from then on.
    """
    from huggingface_hub import constants

    if source is None:
        return None
    home = Path(constants.HF_HOME) / "t4s"
    if str(source) in KNOWN["checkpoints"] and not Path(source).is_dir():
        out = home / f"{str(source).replace('/', '--')}--{revision or 'main'}"
        return out if out.is_dir() else convert_id(str(source), out, revision)
    if Path(source).is_dir() and layout.is_original(Path(source)):
        raise CheckpointError(
            f"{source} is in the original LLaVA layout; convert it first: "
            f"`t4s import {source} -o DIR --grid ROWS COLUMNS`."
        )
    return None


def convert_id(source: str, out: Path, revision: str | None = None, progress: bool = True) -> Path:
    """Fetch a known Hub id and convert it into `out`; says the sizes and the licence first."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    known = KNOWN["checkpoints"][source]
    try:
        info = HfApi().model_info(source, revision=revision, files_metadata=True)
        size = sum(file.size or 0 for file in info.siblings)
        print(
            f"{source}: {size / 1e9:.1f} GB to fetch, then the same again for the converted copy in {out}.\n"
            f"Its licence is {known['licence']}, and it holds for everything made from these weights.",
            file=sys.stderr,
        )
        folder = Path(snapshot_download(source, revision=info.sha, allow_patterns=PATTERNS))
    except (HfHubHTTPError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source} could not be fetched from the Hub: {detail}") from error
    return convert(folder, out, tuple(known["grid"]), place=source, licence=known["licence"], progress=progress)


def convert(
    folder: Path,
    out: Path,
    grid: tuple[int, int],
    *,
    place: str | None = None,
    base: Path | None = None,
    tower: Path | None = None,
    licence: str | None = None,
    progress: bool = True,
) -> Path:
    """Convert `folder` into `out`, a folder that does not exist yet; `grid` (rows, columns) of the masks it writes.

    base   for a LoRA folder: the language model (Vicuna) it was trained on
    tower  the CLIP folder, where the weights do not hold the vision tower; None: from the Hub

    Raises CheckpointError; nothing is left under `out` then.
    """
    place = place or str(folder)
    if out.exists():
        raise CheckpointError(f"{out} exists already; name another folder, or remove that one first.")
    source = layout.read_config(folder)
    layout.check_config(source, place)
    weights, adapter = _weights(folder, base, place)
    names = {name: layout.target_name(name) for name in stored_shapes(weights)}
    extra = adapter.extra if adapter else {}
    if not any((target or "").startswith("model.vision_tower.") for target in names.values()):
        weights = [*weights, *shard_files(tower or _tower(source))]
    shapes = _target_shapes(weights, extra)
    config = layout.target_config(source, shapes)
    expected = layout.expected_shapes(config)
    rows = {name: expected.get(name, (0,))[0] for name in layout.EMBEDDINGS}
    layout.compare({name: _padded_shape(name, shape, rows) for name, shape in shapes.items()}, expected)
    if adapter:
        adapter.check(shapes)
    part = _unfinished(out, weights, place)
    try:
        _write(part, weights, adapter, extra, rows, sum(file.stat().st_size for file in weights), progress)
        _describe(part, folder, config, grid, place, licence)
    except OSError as error:
        raise CheckpointError(
            f"{part} cannot be written ({error.strerror or error}); make room and run the same command again, "
            "it goes on where it stopped."
        ) from error
    (part / SOURCE_FILE).unlink(missing_ok=True)
    os.replace(part, out)
    return out


def _weights(folder: Path, base: Path | None, place: str) -> tuple[list[Path], Adapter | None]:
    """The weight files, and the adapter to merge into them, if the folder is one."""
    if not (folder / ADAPTER).is_file():
        return shard_files(folder), None
    if base is None:
        named = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
        raise CheckpointError(
            f"{place} is a LoRA adapter; name the folder of its language model ({named}) with --base."
        )
    return shard_files(base), Adapter(folder)


def _tower(source: Mapping[str, Any]) -> Path:
    """The CLIP folder on the Hub, whatever machine's path the config names. CheckpointError if it is another tower."""
    named = str(source.get("mm_vision_tower", ""))
    if named.rstrip("/").rpartition("/")[2] != layout.TOWER_NAME:
        raise CheckpointError(
            f"The vision tower is {named!r}; only {KNOWN['tower']} can be fetched: name it with --tower."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(snapshot_download(KNOWN["tower"], allow_patterns=["config.json", *PATTERNS[1:3]]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        detail = " ".join(str(error).split())[:160]
        raise CheckpointError(
            f"The vision tower is not part of these weights and {KNOWN['tower']} could not be fetched ({detail}); "
            "name its folder with --tower."
        ) from error


def _target_shapes(weights: list[Path], extra: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """{converted name: stored shape} of everything that is kept; `extra` replaces or adds tensors."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in stored_shapes(weights).items():
        target = layout.target_name(name)
        if target is not None:
            found[target] = shape
    found.update({layout.target_name(name): tuple(tensor.shape) for name, tensor in extra.items()})
    return found


def _padded_shape(name: str, shape: tuple[int, ...], rows: Mapping[str, int]) -> tuple[int, ...]:
    return (max(rows[name], shape[0]), *shape[1:]) if name in rows else shape


def _unfinished(out: Path, weights: list[Path], place: str) -> Path:
    """The folder `OUT.part`, begun anew unless it was made from these very files. CheckpointError without room."""
    made_from = {"place": place, "files": {file.name: file.stat().st_size for file in weights}}
    part = out.with_name(out.name + ".part")
    note = part / SOURCE_FILE
    if part.exists() and (not note.is_file() or json.loads(note.read_text()) != made_from):
        shutil.rmtree(part)
    part.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(made_from))
    needed = sum(file.stat().st_size for file in weights)
    there = sum(file.stat().st_size for file in part.glob("*.safetensors"))
    free = shutil.disk_usage(part).free
    if free < needed - there:
        raise CheckpointError(f"{out.parent} has {free / 1e9:.1f} GB free; converting needs {needed / 1e9:.1f} GB.")
    return part


def _write(
    part: Path,
    weights: list[Path],
    adapter: Adapter | None,
    extra: Mapping[str, Tensor],
    rows: Mapping[str, int],
    total: int,
    progress: bool,
) -> None:
    """Every tensor, renamed, padded and merged, as shards in `part`."""
    from tqdm import tqdm

    writer = ShardWriter(part, min(max(total // SHARD_SHARE, SMALLEST_SHARD), LARGEST_SHARD))
    written = writer.written
    with tqdm(total=total, unit="B", unit_scale=True, desc="converting", disable=not progress) as bar:
        for name, tensor in _all_tensors(weights, extra):
            bar.update(tensor.numel() * tensor.element_size())
            target = layout.target_name(name)
            if target is None or target in written:
                continue
            if adapter:
                tensor = adapter.merged(name, tensor)
            writer.add(target, _padded(tensor, rows[target]) if target in rows else tensor)
        writer.finish()


def _all_tensors(weights: list[Path], extra: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    yield from stored_tensors(weights, set(extra))
    yield from extra.items()


def _padded(tensor: Tensor, rows: int) -> Tensor:
    """Embeddings (n, width) with the mean row up to `rows`: for `<image>`, `<pad>` and what rounds the number up."""
    import torch

    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(rows - len(tensor), -1)])


def _describe(
    part: Path, folder: Path, config: LlavaConfig, grid: tuple[int, int], place: str, licence: str | None
) -> None:
    """Everything but the weights: configuration, processor, t4s.json and a card with the licence."""
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(part)
    _processor(folder, config).save_pretrained(part)
    templates = {name: value for name, value in KNOWN["templates"].items() if name != "system"}
    size = config.vision_config.image_size
    CheckpointConfig(grid=grid, image_size=size, license=licence, **templates).write(part)
    terms = licence or "the one of the weights it was converted from"
    (part / "README.md").write_text(
        "---\nlicense: other\nlibrary_name: transformers\npipeline_tag: image-text-to-text\n---\n\n"
        f"# {place}, converted\n\n"
        f"The weights of {place}, in the layout of transformers, with what t4s needs. Licence: {terms}.\n",
        encoding="utf-8",
    )


def _processor(folder: Path, config: LlavaConfig) -> Any:
    """CLIP's preprocessing at the tower's size, and the folder's Llama tokenizer.

    The original code tokenises a whole conversation at once, photo apart. Here texts are tokenised in pieces, so the
    tokenizer must not put a space before each piece: the templates and the chat template hold those that belong there.
    """
    from tokenizers import decoders, normalizers, processors
    from transformers import LlamaTokenizerFast, LlavaProcessor, PreTrainedTokenizerFast
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    try:
        tokenizer = LlamaTokenizerFast.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        detail = " ".join(str(error).split())[:160]
        raise CheckpointError(f"The tokenizer of {folder} cannot be read ({detail}).") from error
    backend = tokenizer.backend_tokenizer
    backend.normalizer, backend.pre_tokenizer = normalizers.Replace(" ", "▁"), None
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B")  # <s> stands in the chat template
    # Not as a Llama tokenizer: that class would put the normalizer back when it is loaded.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # before <pad>, so that it is the first
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    side = config.vision_config.image_size
    images = CLIPImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=IMAGE_MEAN,
        image_std=IMAGE_STD,
    )
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT.format(system=KNOWN["templates"]["system"]),
    )
