r"""Masks as text: the format, its grid, and the ways between them. Knows numpy, and no model.

A photo is cut into H×W cells; every cell carries one label; the labels are written as text, row by row.
This docstring is the format's specification.

**Labels.** Label 0 is always `others`, the background, found by its name and never by its position in a
list. Any other label is a phrase ("the dog on the left") or a class name. A label is *clean* when
`clean_label` leaves it as it is: not empty; no `|`, `*`, `<`, `>`; no line break or other control
character; words parted by one plain space, none at the ends; not the word `others` in any letter case.
A target that is absent is a grid of `others` alone; one that fills the frame is a grid without `others`.

**The `rows` layout** (R-RLE, what the models write):

    text  = row { "\n " row } "\n"          exactly H rows; every later row begins with one space
    row   = run { "| " run }                the counts of a row add up to W
    run   = label " *" count                neighbouring runs of a row differ in label
    count = "1"…"9" { "0"…"9" }             always written, at least 1, no leading zero, ASCII digits

A 3×6 grid with a dog in the middle of its second row, which a model wraps in `<seg>` and `</seg>`
(plain text, and no part of what `encode` writes or `decode` reads):

    "others *6\n others *2| dog *3| others *1\n others *6\n"

**The `image` layout** (I-RLE): the same runs over the flattened grid (row after row), in one line; runs
go on across row ends. The shape is not in the text, so `decode` must be told it:

    "others *8| dog *3| others *7\n"

**The `full` layout**: rows and line breaks as in `rows`, every cell's label written out, no counts:

    "others| others| others| others| others| others\n others| others| dog| dog| dog| others\n …\n"

**From pixels to cells.** Cell (r, c) is the part [r·h/H, (r+1)·h/H) × [c·w/W, (c+1)·w/W) of an h×w map,
to exact fractions of a pixel, so any photo goes with any grid. It takes the label that covers most of it
(a tie goes to the lower label, `others` first; a cell where nothing counts is `others`). A label that is
present but wins no cell keeps the cell that it covers best, so a small object never disappears.

**Places.** `row` and `column` of an error or a `Fault` count cells from 0, from the top left corner.
"""

from t4s.codec.grid import (
    LAYOUTS,
    OTHERS,
    DescriptorGrid,
    Fault,
    clean_label,
    decode,
    encode,
    grid_from_classes,
    grid_from_mask,
    mask_from_grid,
    repair,
)

__all__ = [
    "LAYOUTS",
    "OTHERS",
    "DescriptorGrid",
    "Fault",
    "clean_label",
    "decode",
    "encode",
    "grid_from_classes",
    "grid_from_mask",
    "mask_from_grid",
    "repair",
]
