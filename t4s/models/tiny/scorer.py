"""What the embedded checkpoint adds to the logits of its text: cell scores, and the no-target decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t4s import codec
from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import AllowedTokens, Constraint
from t4s.decoding.grammar import State
from t4s.models.tiny import no_target
from t4s.models.tiny.cell_scores import MARGIN, CellFusion, cell_similarity, iou_margins

if TYPE_CHECKING:
    from t4s.models.vlm import VLM, DecoderState, EncodedImage


class TinyScorer:
    """A `decoding.TokenScorer` for one answer.

    fusion  scores of the photo's cells, where they count
    rule    when the target is absent; None: where greedy decoding writes the empty answer
    """

    def __init__(self, constraint: Constraint, fusion: CellFusion | None = None, rule: no_target.Rule | None = None):
        self.constraint, self.fusion, self.rule = constraint, fusion, rule
        self.no_target: float | None = None
        self.label_scores = None if fusion is None else fusion.logits
        self._must_draw: int | None = None  # the row that must show something, where greedy decoding draws nothing

    def candidate(self) -> str | None:
        """The empty answer, where there is a rule for it."""
        if self.rule is None:
            return None
        shape, labels = self.constraint.grammar.shape, self.constraint.labels
        return codec.encode(codec.DescriptorGrid(np.zeros(shape, int), labels))

    def review(self, picks: Sequence[Pick]) -> int:
        """All of the empty answer if the target is absent by the rule; if not, something will be drawn.

        Where greedy decoding would draw nothing, that is after the empty rows above the one in which drawing most
        probably begins.
        """
        assert self.rule is not None
        rows = no_target.empty_rows(self.constraint, picks)
        self.no_target = self.rule.probability(rows)
        if self.no_target >= self.rule.above:
            return len(picks)
        if not self._stays_empty(picks):
            return 0
        self._must_draw = no_target.first_drawn(rows)
        return no_target.rows_of(self.constraint, picks).index(self._must_draw)

    def _stays_empty(self, picks: Sequence[Pick]) -> bool:
        """Whether greedy decoding, with the cells' scores, would write the empty answer."""
        state = self.constraint.start
        for pick in picks:
            if int(self._fused(state, pick.choice, pick.logits).argmax()) != pick.best:
                return False
            rows, following = pick.choice.states[pick.best]
            state = following._replace(row=state.row + rows)
        return True

    def _fused(self, state: State, allowed: AllowedTokens, logits: np.ndarray) -> np.ndarray:
        return logits if self.fusion is None else logits + self.fusion.scores(state, allowed)

    def choose(self, state: State, allowed: AllowedTokens, logits: np.ndarray, written: str) -> tuple[np.ndarray, int]:
        """The logits with the cells' scores, and the best token: of those that still draw, in the row that must."""
        fused = self._fused(state, allowed, logits)
        if self._must_draw is None or state.row > self._must_draw:
            return fused, int(fused.argmax())
        drawing = no_target.can_draw(self.constraint, allowed, written, self._must_draw)
        return fused, int(np.where(drawing, fused, -np.inf).argmax())


def scorer_for(
    vlm: VLM, encoded: EncodedImage, decoder: DecoderState, query: str | tuple[str, ...], constraint: Constraint
) -> TinyScorer | None:
    """What this checkpoint adds to the answer that `decoder` is about to write; None: nothing."""
    config, fusion, rule = vlm.config, None, None
    if config.no_target_threshold is not None:
        rule = no_target.Rule(config.no_target_threshold, cell_similarity(vlm, encoded, query))
    logits = decoder.cell_logits(vlm.first_token_ids(constraint.labels))
    if logits is not None:
        logits = logits.cpu().double().numpy().reshape(*config.grid, -1)
        if rule is not None and len(constraint.labels) == 2:  # the one target is there when cells are asked where
            logits = logits + MARGIN * iou_margins(logits)
        fusion = CellFusion(constraint.grammar, logits, config.cell_fusion_weight)
    return None if fusion is None and rule is None else TinyScorer(constraint, fusion, rule)
