"""Training: from photos with masks to a checkpoint, its model card, and the Hub.

config       TrainConfig: the settings of a run, and the defaults of each kind of training
arguments    the command line of train.py
run          one run, from its settings to the finished checkpoint
model        the model that training starts from; what of it is frozen
collator     samples to batches: questions that share a photo's tokens, labels, masks, positions
losses       the loss of the answers, and that of labelled cells
trainer      transformers' Trainer for numbered draws; states, failures in words
lora         adapters
saving       what an earlier run left in --out; checkpoints, written completely or not at all; the model card

progress/    the clock of --minutes, the average of the weights, photos a second, --dry-run
resident/    training on a GPU with all photos there
tower/       the embedded model's vision tower, trained before a language model reads it (`t4s train-tower`)
refiner/     the learned refiner (`t4s train-edge`)
"""
