"""Pictures of what the model sees and answers: overlays, grids, contact sheets.

Every function returns a new `PIL.Image`. The first colours can be distinguished with any colour vision: Okabe and
Ito's palette ("Color universal design", 2008), then lighter and darker variants of it; outlines and cell lines show
the shapes where colours do not. Text is set in Pillow's built-in font.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from t4s.codec import DescriptorGrid, mask_from_grid

Colour = tuple[int, int, int]

OTHERS_COLOUR: Colour = (221, 221, 221)
INK: Colour = (20, 20, 20)
PAPER: Colour = (255, 255, 255)
LINE: Colour = (120, 120, 120)
_BASE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
)
_SHADES = (0.0, 0.45, -0.4, 0.7, -0.6, 0.25, -0.2, 0.85, -0.75)  # towards white (+) or black (-), one per cycle


def colour(index: int) -> Colour:
    """The colour of label `index` (0 is "others", a light grey), 0 to 255 each. Distinct for the first 63 labels."""
    if index == 0:
        return OTHERS_COLOUR
    cycle, base = divmod(index - 1, len(_BASE))
    shift = _SHADES[cycle % len(_SHADES)]
    goal = 255 if shift > 0 else 0
    return tuple(round(value + abs(shift) * (goal - value)) for value in _BASE[base])


def label_colours(grid: DescriptorGrid) -> dict[str, Colour]:
    """{label: colour}: those that the grid shows have the first colours, which differ most; absent ones follow."""
    seen = set(np.unique(grid.ids).tolist()) - {0}
    order = sorted(range(1, len(grid.labels)), key=lambda index: index not in seen)
    places = {0: 0} | {index: place for place, index in enumerate(order, 1)}
    return {label: colour(places[index]) for index, label in enumerate(grid.labels)}


def overlay(
    photo: Image.Image | np.ndarray,
    masks: Mapping[str, np.ndarray] | DescriptorGrid,
    opacity: float = 0.5,
    outline: bool = True,
    colours: Mapping[str, Colour] | None = None,
) -> Image.Image:
    """The photo with the area of every label tinted; `outline` draws the edges in full colour.

    `photo` is RGB, an image or uint8 (h, w, 3). `masks` {label: (h, w) bool} at its size, or a grid, drawn as cells.
    Labels have the colours of their order, from `colour(1)` on; `colours` overrides them by label. `opacity` goes from
    0 (photo) to 1 (solid colour).
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


def grid_picture(
    grid: DescriptorGrid,
    photo: Image.Image | np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    lines: bool = True,
) -> Image.Image:
    """The grid as coloured cells, alone or over the photo.

    `confidence` (H, W) in [0, 1] becomes opacity: an uncertain cell is pale. `size` = (h, w) in pixels; by default
    that of the photo, or else 24 pixels a cell. Over a photo "others" is transparent. `lines` between cells are left
    out if cells are narrower than 4 pixels.
    """
    if photo is None:
        size = size or (24 * grid.shape[0], 24 * grid.shape[1])
        canvas = Image.new("RGB", size[::-1], PAPER)
    else:
        canvas = Image.fromarray(photo) if isinstance(photo, np.ndarray) else photo.convert("RGB")
        canvas = canvas.resize(size[::-1]) if size and size != canvas.size[::-1] else canvas
        size = canvas.size[::-1]
    strength = np.ones(grid.shape) if confidence is None else np.asarray(confidence, float).clip(0, 1)
    if photo is not None:
        strength = np.where(grid.ids == 0, 0, 0.6 * strength)
    cells = np.array(list(label_colours(grid).values()), np.uint8)[grid.ids]
    alpha = Image.fromarray((255 * strength).round().astype(np.uint8)).resize(canvas.size, Image.Resampling.NEAREST)
    canvas = Image.composite(Image.fromarray(cells).resize(canvas.size, Image.Resampling.NEAREST), canvas, alpha)
    if lines and min(size[0] / grid.shape[0], size[1] / grid.shape[1]) >= 4:
        draw = ImageDraw.Draw(canvas)
        for row in range(1, grid.shape[0]):
            y = round(row * size[0] / grid.shape[0])
            draw.line([(0, y), (size[1], y)], fill=LINE)
        for column in range(1, grid.shape[1]):
            x = round(column * size[1] / grid.shape[1])
            draw.line([(x, 0), (x, size[0])], fill=LINE)
    return canvas


def sheet(
    tiles: Sequence[Sequence[tuple[str, Image.Image] | None]],
    tile: tuple[int, int] = (192, 256),
    title: str = "",
    font_size: int = 14,
) -> Image.Image:
    """Rows of (caption, picture) as one picture; None leaves a gap. Pictures are scaled to fit `tile` = (h, w)."""
    font = ImageFont.load_default(font_size)
    gap = 6
    bar = font_size + 8
    head = 2 * font_size if title else 0
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
            left = gap + column * (tile[1] + gap)
            top = head + gap + row * (tile[0] + bar + gap)
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
    """(h, w) bool: the pixels of `mask` at most `width` steps (rows plus columns) away from one outside it."""
    return mask & ~ndimage.binary_erosion(mask, iterations=width, border_value=1)


def _cell_masks(grid: DescriptorGrid, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return {label: mask_from_grid(grid, label, size) for label in grid.labels[1:]}
