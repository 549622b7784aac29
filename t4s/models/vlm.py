"""One checkpoint at work: what goes into the model, and one answer's place in its cache.

The one place that knows processors, chat templates, position ids and model families; training uses it too.

A prompt is cut in two: the *prefix* (everything up to and including the photo) and the *suffix* (the question and
the generation prompt). The prefix's key-value cache is computed once per photo and copied for every phrase, so
two photos or two phrases never share state. Where photo and question attend to each other ("bidirectional_prefix"),
the photo's features are kept instead. The answer is tokenised in three parts (before, inside and after the body),
here and nowhere else.

Position ids are "sequence" (0, 1, 2, …, or what the family computes for its images) or "cells" (the embedded model's,
see `tiny.cell_positions`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import DynamicCache

from t4s import lexicon, prompts
from t4s.errors import CheckpointError
from t4s.imaging.loading import pixels_of
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.tiny import cell_positions
from t4s.models.tiny.cell_scores import cell_logits


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """A photo that the model has seen: its pixels (h, w, 3) uint8 and the prefix's key-value cache."""

    photo: np.ndarray
    ids: tuple[int, ...]
    cache: DynamicCache
    next_position: int
    features: dict[str, Any] | None = None  # in place of the cache, where photo and question attend to each other

    @property
    def nbytes(self) -> int:
        """What keeping it costs, in bytes."""
        kept = [part for layer in self.cache.layers for part in (layer.keys, layer.values)]
        if self.features:
            kept += self.features["image"].pooler_output
        return self.photo.nbytes + sum(part.nbytes for part in kept)


class VLM:
    """Processor, model and format of one checkpoint."""

    def __init__(self, model, processor, config: CheckpointConfig):
        self.model, self.processor, self.config = model, processor, config
        self.tokenizer = processor.tokenizer
        self.image_token = model.config.image_token_id
        self.bare = model.config.model_type == "paligemma"  # no chat template: its processor adds what is needed
        self.bidirectional_prefix = self.bare or config.bidirectional_prefix  # then there is no prefix cache to keep
        tiles = ("do_image_splitting", "crop_to_patches", "do_pan_and_scan")
        self.one_tile = {name: False for name in tiles if hasattr(processor.image_processor, name)}
        self.known_words = frozenset(word for name in config.names for word in lexicon.words_for(name))
        self._pieces: dict[int, str] = {}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def cells(self) -> int:
        return self.config.grid[0] * self.config.grid[1]

    # What goes in

    def question(self, query: str | tuple[str, ...]) -> str:
        template = self.config.question if isinstance(query, str) else self.config.class_question
        return prompts.question(template, query, self.config.class_separator)

    def chat(self, question: str) -> str:
        """The prompt as text: one photo, the question, and the turn handed to the model."""
        if self.bare:
            return f"{self.processor.image_token}{self.tokenizer.bos_token}{question}\n"
        content = [{"type": "image"}, {"type": "text", "text": question}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def text_ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def suffix(self, question: str) -> list[int]:
        """The tokens behind the photo: the question and the generation prompt."""
        ids = self.tokenizer(self.chat(question), add_special_tokens=False)["input_ids"]
        return ids[len(ids) - ids[::-1].index(self.image_token) :]

    def preprocess(self, image: Image.Image) -> tuple[dict[str, torch.Tensor], list[int]]:
        """A photo → (the processor's tensors, the prefix's tokens). The photo is squashed to the model's square."""
        size = self.config.image_size
        square = image.resize((size, size), Image.Resampling[self.config.resampling.upper()])
        question = self.question("others")
        text = self.processor.image_token + question if self.bare else self.chat(question)
        inputs = dict(self.processor(images=[square], text=[text], return_tensors="pt", **self.one_tile))
        ids = inputs.pop("input_ids")[0].tolist()
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids", "labels"):
            inputs.pop(name, None)
        suffix = self.suffix(question)
        if ids[-len(suffix) :] != suffix:
            raise CheckpointError("This model's chat template puts text that depends on the photo behind it.")
        return inputs, ids[: -len(suffix)]

    def answer_ids(
        self, body: str = "", template: str | None = None, query: str | tuple[str, ...] = ""
    ) -> tuple[list[int], list[int], list[int]]:
        """The answer's tokens before, inside and after the body, each tokenised on its own; the end token closes it.

        `template` None: the checkpoint's own for such a query. `query` is filled in where the template asks for it.
        """
        if template is None:
            template = self.config.answer if isinstance(query, str) else self.config.class_answer or self.config.answer
        before, after = prompts.split_answer(template, query)
        return self.text_ids(before), self.text_ids(body), [*self.text_ids(after), self.tokenizer.eos_token_id]

    # Positions

    def piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = self.tokenizer.decode([token])
        return self._pieces[token]

    def prefix_positions(self, ids: Sequence[int]) -> list[int]:
        """Of the tokens up to and including the photo."""
        if self.config.positions == "cells":
            return cell_positions.prefix_positions(ids, self.image_token, self.cells)
        return list(range(len(ids)))

    def suffix_positions(self, length: int, start: int) -> list[int]:
        """Of the question. `start`: the position after the prefix, in "sequence" order."""
        if self.config.positions == "cells":
            return cell_positions.question_positions(length, self.cells)
        return list(range(start, start + length))

    def answer_positions(self, ids: Sequence[int], start: int) -> list[int]:
        """Of the whole answer so far. `start`: the position after the question, in "sequence" order."""
        if self.config.positions == "cells":
            return cell_positions.answer_positions(map(self.piece, ids), self.cells)
        return list(range(start, start + len(ids)))

    # Running

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> EncodedImage:
        """Runs the prefix through the model once."""
        inputs, ids = self.preprocess(image)
        cache = DynamicCache()
        inputs = {
            name: value.to(self.device, self.model.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }
        positions, after = self.position_ids(ids, inputs)
        if self.bidirectional_prefix:
            features = {"image": self.model.get_image_features(inputs["pixel_values"])}
            return EncodedImage(pixels_of(image), tuple(ids), cache, after, features)
        positions = positions[..., None, :].to(self.device)
        self.model(
            input_ids=torch.tensor([ids], device=self.device),
            position_ids=positions,
            cache=cache,
            attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=self.device),
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        return EncodedImage(pixels_of(image), tuple(ids), cache, after)

    def first_token_ids(self, labels: Sequence[str]) -> list[int]:
        """The first token of each label: what an answer says where a run of it begins."""
        return [self.text_ids(label)[0] for label in labels]

    def position_ids(self, ids: Sequence[int], inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """The prefix's position ids (n,), or (3, n) where a family has time, row and column; and the next one."""
        if self.bare:  # counted from 1
            return torch.arange(1, len(ids) + 1), len(ids) + 1
        of_family = getattr(self.model.model, "get_rope_index", None)
        if of_family is None:
            return torch.tensor(self.prefix_positions(ids)), len(ids)
        tokens = torch.tensor([ids])
        kinds = (tokens == self.image_token).int()
        positions, _ = of_family(tokens, mm_token_type_ids=kinds, image_grid_thw=inputs["image_grid_thw"].cpu())
        return positions[:, 0], int(positions.max()) + 1

    def begin(self, encoded: EncodedImage, query: str | tuple[str, ...]) -> DecoderState:
        """The question and the answer's opening go in with one pass; the body comes next."""
        return DecoderState(self, encoded, self.suffix(self.question(query)), self.answer_ids(query=query)[0])


class DecoderState:
    """One answer under way: a `CausalDecoder` for the loops of `decoding.generate`.

    fed  the body's tokens in the cache
    """

    def __init__(self, vlm: VLM, encoded: EncodedImage, suffix: list[int], opening: list[int]):
        self.vlm, self.opening = vlm, opening
        self.cache = copy.deepcopy(encoded.cache)
        self.start = encoded.next_position + len(suffix)
        self.length = len(encoded.ids) + len(suffix) + len(opening)
        self.fed: list[int] = []
        self.forwards = 0
        ids = [*suffix, *opening]
        positions = [
            *vlm.suffix_positions(len(suffix), encoded.next_position),
            *vlm.answer_positions(opening, self.start),
        ]
        past, more = len(encoded.ids), {}
        if encoded.features:  # nothing is in the cache yet: prompt and opening go in together
            before, _ = vlm.position_ids(encoded.ids, {})
            ids, positions, past = [*encoded.ids, *ids], [*before.tolist(), *positions], 0
            sees = torch.ones(len(ids), len(ids), dtype=torch.bool, device=vlm.device).tril()
            sees[: -len(opening), : -len(opening)] = True
            more = {"mm_encoder_outputs": encoded.features, "attention_mask": sees[None, None]}
            more["output_hidden_states"] = vlm.config.cell_fusion_weight is not None
        output = self._pass(ids, positions, past, keep=1, **more)
        self.last = output.logits[0, -1].float()
        self._hidden_states = output.hidden_states

    @torch.inference_mode()
    def cell_logits(self, tokens: Sequence[int]) -> torch.Tensor | None:
        """(cells, len(tokens)) float32 logits of the photo's cells, where the checkpoint lets them count
        (`CheckpointConfig.cell_fusion_weight`), else None."""
        if self._hidden_states is None:
            return None
        return cell_logits(self.vlm.model, self._hidden_states, self.vlm.cells, tokens)[0].float()

    @torch.inference_mode()
    def _pass(self, ids: Sequence[int], positions: Sequence[int], past: int, keep: int, **more: Any) -> Any:
        device = self.vlm.device
        inputs = {"attention_mask": torch.ones(1, past + len(ids), dtype=torch.long, device=device), **more}
        return self.vlm.model(
            input_ids=torch.tensor([list(ids)], device=device),
            position_ids=torch.tensor([list(positions)], device=device),
            cache=self.cache,
            use_cache=True,
            logits_to_keep=keep,
            **inputs,
        )

    @torch.inference_mode()
    def _text_pass(self, ids: Sequence[int], positions: Sequence[int], sees: torch.Tensor) -> torch.Tensor:
        """(len(ids), V) float32 logits from the language model alone: less work than a pass through the whole."""
        model, device = self.vlm.model, self.vlm.device
        states = model.get_decoder()(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=sees.to(device),
            cache=self.cache,
            use_cache=True,
        ).last_hidden_state
        return model.get_output_embeddings()(states)[0].float()

    def feed(self, ids: Sequence[int], beside: Sequence[int] = (), shared: int = 0) -> torch.Tensor:
        """One pass; (len(ids) + len(beside), V) float32 logits, row i follows token i of both in turn.

        `beside` goes on behind the first `shared` of `ids`, does not see the others, and leaves the cache again.
        """
        past, positions, both = self.length + len(self.fed), self._positions(ids), [*ids, *beside]
        if beside:
            positions += self._positions([*ids[:shared], *beside])[shared:]
        if beside or self.vlm.config.positions == "cells":
            logits = self._text_pass(both, positions, _two_continuations(past, len(ids), len(beside), shared))
        else:
            logits = self._pass(both, positions, past, keep=0).logits[0].float()
        if beside:
            self.cache.crop(-len(beside))
        self.fed += ids
        self.forwards += 1
        self.last = logits[len(ids) - 1]
        return logits

    def _positions(self, ids: Sequence[int]) -> list[int]:
        """Of body tokens that come next."""
        return self.vlm.answer_positions([*self.opening, *self.fed, *ids], self.start)[-len(ids) :]

    def crop(self, n: int) -> None:
        """Keeps the first n body tokens."""
        if n < len(self.fed):
            self.cache.crop(n - len(self.fed))  # a negative number: how many to remove
            del self.fed[n:]


def _two_continuations(past: int, first: int, second: int, shared: int) -> torch.Tensor:
    """(1, 1, first + second, past + first + second) bool: all see the past and their own; of the first one's tokens the
    second one sees the first `shared`."""
    sees = torch.ones(first + second, past + first + second, dtype=torch.bool).tril(past)
    sees[first:, past + shared : past + first] = False
    return sees[None, None]
