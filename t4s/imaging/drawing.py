"""Pictures of what the model sees and says: overlays, cut-outs, grids, confidence, sheets.

Every function gives a new `PIL.Image`. Colours are told apart with any colour vision as far as few labels go:
Okabe and Ito's eight ("Color universal design", 2008) first, then lighter and darker turns of them; outlines and
cell lines carry the shapes where colours fail. Text is set in Pillow's built-in font.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t4s.codec import DescriptorGrid, mask_from_grid

Colour = tuple[int, int, int]

OTHERS_COLOUR: Colour = (221, 221, 221)
_BASE: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_TURNS = (0.0, 0.45, -0.4, 0.7, -0.6, 0.25, -0.2, 0.85, -0.75)  # towards white (+) or black (-), one a round
INK, PAPER, LINE = (20, 20, 20), (255, 255, 255), (120, 120, 120)


def colour(index: int) -> Colour:
    """The colour of label `index` (0 is "others", a light grey), 0 to 255 each. Distinct for the first 63 labels."""
    if index == 0:
        return OTHERS_COLOUR
    turn, base = divmod(index - 1, len(_BASE))
    shift = _TURNS[turn % len(_TURNS)]
    goal = 255 if shift > 0 else 0
    return tuple(round(value + abs(shift) * (goal - value)) for value in _BASE[base])


def palette(count: int) -> list[Colour]:
    """The colours of labels 0 to `count` - 1."""
    return [colour(index) for index in range(count)]


def label_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """{label: its colour}, by its place in `labels`: with a grid's labels an overlay matches the grid's picture."""
    return {label: colour(index) for index, label in enumerate(labels)}


def overlay(
    photo: Image.Image | np.ndarray,
    masks: Mapping[str, np.ndarray] | DescriptorGrid,
    opacity: float = 0.5,
    outline: bool = True,
    colours: Mapping[str, Colour] | None = None,
) -> Image.Image:
    """The photo with every label's area tinted; `outline` draws the edges in full colour.

    `masks` {label: (h, w) bool} at the photo's size, or a grid (painted as its cells). Labels take the colours of
    their order, from `colour(1)`; `colours` overrules it by label. `opacity` from 0 (photo) to 1 (flat colour).
    """
    if isinstance(masks, DescriptorGrid):
        masks = _cell_masks(masks, np.asarray(photo).shape[:2])
    canvas = np.array(photo if isinstance(photo, np.ndarray) else photo.convert("RGB"), np.float32)
    width = max(1, round(max(canvas.shape[:2]) / 400))
    for index, (label, mask) in enumerate(masks.items(), 1):
        tint = np.array((colours or {}).get(label, colour(index)), np.float32)
        canvas[mask] += (tint - canvas[mask]) * opacity
        if outline:
            canvas[_edge(mask, width)] = tint
    return Image.fromarray(canvas.round().astype(np.uint8))


def cut_out(photo: Image.Image | np.ndarray, mask: np.ndarray) -> Image.Image:
    """The photo's pixels inside `mask` (h, w) bool, on nothing: RGBA at the photo's size, alpha 0 outside."""
    pixels = np.asarray(photo if isinstance(photo, np.ndarray) else photo.convert("RGB"))
    return Image.fromarray(np.dstack([pixels * mask[..., None].astype(np.uint8), mask * np.uint8(255)]), "RGBA")


def grid_picture(
    grid: DescriptorGrid,
    photo: Image.Image | np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    lines: bool = True,
) -> Image.Image:
    """The grid as coloured cells, alone or over the photo.

    `confidence` (H, W) in [0, 1] becomes opacity: a doubtful cell is pale. `size` = (h, w) in pixels; the photo's
    by default, else 24 pixels a cell. Over a photo "others" is left clear. Where cells are under 4 pixels wide no
    `lines` are drawn.
    """
    if photo is None:
        size = size or tuple(24 * side for side in grid.shape)
        canvas = Image.new("RGB", size[::-1], PAPER)
    else:
        canvas = Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo.convert("RGB")
        canvas = canvas.resize(size[::-1]) if size and size != canvas.size[::-1] else canvas
        size = canvas.size[::-1]
    strength = np.ones(grid.shape) if confidence is None else np.asarray(confidence, float).clip(0, 1)
    if photo is not None:
        strength = np.where(grid.ids == 0, 0, 0.6 * strength)
    cells = np.array(palette(len(grid.labels)), np.uint8)[grid.ids]
    alpha = Image.fromarray((255 * strength).round().astype(np.uint8)).resize(canvas.size, Image.Resampling.NEAREST)
    canvas = Image.composite(Image.fromarray(cells).resize(canvas.size, Image.Resampling.NEAREST), canvas, alpha)
    if lines and min(size[0] / grid.shape[0], size[1] / grid.shape[1]) >= 4:
        draw = ImageDraw.Draw(canvas)
        for row in range(1, grid.shape[0]):
            draw.line([(0, y := round(row * size[0] / grid.shape[0])), (size[1], y)], fill=LINE)
        for column in range(1, grid.shape[1]):
            draw.line([(x := round(column * size[1] / grid.shape[1]), 0), (x, size[0])], fill=LINE)
    return canvas


def confidence_picture(confidence: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """`confidence` (H, W) in [0, 1] as grey cells, white for sure; `size` = (h, w) pixels."""
    grey = (255 * np.asarray(confidence, float).clip(0, 1)).round().astype(np.uint8)
    return Image.fromarray(grey).resize(size[::-1], Image.Resampling.NEAREST).convert("RGB")


def legend(labels: Sequence[str], width: int = 320, font_size: int = 14) -> Image.Image:
    """The colour of every label, in order from 0; names that are too long for `width` are cut with an ellipsis."""
    font, line = ImageFont.load_default(font_size), font_size + 8
    picture = Image.new("RGB", (width, line * max(1, len(labels))), PAPER)
    draw = ImageDraw.Draw(picture)
    for index, label in enumerate(labels):
        top = index * line
        draw.rectangle((4, top + 4, font_size, top + line - 5), fill=colour(index), outline=LINE)
        draw.text((line, top + line / 2), _fitted(label, width - line - 4, font), INK, font, anchor="lm")
    return picture


def sheet(
    tiles: Sequence[Sequence[tuple[str, Image.Image] | None]],
    tile: tuple[int, int] = (192, 256),
    title: str = "",
    font_size: int = 14,
) -> Image.Image:
    """Rows of (caption, picture) as one picture; None leaves a gap. Pictures are fitted into `tile` = (h, w)."""
    font, gap = ImageFont.load_default(font_size), 6
    bar, head = font_size + 8, 2 * font_size if title else 0
    columns = max((len(row) for row in tiles), default=0)
    size = columns * (tile[1] + gap) + gap, head + len(tiles) * (tile[0] + bar + gap) + gap
    picture = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(picture)
    if title:
        draw.text((gap, head / 2), _fitted(title, size[0] - 2 * gap, font), INK, font, anchor="lm")
    for row, cells in enumerate(tiles):
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            left, top = gap + column * (tile[1] + gap), head + gap + row * (tile[0] + bar + gap)
            draw.text((left, top + bar / 2), _fitted(cell[0], tile[1], font), INK, font, anchor="lm")
            small = _fit_into(cell[1].convert("RGB"), tile)
            picture.paste(small, (left + (tile[1] - small.width) // 2, top + bar + (tile[0] - small.height) // 2))
    return picture


def _fit_into(picture: Image.Image, tile: tuple[int, int]) -> Image.Image:
    scale = min(tile[0] / picture.height, tile[1] / picture.width)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _edge(mask: np.ndarray, width: int) -> np.ndarray:
    """(h, w) bool: the pixels of `mask` within `width` pixels (rows and columns) of one that is not in it."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1, constant_values=True)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _cell_masks(grid: DescriptorGrid, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {label: mask_from_grid(grid, label, size) for label in grid.labels[1:]}
