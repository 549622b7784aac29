"""The embedded architecture, fresh: a LLaVA-type model small enough to live in a repository.

The CNN tower (`vision_tower.py`), a two-layer projector and a small Llama-type language model with its own byte-level
BPE tokenizer, in which a run of the grid is two tokens: the label and `" *5|"` (or `" *5\\n"` at a row's end). The
language model is SmolLM3's, whose second layer has no rotary positions: there every cell attends to the question's
words alike, however far away it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SmolLM3Config,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from t4s import lexicon
from t4s.errors import CheckpointError
from t4s.limits import MAX_SIDE
from t4s.models.efficientnet import PIXEL_MEAN, PIXEL_STD
from t4s.models.tiny.vision_tower import DEFAULT_BODY, LiteTowerConfig

IMAGE_TOKEN, END_TOKEN, PAD_TOKEN = "<image>", "<|end|>", "<|pad|>"
# A run's count and the separator after it are one chunk, and so are a word and the space before it.
CHUNKS = r" \*\d+[|\n]?|</?seg>| ?\p{L}+| ?\p{N}+|\s+|[^\s\p{L}\p{N}]"
CHAT = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{{ '\n' if message['role'] == 'user' else '<|end|>' }}{% endfor %}"
)
QUESTION = CLASS_QUESTION = "{query}"
ANSWER = "<seg>{body}</seg>"
PATCH = 16  # pixels of a cell's side, unless `set_image_size` changes it
LAYER_WITHOUT_ROPE = 1  # of the language model, counted from 0


def _texts(names: Iterable[str]) -> Iterator[str]:
    """The tokenizer's training text: every count with every separator, and the words that phrases are made of."""
    for count in range(1, MAX_SIDE + 1):
        for _ in range(50):
            yield f"others *{count}| others *{count}\n others *{count}"
    for name in sorted(set(names)):
        for word in lexicon.words_for(name):
            for _ in range(3):
                yield f"{word}\n"
                yield f" {word} the {word}, {word} and {word}\n"
    for word in lexicon.WORDS:
        for _ in range(5):
            yield f" {word} {word}\n"
    yield from ["<seg></seg>"] * 50


def tokenizer(names: Iterable[str], vocabulary: int = 2048) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for these class names: any text can be spelled, known words and runs are short."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CHUNKS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD_TOKEN, END_TOKEN, IMAGE_TOKEN],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
    )
    bpe.train_from_iterator(_texts(names), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END_TOKEN, pad_token=PAD_TOKEN, clean_up_tokenization_spaces=False
    )
    fast.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return fast


def processor(names: Iterable[str], grid: tuple[int, int] = (16, 16)) -> LlavaProcessor:
    """Photos resized to PATCH pixels a cell, whatever their shape; one image token a cell."""
    size = {"height": grid[0] * PATCH, "width": grid[1] * PATCH}
    images = CLIPImageProcessorPil(
        size=size, do_center_crop=False, resample=2, image_mean=[PIXEL_MEAN] * 3, image_std=[PIXEL_STD] * 3
    )
    return LlavaProcessor(
        images,
        tokenizer(names),
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        image_token=IMAGE_TOKEN,
        chat_template=CHAT,
    )


def model(
    processor: LlavaProcessor,
    grid: tuple[int, int] = (16, 16),
    width: int = 256,
    layers: int = 5,
    heads: int = 8,
    tower_width: int = 256,
    context: int = 4096,
    body: str = DEFAULT_BODY,
) -> LlavaForConditionalGeneration:
    """A freshly initialised model for `processor`; `body`: of the tower, "lite0" or "lite2". Seed torch before."""
    tokens = processor.tokenizer
    text = SmolLM3Config(
        vocab_size=-(-len(tokens) // 64) * 64,
        hidden_size=width,
        intermediate_size=width * 5 // 2,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        no_rope_layers=[int(layer != LAYER_WITHOUT_ROPE) for layer in range(layers)],
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    vision = LiteTowerConfig(image_size=grid[0] * PATCH, grid=grid, hidden_size=tower_width, body=body)
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokens.convert_tokens_to_ids(IMAGE_TOKEN),
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        image_seq_length=grid[0] * grid[1],
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def set_image_size(side: int, model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> None:
    """Resize photos to `side` × `side` pixels from now on; no weight depends on it.

    Raises CheckpointError if a cell would not be of whole pixels.
    """
    rows, columns = model.config.vision_config.grid
    if side % rows:
        raise CheckpointError(
            f"A photo of {side}×{side} pixels cannot be divided into {rows} rows of cells; give an "
            f"--image-size that is a multiple of {rows}."
        )
    processor.patch_size = side // rows
    processor.image_processor.size = {"height": side, "width": columns * (side // rows)}
    model.config.vision_config.image_size = side


def body_of(folder: Path) -> str:
    """The body of the tower that `t4s train-tower` wrote. Raises CheckpointError if it is missing."""
    if not (Path(folder) / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json: train a tower with t4s train-tower --out {folder}.")
    return LiteTowerConfig.from_pretrained(folder).body


def load_tower(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Load the tower that `t4s train-tower` wrote. Raises CheckpointError if it is missing or does not fit."""
    from safetensors.torch import load_file

    file = Path(folder) / "model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: train it with t4s train-tower --out {folder}.")
    try:
        model.model.vision_tower.load_state_dict(load_file(file))
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit this tower: {error}") from error
