"""Load a checkpoint: a full model or a LoRA adapter on its base, the processor, and its format, ready to run.

safetensors only, no code from a checkpoint, and nothing loaded in place of what is missing.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor

from t4s.errors import CheckpointError
from t4s.models.checkpoint import ADAPTER, CheckpointConfig, base_of, check_weights, find
from t4s.models.tiny import vision_tower  # noqa: F401 (it registers itself with the Auto classes)
from t4s.models.vlm import VLM

DTYPES = ("float32", "bfloat16", "float16", "float64")
KEPT_WHOLE = ("lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "aligner")


def load(
    source: str | Path | None = None,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> VLM:
    """A checkpoint by folder or Hub id, ready to run. Raises CheckpointError with what to do."""
    folder = find(source, revision)
    config = CheckpointConfig.read(folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise CheckpointError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}.")
        dtype = getattr(torch, dtype)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") and torch.cuda.is_bf16_supported() else torch.float32)
    model = load_model(folder, config, dtype, device, quantize)
    return VLM(model.eval().requires_grad_(False), load_processor(folder), config)


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
        raise CheckpointError(
            f"The processor of {folder} needs packages that are not installed, those of the extra "
            "t4s[families]: run `pip install torchvision num2words`, with a torchvision made for "
            f"your torch. It says: {detail}"
        ) from error
    processor.image_processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    return processor


def load_model(folder: Path, config: CheckpointConfig, dtype: torch.dtype, device: str, quantize: str | None = None):
    """The model of a folder: a full one, or a LoRA adapter on the base that t4s.json names."""
    check_weights(folder)
    extra = {} if quantize is None else _quantized(quantize, dtype, device)
    if (folder / ADAPTER).is_file():
        base = base_of(folder, config)
        own = (
            CheckpointConfig.read(base) if (base / ADAPTER).is_file() else config
        )  # an adapter may be trained on another one
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
        load_in_4bit=quantize == "4bit",
        load_in_8bit=quantize == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(KEPT_WHOLE),
    )
    return {"quantization_config": config, "device_map": {"": device}}


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
