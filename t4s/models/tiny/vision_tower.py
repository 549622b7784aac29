"""The small vision tower of the embedded model: an EfficientNet-Lite body and a neck that gives one vector per cell.

Importing this module registers the tower with transformers' Auto classes, so that a
`LlavaForConditionalGeneration` that uses it loads with `AutoModelForImageTextToText`.

    pixel_values (B, 3, S, S) float, (value - 127) / 128        S = image_size
      body       strides 8, 16 and 32: 40, 112 and 320 channels (lite0), 48, 120 and 352 (lite2)
      neck       resized to the grid (the finest map as 2×2 pixels a cell: 4·40 + 112 + 320 = 592 channels),
                 projected, mixed with neighbours, normalised, a learned vector per cell added (its row and column)
    last_hidden_state (B, rows·columns, hidden_size), cells in row order

Batch normalisation always uses its stored statistics, in training too: batches are small here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import BaseModelOutput

from t4s.errors import CheckpointError
from t4s.models.efficientnet import STAGES, convolve, fold, make_stages, make_stem

TAPS = (2, 4, 6)  # the stages whose outputs the neck reads: strides 8, 16, 32
POSITION_SCALE = 0.3  # initial size of the position vectors; the normalised features have size 1
DEFAULT_BODY = "lite0"  # of configurations that name none


class LiteTowerConfig(PreTrainedConfig):
    """`hidden_size`: channels per cell; `grid`: (rows, columns); `mixers`: 7×7 blocks in the neck; `body`: of STAGES.

    Raises CheckpointError for a body that does not exist.
    """

    model_type = "t4s_lite_tower"

    def __init__(
        self,
        image_size: int = 256,
        grid: tuple[int, int] = (16, 16),
        hidden_size: int = 256,
        mixers: int = 2,
        body: str = DEFAULT_BODY,
        **kwargs,
    ):
        if body not in STAGES:
            raise CheckpointError(
                f"The vision tower's body is {body!r} in config.json; allowed are {', '.join(STAGES)}."
            )
        self.image_size = image_size
        self.grid = list(grid)
        self.hidden_size = hidden_size
        self.mixers = mixers
        self.body = body
        super().__init__(**kwargs)


class Mixer(nn.Module):
    """A 7×7 depthwise convolution and a two-layer perceptron per cell, residual (after ConvNeXt, arXiv 2201.03545)."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(convolve(self.spatial, x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class LiteTower(PreTrainedModel):
    config_class = LiteTowerConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["Block", "Mixer"]

    def __init__(self, config: LiteTowerConfig):
        super().__init__(config)
        stages = STAGES[config.body]
        self.stem = make_stem()
        self.stages = make_stages(stages)
        fine, middle, coarse = (stages[index].channels for index in TAPS)
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
            initialization.copy_(
                module.cells, POSITION_SCALE * position_waves(*self.config.grid, self.config.hidden_size)
            )

    def freeze(self, stages: int | None = None) -> None:
        """Freeze the stem and the first `stages` of the body (None: all of it); the neck goes on learning."""
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
        """pixel_values (B, 3, S, S) → (B, rows·columns, hidden_size); equal photos in a row are computed once."""
        new = torch.ones(len(pixel_values), dtype=torch.bool, device=pixel_values.device)
        new[1:] = (pixel_values[1:] != pixel_values[:-1]).flatten(1).any(1)
        x = pixel_values[new].to(self.dtype).contiguous(memory_format=torch.channels_last)
        cells = self.neck(*self.body(x))[new.cumsum(0) - 1]
        return BaseModelOutput(last_hidden_state=cells, hidden_states=(cells,))


def fold_towers(model: nn.Module) -> None:
    """Fold the batch normalisation of a model's towers into their convolutions: for answering alone, a quarter faster.

    Not in half precision, in which folded weights would lose digits.
    """
    for tower in [module for module in model.modules() if isinstance(module, LiteTower)]:
        if tower.dtype in (torch.float32, torch.float64):
            fold(tower)


def position_waves(rows: int, columns: int, channels: int) -> Tensor:
    """(rows·columns, channels) with a root mean square of 1: sines and cosines of row and column, half of the channels
    each, from half a wave over the grid to half a wave over a cell (after Vaswani et al., arXiv 1706.03762)."""

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


AutoConfig.register(LiteTowerConfig.model_type, LiteTowerConfig, exist_ok=True)
AutoModel.register(LiteTowerConfig, LiteTower, exist_ok=True)
