"""Training of the embedded model's vision tower, before a language model reads it (`t4s train-tower`).

train        the command line: settings, data, the run
classifier   tower and name head as one module whose output is the cell loss
"""
