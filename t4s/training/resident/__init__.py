"""Training with all photos on the device: how the embedded model is trained on a GPU.

Photos are decoded once and stay on the device as bytes; a step renders its pictures there, in one batch, from the
numbers that `data.augment` draws. Worker processes draw those numbers, the true grids and the tokens, and never open a
file. Nothing in a step makes the host wait for the device: whatever depends on values is computed by the workers.
Everything takes a device, so that the tests run it on a CPU. It has not yet been run on a GPU.

album      the photos on the device, and their labels in memory
rendering  views to pixels: what `data.augment.render` does, in batches, on any device
batches    draw numbers to a batch without pixels
step       the loss of such a batch, and the cell loss from the same forward pass
"""
