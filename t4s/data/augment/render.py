"""A view as a picture, made with Pillow. `training.resident.render` does the same in batches, on any device."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageEnhance, ImageFilter

from t4s.data.augment.views import Light, Part, View


def render(view: View, photo: Callable[[int], Image.Image]) -> Image.Image:
    """The picture of `view`. photo: number → RGB, of any size."""
    image = _part(view.parts[0], photo) if len(view.parts) == 1 else None
    if image is None or image.size != view.size:
        image = Image.new("RGB", view.size)
        for part in view.parts:
            image.paste(_part(part, photo), part.place[:2])
    if view.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return relight(image, view.light)


def _part(part: Part, photo: Callable[[int], Image.Image]) -> Image.Image:
    """A part of a photo at the size at which it is shown."""
    image = photo(part.photo)
    x0, y0, x1, y1 = part.place
    # Rounded, so that a box of whole pixels is one again, and never reaches beyond the photo by a rounding error.
    box = tuple(round(share * side, 6) for share, side in zip(part.box, image.size * 2, strict=True))
    return image.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR, box=box)


def relight(image: Image.Image, light: Light) -> Image.Image:
    """The picture in another light."""
    if light.brightness != 1:
        image = ImageEnhance.Brightness(image).enhance(light.brightness)
    if light.saturation != 1:
        image = ImageEnhance.Color(image).enhance(light.saturation)
    if light.contrast != 1:
        image = ImageEnhance.Contrast(image).enhance(light.contrast)
    if light.grey:
        image = image.convert("L").convert("RGB")
    if light.blur:
        image = image.filter(ImageFilter.GaussianBlur(light.blur))
    if light.coarse != 1:
        small = image.resize([max(1, round(side * light.coarse)) for side in image.size], Image.Resampling.BILINEAR)
        image = small.resize(image.size, Image.Resampling.BILINEAR)
    return image
