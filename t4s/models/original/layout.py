"""The original LLaVA layout: what its config says, and what each tensor is called after conversion.

Only LLaVA-1.5 on Llama or Vicuna is read: CLIP features of the second last layer, a two-layer projector, no start or
end tokens around the photo. Anything else is a CheckpointError that says what was found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t4s.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import LlavaConfig

TOWER_NAME = "clip-vit-large-patch14-336"
VOCABULARY_MULTIPLE = 64  # the vocabulary is padded to a multiple of this
HEAD_SIZE = 64  # channels of an attention head in every published CLIP
# Buffers that are computed, and the text half of a CLIP repository.
DROPPED = re.compile(r"(?:inv_freq|position_ids)$|^text_model\.|^(?:visual|text)_projection\.|^logit_scale$")
RENAMED = (
    (re.compile(r"^model\.mm_projector\.0\."), "model.multi_modal_projector.linear_1."),
    (re.compile(r"^model\.mm_projector\.2\."), "model.multi_modal_projector.linear_2."),
    (re.compile(r"^model\.vision_tower\.vision_tower\.vision_model\."), "model.vision_tower."),
    (re.compile(r"^vision_model\."), "model.vision_tower."),
    (re.compile(r"^model\.(layers|embed_tokens|norm)\."), r"model.language_model.\1."),
    (re.compile(r"^lm_head\."), "lm_head."),
)
EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder. CheckpointError if it is missing or not JSON."""
    file = folder / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); give the folder of a whole checkpoint.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds {type(content).__name__}; a model's config is a JSON object.")
    return content


def is_original(folder: Path) -> bool:
    """True for a folder in the original LLaVA layout, which transformers cannot load."""
    file = folder / "config.json"
    if not file.is_file() or (folder / "t4s.json").is_file():
        return False
    config = read_config(folder)
    return str(config.get("model_type", "")).startswith("llava_") and "mm_projector_type" in config


def check_config(config: Mapping[str, Any], place: str) -> None:
    """CheckpointError if this is another architecture than LLaVA-1.5 on Llama."""
    kind = config.get("model_type")
    if kind != "llava_llama":
        raise CheckpointError(f"{place} is a {kind!r} model; only 'llava_llama' (LLaVA-1.5) can be converted.")
    merge = str(config.get("mm_patch_merge_type", "flat"))
    if merge != "flat":
        raise CheckpointError(
            f"{place} is LLaVA-NeXT (mm_patch_merge_type {merge!r}); only LLaVA-1.5 can be converted."
        )
    wanted = {
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
    }
    for name, value in wanted.items():
        given = config.get(name, value)
        if given != value:
            raise CheckpointError(f"{place} has {name} {given!r}; only {value!r} can be converted.")


def target_name(name: str) -> str | None:
    """The converted name of a tensor; None for what is computed anew. CheckpointError for a name that is not known."""
    if DROPPED.search(name):
        return None
    for pattern, replacement in RENAMED:
        if pattern.search(name):
            return pattern.sub(replacement, name)
    hint = " (it belongs to LLaVA-NeXT)" if name == "model.image_newline" else ""
    raise CheckpointError(f"The tensor {name} is not part of LLaVA-1.5{hint}, so this checkpoint cannot be converted.")


def padded_rows(vocabulary: int) -> int:
    """Rows of the embeddings after `<image>` and `<pad>` were added."""
    return -(-(vocabulary + 2) // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE


def tower_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """The CLIP configuration that these converted tensors belong to, from their shapes."""
    start = "model.vision_tower."
    try:
        hidden, _, patch, _ = shapes[start + "embeddings.patch_embedding.weight"]
        positions = shapes[start + "embeddings.position_embedding.weight"][0]
        inner = shapes[start + "encoder.layers.0.mlp.fc1.weight"][0]
    except KeyError as error:
        raise CheckpointError(f"The vision tower lacks the tensor {error.args[0]}.") from error
    layers = {int(name.split(".")[4]) for name in shapes if name.startswith(start + "encoder.layers.")}
    return {
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden // HEAD_SIZE),
        "patch_size": patch,
        "image_size": patch * round((positions - 1) ** 0.5),
    }


def target_config(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> LlavaConfig:
    """The transformers configuration; `shapes` are those of the converted tensors, before padding."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vocabulary = shapes.get(EMBEDDINGS[0], (0,))[0]
    tower = tower_config(shapes)
    text = LlamaConfig(
        vocab_size=padded_rows(vocabulary),
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config.get("num_key_value_heads", config["num_attention_heads"]),
        max_position_embeddings=config.get("max_position_embeddings", 4096),
        rms_norm_eps=config.get("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": float(config.get("rope_theta", 10000.0))},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=vocabulary + 1,
        tie_word_embeddings=False,
    )
    return LlavaConfig(
        vision_config=CLIPVisionConfig(**tower),
        text_config=text,
        image_token_id=vocabulary,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        image_seq_length=(tower["image_size"] // tower["patch_size"]) ** 2,
        tie_word_embeddings=False,
    )


def expected_shapes(config: LlavaConfig) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every weight of the target, from a model on the meta device: nothing is allocated."""
    import torch
    from transformers import LlavaForConditionalGeneration

    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def compare(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError with the first names that are missing, left over or of another shape."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    other = [name for name in expected if name in found and found[name] != expected[name]]
    problems = []
    if missing:
        problems.append(f"{len(missing)} missing ({', '.join(missing[:3])})")
    if extra:
        problems.append(f"{len(extra)} left over ({', '.join(extra[:3])})")
    if other:
        first = other[0]
        problems.append(f"{len(other)} of another shape ({first}: {found[first]}, wanted {expected[first]})")
    if problems:
        raise CheckpointError(f"The tensors do not make a LLaVA-1.5 model: {'; '.join(problems)}.")
