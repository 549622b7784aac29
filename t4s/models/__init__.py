"""Models: a checkpoint's files, loading it, and one vision-language model at work.

checkpoint    `t4s.json`, and where a checkpoint's files are (embedded, local, Hub)
loading       weights and processor → VLM; what does not fit is a CheckpointError
trial         chat templates and adapter patterns, tried in a process of its own: they may be endless
vlm           VLM: chat inputs, position ids, caches; one answer's place in its cache
create        the model that training starts from: a fresh one, or a base
efficientnet  EfficientNet-Lite blocks, shared by the vision tower and the edge refiner
original/     checkpoints in the original LLaVA layout, converted: `t4s import`
plain         a plain transformers folder, adapters merged: `t4s export`
tiny/         what only the embedded architecture has
"""
