"""The network of the refiner `edge`: photo and coarse map to mask logits, for labels it was never trained on.

    features = net.encode(photo)               # (B, 3, s, t) in [0, 1] → feature maps that all labels share
    logits = net.draw(features, coarse)        # (N, 2, s, t) → (N, 1, s, t); N a multiple of B, photo by photo

s and t are multiples of 16. `coarse` holds the label's share of every pixel twice: smoothed (bicubic) and as flat
cells, both in [0, 1]; the two together tell the network where the cells lie. The encoder is EfficientNet-Lite0 up to
stride 16 with its batch normalisation folded away (`models.efficientnet`); the decoder goes back up in residual steps
at strides 16, 8, 4 and 2 and ends with a pixel shuffle. 0.6 M parameters.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t4s.assets import asset
from t4s.errors import CheckpointError
from t4s.models.efficientnet import (
    PIXEL_MEAN,
    PIXEL_STD,
    STAGES,
    FoldedConv,
    load_imagenet,
    make_stages,
    make_stem,
)

SIDE = 256  # pixels of the longer side of the network's input
STRIDE = 16  # the input's sides are multiples of this
ENCODER = STAGES["lite0"][:4]  # strides 2, 4, 8 and 16


class Mixer(nn.Module):
    """A wide depthwise convolution, then a perceptron per pixel, residual (after ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.spatial = _conv(width, width, 7, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + self.down(F.relu(self.up(y), inplace=True)).permute(0, 3, 1, 2)


class ConvPair(nn.Module):
    """Two 3×3 convolutions, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.first = _conv(width, width, 3)
        self.second = _conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x)), inplace=True))


class EdgeNet(nn.Module):
    """`widths`: channels of the decoder's steps at strides 16, 8, 4 and 2; `depths`: residual units in each."""

    def __init__(self, widths: tuple[int, ...] = (96, 48, 32, 16), depths: tuple[int, ...] = (4, 2, 2, 0)):
        super().__init__()
        self.config = {"widths": list(widths), "depths": list(depths)}
        self.stem = make_stem(FoldedConv)
        self.stages = make_stages(ENCODER, FoldedConv)
        channels = [stage.channels for stage in ENCODER]
        channels[0] += 12  # stride 2 also sees the pixels themselves
        self.sides = nn.ModuleList(_conv(c, width, 1) for c, width in zip(channels[::-1], widths, strict=True))
        self.masks = nn.ModuleList(_conv(8, width, 3) for width in widths)
        self.ups = nn.ModuleList(_conv(a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.steps = nn.ModuleList()
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            units = [Mixer(width, 3) if index < 2 else ConvPair(width) for _ in range(depth)]
            self.steps.append(nn.Sequential(*units))
        self.out = _conv(widths[-1], 4, 3)
        self._init_decoder()

    @torch.no_grad()
    def _init_decoder(self) -> None:
        """The encoder's values are around 5, and residual units begin as identities."""
        for side in self.sides:
            side.weight.mul_(0.1)
        for unit in self.modules():
            if isinstance(unit, Mixer):
                unit.down.weight.zero_()
            elif isinstance(unit, ConvPair):
                unit.second.weight.zero_()

    def encode(self, photo: Tensor) -> list[Tensor]:
        """(B, 3, s, t) in [0, 1] → feature maps at strides 16, 8, 4 and 2, of the widths of the decoder's steps."""
        pixels = ((photo - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)
        x = self.stem(pixels)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        outputs[0] = torch.cat([outputs[0], F.pixel_unshuffle(pixels, 2)], 1)
        return [side(x) for side, x in zip(self.sides, outputs[::-1], strict=True)]

    def draw(self, features: list[Tensor], coarse: Tensor) -> Tensor:
        """`features` of B photos and (N, 2, s, t) coarse maps, N / B per photo in turn → (N, 1, s, t) logits."""
        coarse = 2 * coarse.contiguous(memory_format=torch.channels_last) - 1
        sizes = [coarse]  # the coarse map at twice each step's resolution, 2×2 per position; the finest step first
        while len(sizes) < len(self.steps):
            sizes.append(F.avg_pool2d(sizes[-1], 2))
        x = None
        for i, (step, small) in enumerate(zip(self.steps, sizes[::-1], strict=True)):
            each = len(coarse) // len(features[i])
            side = features[i] if each == 1 else features[i].repeat_interleave(each, 0)
            y = side + self.masks[i](F.pixel_unshuffle(small, 2))
            if x is not None:
                y = y + F.interpolate(self.ups[i - 1](x), scale_factor=2, mode="bilinear", align_corners=False)
            x = step(y)
        return F.pixel_shuffle(self.out(F.relu(x)), 2)

    def forward(self, photo: Tensor, coarse: Tensor) -> Tensor:
        return self.draw(self.encode(photo), coarse)

    def load_imagenet(self, state: dict[str, Tensor]) -> None:
        """Fill the encoder from a state dict of `imagenet_weights`, its batch normalisation folded in."""
        load_imagenet(self.stem, self.stages, state)


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups)


def load(folder: str | Path | None = None) -> EdgeNet:
    """The network in `folder` (config.json, model.safetensors), or the one that is shipped; float32, for inference.

    Raises CheckpointError if it is missing or its weights do not fit.
    """
    from safetensors.torch import load_file

    folder = asset("t4s-edge") if folder is None else Path(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if not (config.is_file() and weights.is_file()):
        raise CheckpointError(
            f"{folder} holds no edge refiner: it needs config.json and model.safetensors, as train-edge writes them."
        )
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
        net = EdgeNet(tuple(settings["widths"]), tuple(settings["depths"]))
        net.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"The edge refiner in {folder} does not fit this version of t4s: {error}") from error
    return net.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def save(net: EdgeNet, folder: Path) -> None:
    """Write `net` to `folder`: config.json, and model.safetensors in float16."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(net.config) + "\n", encoding="utf-8")
    state = {name: value.detach().half().contiguous() for name, value in net.state_dict().items()}
    save_file(state, folder / "model.safetensors")
