"""Tiny random checkpoints in the original LLaVA layout, with the real vocabulary of Llama 2.

write(folder, tower=True, kind="safetensors", shards=2)      # → the tensors, by their original names
write_lora(folder, base)                                     # an adapter on `base`, with the projector beside it
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

WIDTH, INNER, LAYERS, HEADS = 64, 96, 2, 2
TOWER_WIDTH, TOWER_INNER, TOWER_LAYERS, PATCH, SIDE = 64, 96, 3, 14, 28
VOCABULARY = 32000
CONFIG = {
    "_name_or_path": "./pre_trained/vicuna-7b-v1.5/",
    "architectures": ["LlavaLlamaForCausalLM"],
    "model_type": "llava_llama",
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": HEADS,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
    "image_aspect_ratio": "anyres",
    "mm_hidden_size": TOWER_WIDTH,
    "mm_patch_merge_type": "flat",
    "mm_projector_type": "mlp2x_gelu",
    "mm_use_im_patch_token": False,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "/home/x/pre_trained/clip-vit-large-patch14-336",
    "torch_dtype": "float16",
}


def llama_tokenizer() -> Path:
    """The tokenizer.json of Llama 2 that the package wordllama carries; skips the test where it is not installed."""
    found = find_spec("wordllama")
    if found is None:
        pytest.skip("no Llama vocabulary: `sh tests/run` installs wordllama for its own")
    return Path(found.submodule_search_locations[0]) / "tokenizers" / "l2_supercat_tokenizer_config.json"


def _normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator) * 0.1


def language_tensors(generator: torch.Generator) -> dict[str, torch.Tensor]:
    tensors = {
        "model.embed_tokens.weight": _normal(generator, VOCABULARY, WIDTH),
        "model.norm.weight": 1 + _normal(generator, WIDTH),
        "lm_head.weight": _normal(generator, VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        start = f"model.layers.{layer}"
        for name in "qkvo":
            tensors[f"{start}.self_attn.{name}_proj.weight"] = _normal(generator, WIDTH, WIDTH)
        tensors[f"{start}.mlp.gate_proj.weight"] = _normal(generator, INNER, WIDTH)
        tensors[f"{start}.mlp.up_proj.weight"] = _normal(generator, INNER, WIDTH)
        tensors[f"{start}.mlp.down_proj.weight"] = _normal(generator, WIDTH, INNER)
        tensors[f"{start}.input_layernorm.weight"] = 1 + _normal(generator, WIDTH)
        tensors[f"{start}.post_attention_layernorm.weight"] = 1 + _normal(generator, WIDTH)
        tensors[f"{start}.self_attn.rotary_emb.inv_freq"] = torch.ones(WIDTH // HEADS // 2)
    return tensors


def projector_tensors(generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        "model.mm_projector.0.weight": _normal(generator, WIDTH, TOWER_WIDTH),
        "model.mm_projector.0.bias": _normal(generator, WIDTH),
        "model.mm_projector.2.weight": _normal(generator, WIDTH, WIDTH),
        "model.mm_projector.2.bias": _normal(generator, WIDTH),
    }


def tower_tensors(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """A CLIP vision tower by the names of CLIP's own repository."""
    start = "vision_model"
    tensors = {
        f"{start}.embeddings.class_embedding": _normal(generator, TOWER_WIDTH),
        f"{start}.embeddings.patch_embedding.weight": _normal(generator, TOWER_WIDTH, 3, PATCH, PATCH),
        f"{start}.embeddings.position_embedding.weight": _normal(generator, (SIDE // PATCH) ** 2 + 1, TOWER_WIDTH),
        f"{start}.embeddings.position_ids": torch.arange((SIDE // PATCH) ** 2 + 1)[None],
    }
    for norm in ("pre_layrnorm", "post_layernorm"):
        tensors[f"{start}.{norm}.weight"] = 1 + _normal(generator, TOWER_WIDTH)
        tensors[f"{start}.{norm}.bias"] = _normal(generator, TOWER_WIDTH)
    for layer in range(TOWER_LAYERS):
        inside = f"{start}.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors[f"{inside}.self_attn.{name}.weight"] = _normal(generator, TOWER_WIDTH, TOWER_WIDTH)
            tensors[f"{inside}.self_attn.{name}.bias"] = _normal(generator, TOWER_WIDTH)
        for name, rows, columns in (("fc1", TOWER_INNER, TOWER_WIDTH), ("fc2", TOWER_WIDTH, TOWER_INNER)):
            tensors[f"{inside}.mlp.{name}.weight"] = _normal(generator, rows, columns)
            tensors[f"{inside}.mlp.{name}.bias"] = _normal(generator, rows)
        for norm in ("layer_norm1", "layer_norm2"):
            tensors[f"{inside}.{norm}.weight"] = 1 + _normal(generator, TOWER_WIDTH)
            tensors[f"{inside}.{norm}.bias"] = _normal(generator, TOWER_WIDTH)
    return tensors


def write_weights(folder: Path, tensors: dict[str, torch.Tensor], kind: str, shards: int) -> None:
    """safetensors or bin, in one file or in several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, ending = ("model", "safetensors") if kind == "safetensors" else ("pytorch_model", "bin")
    names = list(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"{stem}.{ending}" if shards == 1 else f"{stem}-{number + 1:05d}-of-{shards:05d}.{ending}"
        part = {name: tensors[name].contiguous() for name in names[number::shards]}
        if kind == "safetensors":
            save_file(part, folder / file)
        else:
            torch.save(part, folder / file)
        weight_map.update(dict.fromkeys(part, file))
    if shards > 1:
        (folder / f"{stem}.{ending}.index.json").write_text(json.dumps({"weight_map": weight_map}))


def write_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(llama_tokenizer().read_bytes())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )


def write(
    folder: Path, tower: bool = True, kind: str = "safetensors", shards: int = 2, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A whole checkpoint; without `tower` its CLIP lies in FOLDER-clip. Returns all tensors by their original names."""
    generator = torch.Generator().manual_seed(seed)
    language = language_tensors(generator) | projector_tensors(generator)
    clip = tower_tensors(generator)
    inside = {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in clip.items()}
    write_weights(folder, {**language, **(inside if tower else {})}, kind, shards)
    if not tower:
        write_weights(folder.with_name(folder.name + "-clip"), clip, kind, 1)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder)
    return language | inside


def write_lora(folder: Path, base: Path, seed: int = 1) -> dict[str, torch.Tensor]:
    """A LoRA folder on a Vicuna in `base`; returns the tensors that the merged model has, tower included."""
    generator = torch.Generator().manual_seed(seed)
    language, projector, clip = language_tensors(generator), projector_tensors(generator), tower_tensors(generator)
    write_weights(base, language, "bin", 2)
    write_weights(folder.with_name(folder.name + "-clip"), clip, "safetensors", 1)
    rank, alpha = 4, 8
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"r": rank, "lora_alpha": alpha, "base_model_name_or_path": "/data/vicuna-7b-v1.5", "peft_type": "LORA"}
        )
    )
    adapter, merged = {}, dict(language)
    for layer in range(LAYERS):
        name = f"model.layers.{layer}.self_attn.q_proj"
        a, b = _normal(generator, rank, WIDTH), _normal(generator, WIDTH, rank)
        adapter[f"base_model.model.{name}.lora_A.weight"], adapter[f"base_model.model.{name}.lora_B.weight"] = a, b
        merged[f"{name}.weight"] = language[f"{name}.weight"] + alpha / rank * b @ a
    torch.save(adapter, folder / "adapter_model.bin")
    torch.save(
        {f"base_model.model.{name}": tensor for name, tensor in projector.items()}, folder / "non_lora_trainables.bin"
    )
    (folder / "config.json").write_text(json.dumps(CONFIG))
    write_tokenizer(folder)
    return merged | projector | {f"model.vision_tower.vision_tower.{name}": tensor for name, tensor in clip.items()}
