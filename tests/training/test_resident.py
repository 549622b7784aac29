"""Training with all photos on the device, here a CPU: the same samples, the same loss, and no wait for the device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from t4s import train
from t4s.data.spec import Mixture
from t4s.errors import DataError
from t4s.models import loading
from t4s.training import losses, run
from t4s.training.collator import Collator
from t4s.training.losses import CellLoss, open_labelled, token_loss
from t4s.training.resident.album import Album, smaller
from t4s.training.resident.batches import CellTargets, ResidentCollator
from t4s.training.resident.rendering import normalised, render
from t4s.training.resident.step import ResidentStep
from tests.support import photo_folder

CPU = torch.device("cpu")
SIDE = 128  # of kept photos: no photo of the tests is larger, so none is resampled twice
NUMBERS = range(24)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return photo_folder.write(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def mixture(photos) -> Mixture:
    """Every kind of data set that can stay on the device."""
    return Mixture.open(
        [f"folder:{photos}*3", f"jsonl:{photos}/lines.jsonl", f"scenes:{photos},scenes=12", f"places:{photos}",
         f"coco:{photos}/instances.json", "synthetic:scenes=12,size=64"]
    )  # fmt: skip


@pytest.fixture(scope="module")
def album(mixture) -> Album:
    made, said = Album.open(mixture, SIDE, CPU, workers=0)
    assert said.startswith(f"Photos stay on cpu: {len(mixture)} of them, 4.1 MB, read in ")
    return made


@pytest.fixture
def vlm(fresh_vlm, monkeypatch):
    """The embedded architecture as it is trained: the photo sees the question, every weight learns."""
    monkeypatch.setattr(fresh_vlm, "bidirectional_prefix", True)
    fresh_vlm.model.requires_grad_(True)
    yield fresh_vlm
    fresh_vlm.model.requires_grad_(False).zero_grad(set_to_none=True)


@pytest.fixture
def targets(vlm, photos, mixture) -> CellTargets:
    return CellTargets(CellLoss(vlm, open_labelled(f"folder:{photos}"), seed=0, bf16=False), mixture)


def resident(vlm, mixture, album, targets=None) -> ResidentCollator:
    return ResidentCollator(vlm, mixture, 3, 0, album.labels, album.first, targets)


def test_both_paths_show_and_teach_the_same(vlm, mixture, album):
    """Tokens, labels, positions and grids to the last bit. Pixels to within rounding: Pillow computes with 22 bits and
    rounds after each pass, and a value halfway between two may go either way, by 1 of 255. Brightness, saturation and
    contrast, which multiply by up to 3.7 in all, may make up to 5 of it, in few pixels."""
    collator = resident(vlm, mixture, album)
    one, two = Collator(vlm, mixture, 3, 0)(NUMBERS), collator(NUMBERS)
    for name in ("input_ids", "labels", "position_ids", "phrases"):
        assert torch.equal(one[name], two[name]), name
    cells = vlm.cells
    assert torch.equal(two["target"], one["labels"][:, cells:][one["labels"][:, cells:] != losses.IGNORE])
    pictures = render(album.photos, album.sizes, two["views"], vlm.config.image_size)
    difference = (normalised(pictures)[two["picture"]] - one["pixel_values"]).abs() * 128
    assert difference.max() < 5.01 and difference.mean() < 0.05 and (difference > 1.01).float().mean() < 0.01
    drawn = [collator.drawn(number) for number in NUMBERS]
    assert {one.dataset for one in drawn} == set(range(6)) and any(len(one.draw.view.parts) > 1 for one in drawn)
    for number in NUMBERS:
        for first, second in zip(Collator(vlm, mixture, 3, 0).samples(number), collator.samples(number), strict=True):
            assert (first.query, first.labels) == (second.query, second.labels) and second.image is None
            assert np.array_equal(first.grid((16, 16)).ids, second.grid((16, 16)).ids)


def test_rendering_of_every_change_of_light(vlm, mixture, album, monkeypatch):
    """The same with every picture blurred and made coarse, which few are otherwise."""
    for name in ("BLUR", "COARSE", "COLOUR"):
        monkeypatch.setattr(f"t4s.data.augment.changes.{name}", 1.0)
    one, two = Collator(vlm, mixture, 1, 1)(range(12)), resident(vlm, mixture, album)
    two.queries, two.seed = 1, 1
    batch = two(range(12))
    assert len(batch["views"]["blurred"]) == len(batch["views"]["coarse"]) == 12
    pictures = render(album.photos, album.sizes, batch["views"], vlm.config.image_size)
    difference = (normalised(pictures)[batch["picture"]] - one["pixel_values"]).abs() * 128
    assert difference.max() < 5.01 and difference.mean() < 0.3


def test_the_loss_and_its_gradients_are_those_of_the_model_itself(vlm, mixture, album):
    """On the same pixels, in one forward pass a picture instead of one a question."""
    ordinary, batch = Collator(vlm, mixture, 3, 0)(range(6)), resident(vlm, mixture, album)(range(6))
    pictures = render(album.photos, album.sizes, batch["views"], vlm.config.image_size)
    ordinary["pixel_values"] = normalised(pictures)[batch["picture"]]
    count = (batch["labels"] != losses.IGNORE).sum()
    labels = ordinary.pop("labels")
    del ordinary["phrases"]

    def learned(loss: torch.Tensor) -> list[torch.Tensor]:
        vlm.model.zero_grad(set_to_none=True)
        loss.backward()
        return [weight.grad for weight in vlm.model.parameters() if weight.grad is not None]

    expected = token_loss(vlm, 0.2)(vlm.model(**ordinary), labels, count)
    gradients = learned(expected)
    found = ResidentStep(vlm, album, 0.2, False)(batch, count)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for one, other in zip(learned(found), gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_the_cells_are_taught_from_the_same_pass(vlm, mixture, album, targets):
    """Every picture of the labelled folder, mosaics and places included; scenes and lines are not labelled in full."""
    assert targets.taught == {0, 3}
    collator = resident(vlm, mixture, album, targets)
    batch = collator(NUMBERS)
    drawn = [collator.drawn(number) for number in NUMBERS]
    taught = [one.dataset in (0, 3) for one in drawn]
    assert int(batch["cells"]["pictures"]) == sum(taught) > 4
    step = ResidentStep(vlm, album, 0.2, False, targets)
    pictures = render(album.photos, album.sizes, batch["views"], vlm.config.image_size)
    with torch.no_grad():
        cells = step.cells(normalised(pictures))
        found = step.cell_loss(cells, batch["cells"])
        words = torch.split(batch["cells"]["words"], torch.diff(
            torch.cat([batch["cells"]["offsets"], torch.tensor([len(batch["cells"]["words"])])])).tolist())  # fmt: skip
        logits = losses.class_logits(cells[taught], targets.lesson.class_vectors([word.tolist() for word in words]))
        shares, weights = [], []
        for one in (one.draw.pixels for one, yes in zip(drawn, taught, strict=True) if yes):
            indexes = targets.batches.indexes(one.classes)
            share, known = losses.class_shares(one.ids, indexes, one.void, len(targets.batches.names), (4, 4))
            shares.append(share)
            weights.append(known[:, None] * targets.batches.asked(one.source))
        expected = losses.cell_loss(logits, *(torch.from_numpy(np.stack(part)) for part in (shares, weights)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    alone, half = ResidentStep(vlm, album, 0.2, False), ResidentStep(vlm, album, 0.2, False, targets, accumulate=2)
    with torch.no_grad():
        answers, whole_loss, half_loss = (float(one(batch, 1000)) for one in (alone, step, half))
    assert whole_loss - answers == pytest.approx(losses.CELL_LOSS_WEIGHT * float(expected), rel=1e-3)
    assert half_loss - answers == pytest.approx((whole_loss - answers) / 2, rel=1e-3)


class NoWaiting(TorchDispatchMode):
    """Refuses every operation for whose result the host would wait, and every tensor made from Python's own numbers."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "lift_fresh", "item", "unique2")

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket._qualified_op_name.partition("::")[2]
        assert name not in self.WAITS, f"{name} waits for the device"
        if name in ("index", "index_put", "index_put_"):
            chosen = [index for index in arguments[1] if index is not None]
            assert all(index.dtype != torch.bool for index in chosen), f"{name} by a mask waits for the device"
        return function(*arguments, **(options or {}))


class _Waits(torch.autograd.Function):
    """Reads a number on the host in its backward pass."""

    @staticmethod
    def forward(context, values):
        return values * 2

    @staticmethod
    def backward(context, gradient):
        return gradient * float(gradient.sum())


def test_nothing_in_a_step_waits_for_the_device(vlm, mixture, album, targets):
    """Rendering, forward and backward pass, clipped gradients, the average of the weights. What the mode does refuse is
    shown first, also in a backward pass."""
    from t4s.training.progress.average import WeightAverage

    collator, step = resident(vlm, mixture, album, targets), ResidentStep(vlm, album, 0.2, False, targets)
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        torch.ones(3)[torch.ones(3) > 0].sum()
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        float(torch.ones(3).sum())
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        _Waits.apply(torch.ones(3, requires_grad=True)).sum().backward()
    average = WeightAverage(vlm.model, 0.9)
    average.on_train_begin(None, None, None)
    batch = collator(range(6))
    with NoWaiting():
        loss = step(batch, (batch["labels"] != losses.IGNORE).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vlm.model.parameters(), 1.0)
        average.update()
    assert torch.isfinite(loss)


# --- what stays on the device


def test_large_photos_are_made_smaller_and_small_ones_are_kept(mixture, album):
    dataset = mixture.datasets[0]
    for index in range(6):
        pixels = np.asarray(dataset.open(index)[0])
        height, width = album.sizes[index].int().tolist()
        assert (height, width) == pixels.shape[:2]
        assert np.array_equal(album.photos[index, :, :height, :width].permute(1, 2, 0).numpy(), pixels)
    photo, _ = dataset.open(1)
    assert smaller(photo, 48).size == (48, 40) and smaller(photo, 200) is photo
    few, _ = Album.open(Mixture((dataset,), (1.0,)), 48, CPU, workers=1)
    assert few.photos.shape[-2:] == (48, 48) and few.sizes.max() == 48
    assert np.array_equal(few.labels[0][1], dataset.open(1)[1])


def test_photos_that_do_not_fit_are_read_anew_and_it_is_said(mixture, photos):
    none, said = Album.open(mixture, SIDE, CPU, 0, limit=10**6)
    assert none is None
    assert said == (
        f"Photos are read anew for every step: {len(mixture)} of them would take 4.1 MB on cpu, and 1.0 MB are free "
        "for them; train on fewer, or with a smaller --image-size."
    )

    class Other:
        name = "hub:someone/photos@train"

        def __len__(self) -> int:
            return 3

    none, said = Album.open(Mixture((Other(),), (1.0,)), SIDE, CPU, 0)
    assert none is None and "hub:someone/photos@train cannot be kept in memory" in said


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_cannot_be_read_is_a_sentence(tmp_path, workers):
    folder = photo_folder.write(tmp_path, 6)
    (folder / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="index.jsonl names 3.png and 3-mask.png: ") as found:
        Album.open(Mixture.open([f"folder:{folder}"]), SIDE, CPU, workers)
    assert "\n" not in str(found.value) and "Traceback" not in str(found.value)


# --- the command line


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The CPU stands for one."""
    monkeypatch.setattr(run, "gpu", lambda: CPU)


def command(photos: Path, out: Path, *more: str) -> list[str]:
    return ["--dataset", f"folder:{photos}", "--dataset", f"jsonl:{photos}/lines.jsonl", "--width", "32",
            "--layers", "1", "--grid", "4", "4", "--batch", "3", "--queries-per-image", "2", "--threads", "1",
            "--steps", "3", "--workers", "0", "--cell-loss-data", f"folder:{photos}", "--out", str(out),
            *more]  # fmt: skip


def test_train_py_uses_it_by_itself(on_a_gpu, photos, tmp_path, capsys):
    """And learns nearly what the ordinary path does; only the lesson of the cells has other photos."""
    assert train.main(command(photos, tmp_path / "resident")) == 0
    said = capsys.readouterr().out
    assert "Photos stay on cpu: 36 of them, 1.0 MB, read in" in said and "'photos_per_second'" in said
    model = loading.load(tmp_path / "resident").model
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert train.main(command(photos, tmp_path / "parts", "--stop-after", "1")) == 0
    assert train.main(command(photos, tmp_path / "parts", "--resume", "--workers", "1")) == 0
    again = dict(loading.load(tmp_path / "parts").model.named_parameters())
    assert all(torch.equal(weight, again[name]) for name, weight in model.named_parameters())


def test_both_paths_end_with_nearly_the_same_loss(photos, tmp_path, monkeypatch, capsys):
    found = {}
    for name, device in (("ordinary", None), ("resident", CPU)):
        monkeypatch.setattr(run, "gpu", lambda device=device: device)
        arguments = command(photos, tmp_path / name)
        at = arguments.index("--cell-loss-data")
        assert train.main(arguments[:at] + arguments[at + 2 :]) == 0
        state = json.loads((tmp_path / name / "state" / "checkpoint-3" / "trainer_state.json").read_text())
        found[name] = [line["loss"] for line in state["log_history"] if "loss" in line]
    assert found["resident"] == pytest.approx(found["ordinary"], rel=2e-3)


def test_cells_of_another_folder_are_taught_from_their_own_photos(on_a_gpu, photos, tmp_path, capsys):
    other = photo_folder.write(tmp_path / "other" if (tmp_path / "other").mkdir() is None else tmp_path, 6)
    arguments = command(photos, tmp_path / "out", "--cell-loss-data", f"folder:{other}")
    assert train.main(arguments) == 0
    assert "--cell-loss-data is none of the data sets: its photos are read anew" in capsys.readouterr().out


def test_photos_that_do_not_fit_do_not_stop_a_run(on_a_gpu, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("t4s.training.resident.album.DEVICE_SHARE", 1e-9)
    assert train.main(command(photos, tmp_path / "out")) == 0
    assert "Photos are read anew for every step: 36 of them would take 1.0 MB on cpu" in capsys.readouterr().out
