"""Load a checkpoint: a full model, or a LoRA adapter on its base, with its processor and its `t4s.json`.

safetensors only, no code from a checkpoint, and nothing put in the place of weights that are missing: what does not
fit is a CheckpointError that names it.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from jinja2 import TemplateError
from PIL import Image
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from t4s.errors import CheckpointError
from t4s.limits import MAX_VOCABULARY
from t4s.models.checkpoint import ADAPTER, ADAPTER_WEIGHTS, EMBEDDED, CheckpointConfig, base_of, check_weights, find
from t4s.models.original.convert import converted
from t4s.models.tiny import vision_tower  # noqa: F401 (it registers itself with the Auto classes)
from t4s.models.trial import patterns_problem, template_problem
from t4s.models.vlm import VLM

Device = str | int | torch.device
DTYPES = ("float32", "bfloat16", "float16", "float64")
NOT_QUANTIZED = ("lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "aligner")
SHOWN = 3  # names in a message
SPARE_WEIGHTS = 50_000_000  # that a configuration may describe beyond what the files can hold: 200 MB
MAX_LAYERS = 1000  # of any part of a model; building more takes minutes, even without memory
_COUNTS = ("layers", "depth", "mixers", "blocks")  # parts of the names of such numbers
# PEFT 0.21 asks for it by this name, whenever an adapter is made or loaded.
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
# What transformers and torch raise for a configuration that is not valid.
_INVALID = (
    StrictDataclassError, OSError, ValueError, KeyError, ImportError, TypeError, AttributeError, RuntimeError,
    IndexError, ArithmeticError, AssertionError, MemoryError,
)  # fmt: skip


def load(
    source: str | Path | None = None,
    revision: str | None = None,
    device: Device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
) -> VLM:
    """A checkpoint by folder or Hub id, ready to run. Raises CheckpointError with what to do.

    device: anything torch accepts; None: CUDA, else MPS, else the CPU. dtype: None: bfloat16 where CUDA has it, else
    float32. quantize: "4bit" or "8bit", CUDA only.
    """
    place = resolve_device(device)
    number_type = resolve_dtype(dtype, place)
    folder = converted(source, revision) or find(source, revision)
    config = CheckpointConfig.read(folder)
    model = load_model(folder, config, number_type, place, quantize)
    processor = load_processor(folder)
    if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
        raise _broken_processor(folder, TypeError("it takes no photo with a text"))
    vlm = VLM(model.eval().requires_grad_(False), processor, config)
    if source not in (None, EMBEDDED):
        _check_template_ends(folder, vlm)
    _check_template(folder, vlm)
    _check_photo(folder, vlm)
    if config.license:
        print(
            f"The weights of {source or EMBEDDED} are licensed {config.license!r}; that holds for what is made from "
            "them, too.",
            file=sys.stderr,
        )
    return vlm


def _check_template_ends(folder: Path, vlm: VLM) -> None:
    """Raises CheckpointError if a chat template runs on and on."""
    templates = vlm.processor.chat_template
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        if isinstance(template, str) and (problem := template_problem(template)):
            raise CheckpointError(f"The chat template of {folder} {problem}; download or save it again.")


def _check_template(folder: Path, vlm: VLM) -> None:
    """Put one question into the chat template. Raises CheckpointError if it fails or leaves no place for the photo."""
    try:
        vlm.suffix(vlm.question("others"))
    except (TemplateError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"The chat template of {folder} does not take a photo and a question ({_short(error)}); it is in "
            "chat_template.jinja or tokenizer_config.json: download or save it again."
        ) from error


def _check_photo(folder: Path, vlm: VLM) -> None:
    """Put one small photo into the processor. Raises CheckpointError if its settings do not take it."""
    try:
        _, ids = vlm.preprocess(Image.new("RGB", (8, 8)))
        if vlm.image_token not in ids:
            raise ValueError("it gives the photo no token")
    except _INVALID as error:
        raise CheckpointError(
            f"The processor of {folder} does not take a photo ({_short(error)}); its settings are in "
            "processor_config.json or preprocessor_config.json: download or save it again."
        ) from error


def resolve_device(device: Device | None) -> torch.device:
    """The torch device that is meant. Raises CheckpointError if there is none of that kind here."""
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    known = "leave it out to choose automatically, or give 'cpu', 'cuda', 'cuda:1' or 'mps'"
    if isinstance(device, int) and not isinstance(device, bool):
        device = f"cuda:{device}"
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointError(f"device is {device!r}, which torch does not know; {known}.") from error
    try:
        torch.zeros(1, device=place).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        raise CheckpointError(f"device is {str(place)!r}, which this machine does not have; {known}.") from error
    return place


def resolve_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The number type that is meant. Raises CheckpointError for one that models do not run in."""
    if dtype is None:
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise CheckpointError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}.")
    if name == "float64" and device.type == "mps":
        raise CheckpointError("dtype is float64, which MPS does not have; use float32, or device='cpu'.")
    return getattr(torch, name)


def load_processor(folder: Path) -> Any:
    """The processor of a folder, with PIL for its photos, so that they look the same with or without torchvision.

    Raises CheckpointError if a file of it is broken, or if it needs a package that is not installed: processors that
    take video too need torchvision.
    """
    try:
        return _read_processor(AutoProcessor, folder, backend="pil")
    except ImportError:  # what handles video has no PIL version
        pass
    try:
        processor = _read_processor(AutoProcessor, folder)
    except ImportError as error:
        raise CheckpointError(
            f"The processor of {folder} needs packages that are not installed, those of the extra "
            "t4s[families]: run `pip install torchvision num2words`, with a torchvision made for "
            f"your torch. The error was: {_short(error)}"
        ) from error
    processor.image_processor = _read_processor(AutoImageProcessor, folder, backend="pil")
    return processor


def _read_processor(kind: Any, folder: Path, **options: Any) -> Any:
    """What a class of transformers reads from the folder. Raises ImportError, and CheckpointError for a broken file."""
    try:
        return kind.from_pretrained(folder, trust_remote_code=False, **options)
    except ImportError:  # a missing package is no broken file
        raise
    except _INVALID as error:
        raise _broken_processor(folder, error) from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        # The tokenizers library raises Exception itself, no subclass of it, for a broken tokenizer.json.
        raise _broken_processor(folder, error) from error


def _broken_processor(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"The processor of {folder} cannot be loaded ({_short(error)}); its files are processor_config.json, "
        "tokenizer.json and tokenizer_config.json: download or save them again."
    )


def load_model(
    folder: Path, config: CheckpointConfig, dtype: torch.dtype, device: Device, quantize: str | None = None
) -> PreTrainedModel:
    """The model of a folder: a full one, or a LoRA adapter merged into the base that t4s.json names.

    Raises CheckpointError if weights are missing, unexpected, of another shape, broken or not finite.
    """
    place = resolve_device(device)
    check_weights(folder)
    if (folder / ADAPTER).is_file():
        base = base_of(folder, config)
        # An adapter may be trained on top of another one.
        base_config = CheckpointConfig.read(base) if (base / ADAPTER).is_file() else config
        return _adapted(load_model(base, base_config, dtype, place, quantize), folder)
    extra = {} if quantize is None else _quantization(quantize, dtype, place)
    _check_readable(folder.glob("*.safetensors"))
    _check_size(folder)
    try:
        model, info = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # reported below, by name
            output_loading_info=True,
            **extra,
        )
    except _INVALID as error:
        raise CheckpointError(f"{folder} cannot be loaded as an image-text-to-text model: {_short(error)}") from error
    _check_complete(folder, info)
    _check_finite(folder, model)
    return model if quantize else model.to(place)


def _check_readable(files: Iterable[Path]) -> None:
    """Each file's header, so that a broken one is named. Raises CheckpointError."""
    for file in files:
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is not a whole safetensors file ({_short(error)}); download or copy it again."
            ) from error


def _check_size(folder: Path) -> None:
    """Compares the size that config.json describes with that of the weights, before memory is taken for it.

    What is missing or of another shape is named later; here it is only kept from being as large as someone likes.
    """
    try:
        described = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder} cannot be loaded as an image-text-to-text model: {_short(error)}") from error
    if many := next((name for name, value in _entries(described) if _is_too_many(name, value)), ""):
        raise CheckpointError(f"The config.json of {folder} has more than {MAX_LAYERS:,} {many}; save it again.")
    try:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    except _INVALID as error:
        raise CheckpointError(f"{folder} cannot be loaded as an image-text-to-text model: {_short(error)}") from error
    head = model.get_output_embeddings()
    if head is not None and head.weight.shape[0] > MAX_VOCABULARY:
        raise CheckpointError(
            f"The config.json of {folder} describes a vocabulary of {head.weight.shape[0]:,} tokens, allowed are "
            f"{MAX_VOCABULARY:,}; save the checkpoint with the vocabulary of its tokenizer."
        )
    wanted = sum(weight.numel() for weight in model.parameters())
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))  # at least half a byte a weight
    if wanted > 2 * stored + SPARE_WEIGHTS:
        raise CheckpointError(
            f"The config.json of {folder} describes {wanted:,} weights, and its files hold {stored:,} bytes; they do "
            "not go together: save the checkpoint again."
        )


def _entries(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in nested dicts and lists; a list's entries have its name."""
    waiting = [(name, content)]
    while waiting:
        name, value = waiting.pop()
        yield name, value
        if isinstance(value, dict):
            waiting += [(str(key), entry) for key, entry in value.items()]
        elif isinstance(value, list):
            waiting += [(name, entry) for entry in value]


def _is_too_many(name: str, value: Any) -> bool:
    return isinstance(value, int | float) and value > MAX_LAYERS and any(part in name for part in _COUNTS)


def _check_complete(folder: Path, info: dict[str, Any]) -> None:
    """`from_pretrained` would fill missing weights with random ones. Raises CheckpointError with their names."""
    problems = []
    for kind, key in (
        ("missing", "missing_keys"),
        ("unexpected", "unexpected_keys"),
        ("other shape", "mismatched_keys"),
    ):
        names = sorted(str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in info.get(key) or ())
        if names:
            problems.append(f"{kind}: {_listed(names)}")
    if problems:
        raise CheckpointError(
            f"The weights in {folder} do not fit the model that its config.json describes ({'; '.join(problems)}); "
            "save the checkpoint again with the version that made it."
        )


def _check_finite(folder: Path, model: PreTrainedModel) -> None:
    """A sum is NaN or infinite as soon as one number is. Raises CheckpointError with the names of such weights."""
    floats = [(name, weight) for name, weight in model.named_parameters() if weight.is_floating_point()]
    with torch.inference_mode():
        sums = [weight.sum(dtype=torch.promote_types(weight.dtype, torch.float32)) for _, weight in floats]
        broken = [name for (name, _), total in zip(floats, sums, strict=True) if not torch.isfinite(total)]
    if broken:
        raise CheckpointError(
            f"The weights in {folder} hold numbers that are not finite ({_listed(broken)}); take an earlier "
            "checkpoint, or train again with a smaller learning rate."
        )


def _quantization(quantize: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Arguments of `from_pretrained` that keep the language model in 4 or 8 bits. Raises CheckpointError."""
    if quantize not in ("4bit", "8bit"):
        raise CheckpointError(f"quantize is '4bit' or '8bit', not {quantize!r}.")
    if device.type != "cuda":
        raise CheckpointError(f"quantize={quantize!r} needs a CUDA device; this one is {device}: leave it out.")
    if find_spec("bitsandbytes") is None:
        raise CheckpointError(f"quantize={quantize!r} needs a package: pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=quantize == "4bit",
        load_in_8bit=quantize == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(NOT_QUANTIZED),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _check_patterns(folder: Path, model: PreTrainedModel) -> None:
    """Raises CheckpointError if a pattern in adapter_config.json is invalid or endless."""
    try:
        content = json.loads((folder / ADAPTER).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / ADAPTER} cannot be read ({_short(error)}); save it again.") from error
    names = [name for name, _ in model.named_modules()]
    if isinstance(content, dict) and (problem := patterns_problem(content, names)):
        raise CheckpointError(f"A pattern in {folder / ADAPTER} {problem}; save the adapter again.")


def _adapted(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """A LoRA adapter merged into its base. Raises CheckpointError for missing or unexpected keys."""
    from peft import PeftModel, get_peft_model_state_dict

    weights = folder / ADAPTER_WEIGHTS
    _check_readable([weights])
    _check_patterns(folder, model)
    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=False, use_safetensors=True)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # other shapes or layers
        raise CheckpointError(f"{folder} does not fit its base model: {_short(error)}") from error
    with safe_open(weights, "pt") as file:
        stored = set(file.keys())
    expected = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))  # "auto" asks the Hub
    if stored != expected:
        missing = sorted(expected - stored)[:SHOWN]
        unexpected = sorted(stored - expected)[:SHOWN]
        raise CheckpointError(f"{folder} does not fit its base model: missing {missing}, unexpected {unexpected}.")
    merged = adapted.merge_and_unload()
    _check_finite(folder, merged)
    return merged


def _listed(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
