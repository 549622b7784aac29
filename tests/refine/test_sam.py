"""SAM as a refiner: tiny random SAM, SAM-HQ and SAM 2, and the frame that their prompts are laid into."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from t4s.codec import DescriptorGrid, mask_from_grid
from t4s.errors import CheckpointError
from t4s.refine import sam
from t4s.refine.refiner import disagreements, refine

SIDE = 64
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8,
           "output_channels": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32,
           "num_pos_feats": 8}  # fmt: skip
_PROMPTS = {"hidden_size": 16, "image_size": SIDE, "mask_input_channels": 4}
_DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16}  # fmt: skip
_HIERA = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE],
          "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
          "num_attention_heads_per_stage": [1, 1, 2, 4], "window_size_per_stage": [4, 4, 4, 4],
          "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]}  # fmt: skip


def _tiny(kind: str):
    from transformers import Sam2Config, Sam2Model, SamConfig, SamHQConfig, SamHQModel, SamModel

    torch.manual_seed(0)
    if kind == "sam2":
        vision = {"backbone_config": _HIERA, "backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 16,
                  "num_feature_levels": 3, "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}  # fmt: skip
        return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config={**_PROMPTS, "patch_size": 16},
                                    mask_decoder_config=_DECODER))  # fmt: skip
    prompts = {**_PROMPTS, "patch_size": 8, "image_embedding_size": 8}
    if kind == "sam":
        return SamModel(SamConfig(vision_config=_VISION, prompt_encoder_config=prompts, mask_decoder_config=_DECODER))
    decoder = {**_DECODER, "vit_dim": 32}
    return SamHQModel(SamHQConfig(vision_config=_VISION, prompt_encoder_config=prompts, mask_decoder_config=decoder))


@pytest.fixture(scope="module", params=["sam", "sam_hq", "sam2"])
def source(request, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp(request.param)
    _tiny(request.param).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def scene() -> tuple[np.ndarray, DescriptorGrid]:
    photo = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    ids = np.zeros((8, 8), int)
    ids[1:4, 1:5], ids[5:7, 4:8] = 1, 2
    return photo, DescriptorGrid(ids, ("others", "dog", "cat"))


def test_every_family_gives_masks_of_the_photos_size_always_the_same(source, scene):
    photo, grid = scene
    masks = refine(f"sam:{source}", photo, grid)
    assert set(masks) == {"dog", "cat"}
    assert all(mask.shape == (30, 50) and mask.any() for mask in masks.values())
    sam._cache.clear()
    again = refine(f"sam:{source}", photo, grid)
    assert all((again[label] == mask).all() for label, mask in masks.items())


def test_the_photo_is_encoded_once_and_another_photo_again(source, scene, monkeypatch):
    photo, grid = scene
    model, _ = sam.load(source)
    looks = []
    look = model.get_image_embeddings
    monkeypatch.setattr(model, "get_image_embeddings", lambda pixels: looks.append(1) or look(pixels))
    sam._cache.clear()
    refine(f"sam:{source}", photo, grid)
    refine(f"sam:{source}", photo.copy(), grid)
    assert len(looks) == 1
    refine(f"sam:{source}", photo[::-1], grid)
    refine(f"sam:{source}", photo, grid)
    assert len(looks) == 2
    monkeypatch.setattr(sam, "CACHE_BYTES", 1)
    refine(f"sam:{source}", photo[:, ::-1], grid)
    assert len(looks) == 3 and len(sam._cache) == 1  # bounded in bytes, the newest stays


def test_three_passes_with_the_best_candidate_fed_back(source, scene, monkeypatch):
    photo, grid = scene
    model, _ = sam.load(source)
    fed, forward = [], model.forward

    def spy(**given):
        answer = forward(**given)
        fed.append((given["input_masks"], answer.pred_masks))
        return answer

    monkeypatch.setattr(model, "forward", spy)
    sam.paint_sam(photo, np.stack([grid.ids != 1, grid.ids == 1]).astype(np.float32), source)
    assert len(fed) == 3
    for (_, drawn), (prompt, _) in zip(fed, fed[1:], strict=False):
        side = prompt.shape[-1]
        candidates = drawn.reshape(-1, side, side)
        assert any(torch.equal(prompt[0, 0], candidate) for candidate in candidates)


def test_prompts_are_laid_into_the_padded_frame():
    """Stretching the mask prompt over the padding misaligns it on every photo that is not square."""
    frame = sam.Frame(0.5, 1.0)  # twice as wide as high
    soft = np.zeros((4, 4), np.float32)
    soft[2:] = 1
    prompt = sam.mask_prompt(soft, frame, 32)[0, 0].numpy()
    assert (prompt[16:] == -sam.LOGIT).all(), "nothing is said about the padding but no"
    assert (prompt[10:16] > 0).all() and (prompt[:6] < 0).all()


def test_pixels_are_those_of_the_official_processor():
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    photo = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    processor = SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    theirs = processor(Image.fromarray(photo), return_tensors="pt")["pixel_values"]
    ours = sam.pixel_values(photo, sam.Frame(48 / 80, 1.0), SIDE)
    assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 0.03


def test_points_lie_deep_inside_and_are_never_random():
    cells = np.zeros((9, 12), bool)
    cells[1:6, 1:6], cells[6:8, 8:11] = True, True
    assert sam.points_inside(cells)[0] == (3, 3)
    assert all(cells[point] for point in sam.points_inside(cells))
    assert sam.points_inside(np.ones((5, 5), bool)) == [(2, 2)]
    assert sam.points_inside(np.eye(3, dtype=bool), 2) == [(0, 0), (1, 1)]


def test_the_candidate_that_agrees_with_the_grid_is_taken_and_padding_has_no_say():
    goal = torch.zeros(8, 8, dtype=torch.bool)
    goal[:2, :4] = True
    good, padded, wrong = torch.full((8, 8), -1.0), torch.full((8, 8), -1.0), torch.ones(8, 8)
    good[:2, :4], good[6:] = 1, 1  # right in the photo, wrong where there is no photo
    padded[:2, :2] = 1
    assert sam._best(torch.stack([wrong, padded, good]), goal, sam.Frame(0.5, 1.0)) == 2


def test_a_mask_that_leaves_the_grid_is_kept_and_reported():
    ids = np.zeros((8, 8), int)
    ids[:2, :2] = 1
    grid = DescriptorGrid(ids, ("others", "dog"))
    far = mask_from_grid(DescriptorGrid(ids[::-1], grid.labels), "dog", (64, 64))
    assert [(fault.row, fault.column) for fault in disagreements(grid, {"dog": far})] == [(0, 0)]


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3)])
def test_odd_sizes(source, scene, size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert all(mask.shape == size for mask in refine(f"sam:{source}", photo, scene[1]).values())


def test_what_is_no_sam_is_refused(tmp_path, scene):
    photo, grid = scene
    with pytest.raises(CheckpointError, match="cannot be found"):
        refine(f"sam:{tmp_path / 'nowhere'}", photo, grid)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert' and not a SAM"):
        refine(f"sam:{tmp_path}", photo, grid)
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        refine(f"sam:{tmp_path}", photo, grid)
