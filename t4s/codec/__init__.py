r"""Masks as text: conversions between pixel masks, descriptor grids and text. numpy only, no model.

    labels    what a label may be, and how to clean one
    coverage  how much of each cell each class covers
    grid      `DescriptorGrid`; pixel masks and class maps to grids and back
    rle       grids to text and back, strictly
    repair    the grid that malformed text most plausibly means, with a list of its faults

The image is divided into H×W cells; every cell has one label; the labels are written as text, row by row.
The rest of this docstring specifies the format.

**Labels.** Label 0 is always `others`, the background, found by its name and never by its position in a
list. Any other label is a phrase ("the dog on the left") or a class name. A label is *clean* when
`clean_label` leaves it as it is: not empty; no `|`, `*`, `<`, `>`; no line break or other control
character; words separated by single spaces, none at the ends; not the word `others` in any letter case.
A target that is absent is a grid of `others` alone; one that fills the frame is a grid without `others`.

**The `rows` layout** (R-RLE, what the models write):

    text  = row { "\n " row } "\n"          exactly H rows; every later row begins with one space
    row   = run { "| " run }                the counts of a row add up to W
    run   = label " *" count                neighbouring runs of a row differ in label
    count = "1"…"9" { "0"…"9" }             always written, at least 1, no leading zero, ASCII digits

A 3×6 grid with a dog in the middle of its second row. (Models wrap the text in `<seg>` and `</seg>`;
`encode` does not write these tags and `decode` does not accept them.)

    "others *6\n others *2| dog *3| others *1\n others *6\n"

**The `image` layout** (I-RLE): the same runs over the flattened grid (row by row), on one line; a run may
continue into the next row. The text does not contain the shape, so `decode` needs it as an argument:

    "others *8| dog *3| others *7\n"

**The `full` layout**: rows and line breaks as in `rows`, the label of every cell in full, no counts:

    "others| others| others| others| others| others\n others| others| dog| dog| dog| others\n …\n"

**From pixels to cells.** Cell (r, c) is the region [r·h/H, (r+1)·h/H) × [c·w/W, (c+1)·w/W) of an h×w map,
to exact fractions of a pixel, so any image size works with any grid. The cell takes the label that covers
most of it (ties go to the lower id, `others` first; a cell with ignored pixels only is `others`). A label
that is present but wins no cell gets the cell that it covers best, so a small object never disappears.

**Positions.** `row` and `column` of an error or a `Fault` count cells from 0, from the top left corner.
"""

from t4s.codec.grid import DescriptorGrid, grid_from_classes, grid_from_mask, mask_from_grid
from t4s.codec.labels import OTHERS, clean_label
from t4s.codec.repair import Fault, repair
from t4s.codec.rle import LAYOUTS, decode, encode

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
