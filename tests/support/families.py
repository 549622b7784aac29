"""A tiny random model of each family, with its processor and tokenizer, made on the spot: nothing is downloaded.

    folder = build("qwen3_vl", tmp_path)            # what `train.py --base` and transformers take
    IMAGE_SIZE["qwen3_vl"]                          # the square that photos are squashed to, for t4s.json

    @pytest.mark.parametrize("family", here())      # the families that this process can build
    def test_something(family): ...

Some processors need torchvision (see `NEEDS_TORCHVISION`), and no torchvision from PyPI fits a CPU build of torch: its
C++ operators do not load. `sh tests/run` therefore puts one beside the environment, in SIDE, where nothing finds it by
accident, and `with_torchvision()` gives the environment variables for a process that does: there a missing operator's
name is defined before torchvision is imported, which is all that these processors need. `tests/models/test_families.py`
runs pytest in such a process over every test file that uses this one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

SIDE = Path(sys.prefix) / "torchvision-only"
NEEDS_TORCHVISION = ("smolvlm", "qwen2_5_vl", "qwen3_vl", "internvl")
IMAGE_SIZE = {
    "llava": 32,
    "idefics3": 64,
    "paligemma": 32,
    "deepseek_vl": 32,
    "smolvlm": 64,
    "qwen2_5_vl": 64,
    "qwen3_vl": 64,
    "internvl": 64,
}
HOOK = """import importlib.abc, sys

class Operators(importlib.abc.MetaPathFinder):
    defined = None

    def find_spec(self, name, path=None, target=None):
        if name == "torchvision" and self.defined is None:
            from torch import library
            self.defined = library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                self.defined.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None

sys.meta_path.insert(0, Operators())
"""


def here() -> tuple[str, ...]:
    """The families that this process can build: those without torchvision, or with it those that need it too."""
    return tuple(name for name in IMAGE_SIZE if find_spec("torchvision") or name not in NEEDS_TORCHVISION)


def with_torchvision(folder: Path) -> dict[str, str]:
    """Environment variables for a process that finds torchvision; `folder` takes the hook that mends its operators."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    paths = [str(folder), str(SIDE), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def build(family: str, folder: Path, seed: int = 0) -> Path:
    """Write model and processor of `family` into `folder`, with random weights (float32, wide enough to tell apart)."""
    import torch

    makers: dict[str, Callable] = {
        "llava": _llava,
        "idefics3": _idefics3,
        "smolvlm": _smolvlm,
        "paligemma": _paligemma,
        "deepseek_vl": _deepseek_vl,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen3_vl": _qwen3_vl,
        "internvl": _internvl,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = makers[family](IMAGE_SIZE[family])
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# --- tokenizers

TEXT = [
    f"{label} *{count}| others *{17 - count}\n others *16\n"
    for label in ("others", "dog", "cat", "the dog on the left")
    for count in range(1, 17)
]
TEXT += 3 * [
    "Please segment only the dog in the image.",
    "Sure, here is the mask: <seg>others *16\n</seg>",
    "It is <seg>",
    "</seg>.",
    "USER ASSISTANT user assistant",
]


def _byte_level(special: Iterable[str], named: dict[str, str], eos: str):
    """As Qwen, SmolLM and DeepSeek have it: bytes, merged by frequency. `named`: attributes such as `image_token`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    special = list(dict.fromkeys([eos, *special, *named.values()]))
    trainer = trainers.BpeTrainer(
        vocab_size=400 + len(special),
        special_tokens=special,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=eos,
        pad_token=eos,
        extra_special_tokens=named,
        clean_up_tokenization_spaces=False,
    )


def _sentencepiece(named: dict[str, str], prefix_space: bool):
    """As Llama (which puts a space before every text) and Gemma (which does not) have it: ▁ is a space, bytes rest."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", *named.values()]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            *([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()] if prefix_space else []),
        ]
    )
    bpe.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    model = json.loads(bpe.to_str())["model"]
    vocab = {**model["vocab"], **{f"<0x{byte:02X}>": len(model["vocab"]) + byte for byte in range(256)}}
    merges = [tuple(merge) for merge in model["merges"]]
    whole = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    whole.add_special_tokens(special)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    whole.normalizer = normalizers.Replace(" ", "▁")
    if prefix_space:
        whole.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        steps.append(decoders.Strip(" ", 1, 0))
    whole.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=whole,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=named,
    )


def _text(tokenizer, **more) -> dict:
    """The language model's dimensions, for any family's text config."""
    return {
        "vocab_size": -(-len(tokenizer) // 64) * 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.3,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **more,
    }


def _vision(size: int, **more) -> dict:
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "patch_size": 8,
        "image_size": size,
        "initializer_range": 0.3,
        **more,
    }


def _chat(image: str, user: str = "USER: ", turn: str = "\n", assistant: str = "ASSISTANT: ") -> str:
    """A chat template: each part in turn, then the turn handed over."""
    return (
        "{% for message in messages %}{{ '" + user + "' if message['role'] == 'user' else '" + assistant + "' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + image + "{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}" + turn + "{% endfor %}{% if add_generation_prompt %}" + assistant + "{% endif %}"
    )


# --- families: square side → (model, processor)


def _llava(size: int):
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = _sentencepiece({"image_token": "<image>"}, prefix_space=True)
    images = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_chat("<image>\n"),
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_vision(size)),
        text_config=LlamaConfig(**_text(tokenizer)),
        image_token_id=tokenizer.image_token_id,
        vision_feature_layer=-2,
    )
    return LlavaForConditionalGeneration(config), processor


def _paligemma(size: int):
    """No chat template; the photo and the question attend to each other both ways."""
    from transformers import (
        GemmaConfig,
        PaliGemmaConfig,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
        SiglipVisionConfig,
    )
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    tokenizer = _sentencepiece({"image_token": "<image>"}, prefix_space=False)
    images = SiglipImageProcessorPil(size={"height": size, "width": size}, image_seq_length=(size // 8) ** 2)
    images.image_seq_length = (size // 8) ** 2
    processor = PaliGemmaProcessor(images, tokenizer)
    text = GemmaConfig(**_text(tokenizer, head_dim=8))
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**_vision(size, vision_use_head=False)),
        text_config=text,
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        hidden_size=32,
        vocab_size=text.vocab_size,
    )
    return PaliGemmaForConditionalGeneration(config), processor


def _deepseek_vl(size: int):
    from transformers import (
        DeepseekVLConfig,
        DeepseekVLForConditionalGeneration,
        DeepseekVLProcessor,
        LlamaConfig,
        SiglipVisionConfig,
    )
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import DeepseekVLImageProcessorPil

    tokenizer = _byte_level([], {"image_token": "<image_placeholder>"}, "<eos>")
    images = DeepseekVLImageProcessorPil(size={"height": size, "width": size})
    chat = _chat("<image_placeholder>", "User: ", "\n\n", "Assistant:")
    processor = DeepseekVLProcessor(images, tokenizer, chat, num_image_tokens=(size // 8) ** 2)
    vision, text = SiglipVisionConfig(**_vision(size)), LlamaConfig(**_text(tokenizer))
    config = DeepseekVLConfig(vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id)
    return DeepseekVLForConditionalGeneration(config), processor


IDEFICS = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
IDEFICS += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
IDEFICS_CHAT = _chat("<image>", "User: ", "<end_of_utterance>\n", "Assistant:")


def _idefics3(size: int):
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, LlamaConfig
    from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = _byte_level(IDEFICS, {"image_token": "<image>"}, "<|eot|>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": size}, max_image_size={"longest_edge": size})
    processor = Idefics3Processor(images, tokenizer, (size // 8) ** 2 // 4, IDEFICS_CHAT)
    vision, text = Idefics3VisionConfig(**_vision(size)), LlamaConfig(**_text(tokenizer))
    config = Idefics3Config(
        vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id, scale_factor=2
    )
    return Idefics3ForConditionalGeneration(config), processor


def _smolvlm(size: int):
    from transformers import LlamaConfig, SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMVisionConfig
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tokenizer = _byte_level(IDEFICS, named, "<|im_end|>")
    images = SmolVLMImageProcessorPil(size={"longest_edge": size}, max_image_size={"longest_edge": size})
    processor = SmolVLMProcessor(images, tokenizer, SmolVLMVideoProcessor(), (size // 8) ** 2 // 4, IDEFICS_CHAT)
    vision, text = SmolVLMVisionConfig(**_vision(size)), LlamaConfig(**_text(tokenizer))
    config = SmolVLMConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.image_token_id, scale_factor=2
    )
    return SmolVLMForConditionalGeneration(config), processor


QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_CHAT = _chat(
    "<|vision_start|><|image_pad|><|vision_end|>", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"
)
MROPE = {"rope_type": "default", "rope_theta": 10000.0}


def _qwen_tokens(tokenizer) -> dict[str, int]:
    return {f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in QWEN.items()}


def _qwen2_5_vl(size: int):
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    tokenizer = _byte_level(["<|im_start|>"], QWEN, "<|im_end|>")
    shape = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 16 * 16, "longest_edge": 512 * 512}, **shape)
    processor = Qwen2_5_VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(**shape), chat_template=QWEN_CHAT)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 8,
        "window_size": 32,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [1],
        "initializer_range": 0.3,
    }
    config = Qwen2_5_VLConfig(
        text_config=_text(tokenizer, rope_parameters={**MROPE, "mrope_section": [1, 1, 2]}),
        vision_config=vision,
        **_qwen_tokens(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vl(size: int):
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    tokenizer = _byte_level(["<|im_start|>"], QWEN, "<|im_end|>")
    shape = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2}
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": 16 * 16, "longest_edge": 512 * 512}, **shape)
    processor = Qwen3VLProcessor(images, tokenizer, Qwen3VLVideoProcessor(**shape), chat_template=QWEN_CHAT)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": 8,
        "out_hidden_size": 32,
        "num_position_embeddings": (size // 8) ** 2,
        "deepstack_visual_indexes": [0],
        "initializer_range": 0.3,
    }
    rope = {**MROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=_text(tokenizer, head_dim=8, rope_parameters=rope), vision_config=vision, **_qwen_tokens(tokenizer)
    )
    return Qwen3VLForConditionalGeneration(config), processor


def _internvl(size: int):
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor, Qwen2Config
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = _byte_level(["<|im_start|>"], named, "<|im_end|>")
    square, tokens = {"height": size, "width": size}, (size // 8) ** 2 // 4
    processor = InternVLProcessor(
        GotOcr2ImageProcessorPil(size=square),
        tokenizer,
        InternVLVideoProcessor(size=square),
        image_seq_length=tokens,
        chat_template=_chat("<IMG_CONTEXT>\n", "<|im_start|>user\n", "<|im_end|>\n", "<|im_start|>assistant\n"),
    )
    vision, text = InternVLVisionConfig(**_vision(size)), Qwen2Config(**_text(tokenizer))
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.context_image_token_id, image_seq_length=tokens
    )
    return InternVLForConditionalGeneration(config), processor
