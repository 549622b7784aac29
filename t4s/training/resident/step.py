"""The loss of a batch whose pictures are rendered on the device.

The forward pass is that of the model's own, written out for the embedded architecture: a picture goes through the tower
once, however many questions it has, and the language model's head sees only the tokens that are followed by a learned
one. Every number that has to be known on the host comes with the batch, so that nothing here waits for the device.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from t4s.models.tiny.cell_scores import cell_logits
from t4s.models.vlm import VLM
from t4s.training.collator import attention_mask, nearby_mask
from t4s.training.losses import CELL_LOSS_WEIGHT, IMAGE_TOKEN_WEIGHT, class_logits
from t4s.training.resident.album import Album
from t4s.training.resident.batches import CellTargets
from t4s.training.resident.rendering import normalised, render


class ResidentStep:
    """`step(batch, count)`: the loss of a batch of `ResidentCollator`, on the album's device.

    empty_row_weight: see `losses.token_loss`. targets: of the collator, None without --cell-loss-data. accumulate:
    batches per step of the optimizer.
    """

    def __init__(
        self,
        vlm: VLM,
        album: Album,
        empty_row_weight: float,
        bf16: bool,
        targets: CellTargets | None = None,
        accumulate: int = 1,
    ):
        self.cell_weight = CELL_LOSS_WEIGHT / accumulate
        self.vlm, self.album, self.empty_row_weight, self.bf16 = vlm, album, empty_row_weight, bf16
        device = album.photos.device
        self.full_width = vlm.text_ids(f"others *{vlm.config.grid[1]}\n")[-1]
        self.asked = None if targets is None else targets.asked.to(device)

    def __call__(self, batch: dict[str, Any], count: Tensor | int) -> Tensor:
        """The loss of the answers, over `count` learned labels of the whole step, and the cell loss."""
        device = self.album.photos.device
        with torch.no_grad():
            side = self.vlm.config.image_size
            pixels = normalised(render(self.album.photos, self.album.sizes, batch["views"], side))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            cells = self.cells(pixels)
            loss = self.answers(cells.index_select(0, batch["picture"]), batch) / count
        if self.asked is not None:
            loss = loss + self.cell_weight * self.cell_loss(cells, batch["cells"])
        return loss

    def cells(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, cells, width): what the language model reads."""
        tower = self.vlm.model.get_encoder("image")
        return self.vlm.model.model.multi_modal_projector(tower.neck(*tower.body(pixels)))

    def answers(self, cells: Tensor, batch: dict[str, Any]) -> Tensor:
        """The summed loss of all learned labels of R rows: of the cells' (R, cells, width), and of the answers'."""
        model, count = self.vlm.model, cells.shape[1]
        words = model.get_input_embeddings()(batch["input_ids"][:, count:])
        mask = attention_mask(batch["segments"], self.vlm.bidirectional_prefix)
        near = nearby_mask(batch["segments"], batch["position_ids"], batch["nearby_columns"], count)
        mask = torch.cat([mask[:, :, :count] & near, mask[:, :, count:]], 2)
        outputs = model.get_decoder()(
            inputs_embeds=torch.cat([cells.to(words.dtype), words], 1),
            attention_mask=mask[:, None],
            position_ids=batch["position_ids"],
            output_hidden_states=True,
            use_cache=False,
        )
        logits = cell_logits(model, outputs.hidden_states, count)
        of_cells = F.cross_entropy(logits.flatten(0, 1).float(), batch["labels"][:, :count].flatten(), reduction="sum")
        states = outputs.last_hidden_state.flatten(0, 1).index_select(0, batch["predicting"])
        losses = F.cross_entropy(model.get_output_embeddings()(states).float(), batch["target"], reduction="none")
        losses = torch.where(batch["target"] == self.full_width, losses * self.empty_row_weight, losses)
        return IMAGE_TOKEN_WEIGHT * of_cells + losses.sum()

    def cell_loss(self, cells: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """`losses.cell_loss` of the pictures that are labelled in full, from the cells of the answers' pass."""
        embeddings = self.vlm.model.get_input_embeddings().weight
        vectors = F.embedding_bag(targets["words"], embeddings, targets["offsets"], mode="mean")
        logits = class_logits(cells, vectors)
        shares = torch.zeros(logits.numel(), device=logits.device)
        shares = shares.index_copy(0, targets["entry"], targets["share"]).view_as(logits)
        weights = targets["labelled"][..., None] * self.asked.index_select(0, targets["source"])[:, None]
        losses = F.binary_cross_entropy_with_logits(logits, shares, weights, reduction="sum")
        return losses / (targets["pictures"].clamp(min=1) * cells.shape[1])
