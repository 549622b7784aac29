"""What the page shows, as plain data: a prediction, a pasted text or a photo → what `assets/app/view.js` draws.

    panels     the value of the three panels: a photo, a growing answer, a finished one
    parts      the connected parts of the masks, and an answer without some of them
    runs       a text cut into runs, each with the cells that it covers
    text       a pasted text, and a mask file, as grid and text
    wording    the headline and the figures below the panels, in words
    pictures   previews, thumbnails, pictures as data URLs and HTML; a batch's progress and table

Knows no browser and no gradio. Strings go to the browser unchanged, and the script inserts them as text and never as
HTML: model text is untrusted.
"""

from t4s.app.views.panels import finished_view, growing_view, photo_view, waiting_view
from t4s.app.views.parts import part_map, without_parts
from t4s.app.views.pictures import (
    TABLE,
    captioned,
    figures,
    preview,
    progress,
    query_text,
    small_picture,
    table,
    thumbnail,
)
from t4s.app.views.runs import runs
from t4s.app.views.text import names, read_text, sample_view, write_text
from t4s.app.views.wording import SHOWN_FAULTS, facts, headline

__all__ = [
    "SHOWN_FAULTS",
    "TABLE",
    "captioned",
    "facts",
    "figures",
    "finished_view",
    "growing_view",
    "headline",
    "names",
    "part_map",
    "photo_view",
    "preview",
    "progress",
    "query_text",
    "read_text",
    "runs",
    "sample_view",
    "small_picture",
    "table",
    "thumbnail",
    "waiting_view",
    "without_parts",
    "write_text",
]
