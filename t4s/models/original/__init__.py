"""Checkpoints in the original LLaVA layout, converted once to a folder that transformers and t4s load.

known.json   published checkpoints: id → grid, templates, licence
layout.py    what such a checkpoint's config says, and the name of each tensor in the converted folder
shards.py    tensors of a checkpoint one at a time, and the shards that are written
adapter.py   a LoRA adapter of the original code, merged tensor by tensor
convert.py   a folder → a converted folder; the converted copy of a known Hub id
"""
