"""Find, check and load a SAM: everything is measured before it is downloaded or built.

A folder is read as it is. A Hub id is taken from the cache without a request if it is complete there; otherwise one
request with a short time limit asks for the repository's files, and only `config.json` and safetensors weights of an
acceptable size are fetched. The configuration is checked (numbers, layers, attention, parameters counted on the meta
device) before memory is allocated: a repository may say anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import SafetensorError

from t4s.errors import CheckpointError
from t4s.limits import MAX_SAM_NUMBER, MAX_SAM_PARAMETERS, MAX_SAM_SIDE, MAX_SAM_TOKENS, MAX_SAMS

DEFAULT_SAM = "facebook/sam-vit-base"  # 94 M parameters, 375 MB: the smallest SAM that its authors published
HUB_SECONDS = 5.0  # for the Hub to answer
CLASSES = {"sam": "SamModel", "sam_hq": "SamHQModel", "sam2": "Sam2Model", "sam2_video": "Sam2Model"}
FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
MAX_CONFIG_BYTES = 1_000_000
MAX_LAYERS = 80  # SAM 2's largest has 48 in its backbone, and five in its decoder
REFUSED_KEYS = ("auto_map", "quantization_config")  # remote code, and weights in other forms
# What transformers and torch raise for a configuration or weights that do not go together.
INVALID = (
    StrictDataclassError, OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError,
    ZeroDivisionError,
)  # fmt: skip
SIDES = ("image_size", "image_embedding_size", "backbone_feature_sizes")
HELP = f"give a folder or a Hub id of a SAM, SAM-HQ or SAM 2 model, such as {DEFAULT_SAM!r}"


@lru_cache(maxsize=MAX_SAMS)
def load(source: str) -> tuple[Any, str]:
    """(model in evaluation mode, its type) from a Hub id or folder; on the GPU if there is one. CheckpointError."""
    import transformers

    folder = find(source)
    content = read_config(folder, source)
    kind = content["model_type"]
    if not is_complete(folder):
        raise CheckpointError(
            f"The SAM {source!r} has no complete safetensors weights, and no others are read; {HELP}."
        )
    model_class = getattr(transformers, CLASSES[kind])
    config = check_size(model_class, content, source)
    try:
        model, info = model_class.from_pretrained(
            folder, config=config, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (SafetensorError, *INVALID) as error:
        raise CheckpointError(f"The SAM {source!r} cannot be loaded: {_first_line(error)}") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"The SAM {source!r} lacks {len(missing)} tensors, such as {missing[0]}; download or save it again."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.float().eval().requires_grad_(False).to(device), kind


def find(source: str) -> Path:
    """The folder of a SAM: a local one, the Hub's cache, or a download. Raises CheckpointError at once if offline."""
    if Path(source).is_dir():
        return Path(source)
    try:
        cached = Path(snapshot_download(source, allow_patterns=list(FILES), local_files_only=True))
        if is_complete(cached):
            return cached
    except HFValidationError as error:
        raise CheckpointError(f"The SAM {source!r} cannot be found: {HELP}.") from error
    except LocalEntryNotFoundError:
        pass  # not in the cache
    if constants.HF_HUB_OFFLINE:
        raise CheckpointError(f"The SAM {source!r} is not in the cache, and the Hub is switched off (HF_HUB_OFFLINE).")
    return _download(source)


def is_complete(folder: Path) -> bool:
    """True if a folder holds a configuration and all of its weights."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return False
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(shards) and all(Path(shard).name == shard and (folder / shard).is_file() for shard in shards)


def _download(source: str) -> Path:
    try:
        info = HfApi().model_info(source, timeout=HUB_SECONDS, files_metadata=True)
        weights = [file for file in info.siblings or () if file.rfilename.endswith(".safetensors")]
        if not weights:
            raise CheckpointError(f"The Hub's {source} has no safetensors weights, and no others are read; {HELP}.")
        most = 4 * MAX_SAM_PARAMETERS
        size = sum(file.size or 0 for file in weights if Path(file.rfilename).match("model*.safetensors"))
        if size > most:
            raise CheckpointError(
                f"The weights of {source} take {size / 1e9:.1f} GB; a SAM may have at most {most / 1e9:.1f} GB."
            )
        config = hf_hub_download(source, "config.json", etag_timeout=HUB_SECONDS)
        read_config(Path(config).parent, source)
        return Path(snapshot_download(source, allow_patterns=list(FILES), etag_timeout=HUB_SECONDS))
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError, with another remedy
        raise CheckpointError(
            f"{source} is gated: accept its licence at https://huggingface.co/{source} with your account, "
            "then log in here with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(f"The SAM {source!r} cannot be found: {HELP}.") from error
    except (HTTPError, OSError) as error:
        raise CheckpointError(
            f"The SAM {source!r} is not in the cache, and the Hub does not answer ({_first_line(error)}); name a "
            "folder, or try again later."
        ) from error


def read_config(folder: Path, source: str) -> dict[str, Any]:
    """A SAM's config.json, its type and numbers checked. CheckpointError."""
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{source!r} holds no config.json; {HELP}.")
    try:
        text = file.read_bytes()[: MAX_CONFIG_BYTES + 1]
        content = json.loads(text)
        entries = list(_entries(content)) if isinstance(content, dict) else []
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"The config.json of {source!r} cannot be read: {_first_line(error)}") from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in CLASSES:
        raise CheckpointError(
            f"{source!r} is a model of type {kind or 'unknown'!r} and not a SAM; give a folder or a "
            f"Hub id whose type is one of {', '.join(CLASSES)}."
        )
    for name, value in entries:
        if name in REFUSED_KEYS:
            raise CheckpointError(f"The config.json of {source!r} has {name}, which is not supported; {HELP}.")
        most = MAX_SAM_SIDE if name in SIDES else MAX_SAM_NUMBER
        if isinstance(value, int | float) and not abs(value) <= most:
            raise CheckpointError(f"The config.json of {source!r} has {name} {value:g}; at most {most:,} is allowed.")
    return content


def _entries(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in nested dicts and lists; a list's entries have its name."""
    pairs = content.items() if isinstance(content, dict) else ((name, value) for value in content)
    for key, value in pairs:
        yield str(key), value
        if isinstance(value, dict | list):
            yield from _entries(value, str(key))


def check_size(model_class: Any, content: dict[str, Any], source: str) -> Any:
    """The model's configuration, if a model of it is of acceptable size. Allocates no memory. CheckpointError."""
    try:
        config = model_class.config_class.from_dict(content)
        tokens = attended_tokens(config)
        parameters = 0
        if tokens <= MAX_SAM_TOKENS:
            _check_layers(config)
            with torch.device("meta"):
                parameters = sum(parameter.numel() for parameter in model_class(config).parameters())
    except INVALID as error:
        raise CheckpointError(f"The config.json of {source!r} is not valid: {_first_line(error)}") from error
    if tokens > MAX_SAM_TOKENS:
        raise CheckpointError(
            f"{source!r} attends to {tokens:,} tokens at once; a SAM may attend to at most {MAX_SAM_TOKENS:,}."
        )
    if parameters > MAX_SAM_PARAMETERS:
        raise CheckpointError(
            f"{source!r} has {parameters / 1e6:,.0f} million parameters; a SAM may have at most "
            f"{MAX_SAM_PARAMETERS / 1e6:,.0f} million."
        )
    return config


def _check_layers(config: Any) -> None:
    vision = config.vision_config
    backbone = getattr(vision, "backbone_config", None)
    layers = sum(backbone.blocks_per_stage) if backbone is not None else vision.num_hidden_layers
    layers += config.mask_decoder_config.num_hidden_layers + config.mask_decoder_config.iou_head_depth
    if layers > MAX_LAYERS:
        raise ValueError(f"it has {layers} layers; at most {MAX_LAYERS} are allowed")


def attended_tokens(config: Any) -> int:
    """The most image tokens that attend to each other in any layer of the vision encoder."""
    vision = config.vision_config
    backbone = getattr(vision, "backbone_config", None)
    if backbone is None:  # SAM and SAM-HQ: one size throughout
        side = math.ceil(vision.image_size / vision.patch_size)
        everywhere = vision.window_size == 0 or vision.global_attn_indexes
        return max(side**2 if everywhere else 0, vision.window_size**2)
    height, width = (math.ceil(n / s) for n, s in zip(backbone.image_size, backbone.patch_stride, strict=True))
    most = 0
    first = 0
    for stage, blocks in enumerate(backbone.blocks_per_stage):
        tokens = math.ceil(height / 2**stage) * math.ceil(width / 2**stage)
        everywhere = any(first <= block < first + blocks for block in backbone.global_attention_blocks)
        window = backbone.window_size_per_stage[stage]
        most = max(most, tokens if everywhere or window == 0 else window**2)
        first += blocks
    return most


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
