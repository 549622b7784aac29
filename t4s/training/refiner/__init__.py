"""Training of the learned refiner `edge` (`t4s train-edge`).

train         the command line: settings and the run
training      network, running average, optimizer and state; the loss and the validation
batches       batches of photos of one shape, with several masks of each
samples       the photos of the data sets and their true masks, kept packed in memory
corruption    true masks to coarse grids with errors such as models make
model_grids   what a model really wrote about photos with true masks
"""
