"""Every limit, once: its name, its value and why."""

from __future__ import annotations

MAX_PIXELS = 40_000_000  # a photo; checked before it is decoded
MAX_BYTES = 20_000_000  # an image file
MAX_QUERY = 200  # characters of a phrase
MAX_LABELS = 64  # names of a class list in the app (the library takes longer ones)
MAX_SIDE = 64  # cells per side of a grid
MAX_TEXT = 200_000  # characters of a text that is pasted into the app (the library reads longer ones)
MAX_BATCH = 256  # photos times phrases of one batch in the app
MAX_QUESTION = 2_000  # characters of a question to a checkpoint that chats
MAX_ANSWER = 2_048  # tokens of a free answer: some ten grids of 16×16
