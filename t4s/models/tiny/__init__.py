"""What only the embedded architecture has.

architecture    tokenizer, processor and a fresh model
vision_tower    the convolutional tower: one vector per cell, registered with transformers' Auto classes
name_head       projector and name vectors that training the tower leaves for the language model
cell_positions  position ids that say which cell is written next
cell_scores     shallow fusion: per-cell label scores added to the token logits
scorer          what both add to an answer under way
no_target       no-target decision: P(all background) compared with a threshold
"""
