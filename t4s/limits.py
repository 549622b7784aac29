"""Every limit in one place: name, value and reason."""

from __future__ import annotations

MAX_PIXELS = 40_000_000  # a photo; checked before it is decoded
MAX_BYTES = 20_000_000  # an image file
MAX_QUERY = 200  # characters of a phrase
MAX_LABELS = 64  # names of a class list in the app (the library accepts longer lists)
MAX_SIDE = 64  # cells per side of a grid
MAX_TEXT = 200_000  # characters of a text pasted into the app (the library reads longer texts)
MAX_BATCH = 256  # photos times phrases of one batch in the app
MIN_PART = 16  # pixels: smaller connected parts of a mask are specks, not listed and not outlined
MAX_PARTS = 64  # connected parts that are listed for a label
MAX_QUESTION = 2_000  # characters of a question to a checkpoint that chats
MAX_ANSWER = 2_048  # tokens of a free answer: some ten grids of 16×16
MAX_VOCABULARY = 1_000_000  # tokens of a model: a pass has a number for each, after each of up to a thousand tokens
MAX_SAM_PARAMETERS = 700_000_000  # of a SAM as refiner: SAM's largest has 641 million
MAX_SAM_SIDE = 1_024  # pixels per side of what a SAM sees
MAX_SAM_TOKENS = 4_096  # image tokens that attend to each other in a SAM
MAX_SAM_NUMBER = 16_384  # any number in a SAM's configuration, widths included
MAX_SAMS = 4  # SAMs that are kept in memory, and that an operator may offer
MAX_SECONDS = 25  # the app writes an answer to a phrase; then it ends, truncated, with what there is
MAX_LIST_SECONDS = 110  # the same for a list of names
MAX_TOKENS = 8_192  # tokens of an answer in the app, after which it ends likewise
QUEUE_PLACES = 64  # calls that wait in the app at most; the next one is refused
MAX_PLACES = 16  # of them for one client
MAX_LISTEN_SECONDS = 20  # a waiting call that nobody listens to is kept; until someone does it does not run
MAX_BODY = 30_000_000  # bytes of a request: an image file of MAX_BYTES as a data: URL
MAX_UPLOAD = 1_000_000_000  # bytes of an upload, which may hold the photos of a batch
MAX_UPLOAD_SECONDS = 1_800  # for an upload to arrive
MAX_STORED = 5_000_000_000  # bytes of uploads and answers that the app keeps on disk; the oldest files go first
MAX_FETCH_SECONDS = 15  # for a web address to deliver its file
