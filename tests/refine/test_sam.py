"""SAM as a refiner: tiny random SAM, SAM-HQ and SAM 2, and the frame that their prompts are laid into."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Sam2Config, Sam2Model, SamConfig, SamHQConfig, SamHQModel, SamModel

from t4s.codec import DescriptorGrid, mask_from_grid
from t4s.errors import CheckpointError
from t4s.refine import sam, sam_model
from t4s.refine.refiner import disagreements, refine
from tests.support.hub_server import HubServer, taken_for_the_hub

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
    model, _ = sam_model.load(source)
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
    model, _ = sam_model.load(source)
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
    for nowhere in (str(tmp_path / "nowhere"), "../secret", "a/b/c", "no such/model"):
        with pytest.raises(CheckpointError, match="cannot be found"):
            refine(f"sam:{nowhere}", photo, grid)
    with pytest.raises(CheckpointError, match="holds no config.json"):
        refine(f"sam:{tmp_path}", photo, grid)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="'bert' and not a SAM"):
        refine(f"sam:{tmp_path}", photo, grid)
    (tmp_path / "config.json").write_text('{"model_type": "sam"}')
    with pytest.raises(CheckpointError, match="no complete safetensors weights"):
        refine(f"sam:{tmp_path}", photo, grid)


# --- hostile and broken folders


def rewrite(folder: Path, **changes: object) -> None:
    """Change entries of config.json: vision_config__hidden_size=8."""
    content = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        part = content
        for parent in parents:
            part = part[parent]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(content))


@pytest.fixture
def tiny_sam(tmp_path) -> Path:
    _tiny("sam").save_pretrained(tmp_path / "sam")
    return tmp_path / "sam"


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"vision_config__hidden_size": 32_768, "vision_config__num_hidden_layers": 100}, "hidden_size 32768; at most"),
        ({"vision_config__hidden_size": 8192, "vision_config__mlp_dim": 8192}, "million parameters"),
        ({"vision_config__num_hidden_layers": 10_000}, "layers; at most 80"),
        ({"mask_decoder_config__num_hidden_layers": 10_000}, "layers; at most 80"),
        ({"vision_config__num_hidden_layers": 10**9}, "at most 16,384"),
        ({"vision_config__image_size": 100_000}, "at most 1,024"),
        ({"vision_config__patch_size": 1, "vision_config__image_size": 1024}, "attends to 1,048,576 tokens"),
        ({"vision_config__patch_size": 0}, "not valid"),
        ({"vision_config__hidden_size": "wide"}, "not valid"),
        ({"vision_config": None}, "million|lacks|cannot be loaded|not valid"),
        ({"num_labels": 10**12}, "at most 16,384"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "has auto_map"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "has quantization_config"),
        ({"model_type": ["sam"]}, "not a SAM"),
    ],
)
def test_a_config_is_measured_before_anything_is_built(tiny_sam, changes, says, monkeypatch):
    """A hidden size of 32,768 and 100 layers: the server was killed for memory."""
    rewrite(tiny_sam, **changes)
    monkeypatch.setattr("transformers.SamModel.from_pretrained", lambda *a, **k: pytest.fail("it was built"))
    if changes == {"vision_config": None}:
        monkeypatch.undo()  # the default size, which the weights do not have
    with pytest.raises(CheckpointError, match=says):
        sam_model.load(str(tiny_sam))


def test_sam_2_attention_is_bounded_by_stage(tmp_path):
    _tiny("sam2").save_pretrained(tmp_path)
    rewrite(tmp_path, vision_config__backbone_config__image_size=[1024, 1024])
    content = sam_model.read_config(tmp_path, "it")
    assert (
        sam_model.attended_tokens(Sam2Config.from_dict(content)) == 64 * 64
    )  # the third stage, which has the global attention
    rewrite(tmp_path, vision_config__backbone_config__global_attention_blocks=[0])
    with pytest.raises(CheckpointError, match="attends to 65,536 tokens"):
        sam_model.load(str(tmp_path))


@pytest.mark.parametrize("kind", [SamConfig, SamHQConfig, Sam2Config])
def test_the_published_sizes_are_allowed(kind):
    model_class = {SamConfig: SamModel, SamHQConfig: SamHQModel, Sam2Config: Sam2Model}[kind]
    sam_model.check_size(model_class, kind().to_dict(), "base")
    if kind is not Sam2Config:
        huge = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "mlp_dim": 5120,
                "global_attn_indexes": [7, 15, 23, 31]}  # fmt: skip
        sam_model.check_size(model_class, kind(vision_config=huge).to_dict(), "huge")


@pytest.mark.parametrize(
    "content", ["", "[", "[" * 100_000, '{"model_type": "sam", "a": ' + "[" * 900 + "]" * 900 + "}", "3"]
)
def test_a_broken_config_is_one_sentence(tiny_sam, content):
    (tiny_sam / "config.json").write_text(content)
    with pytest.raises(CheckpointError):
        sam_model.load(str(tiny_sam))


def test_missing_and_foreign_weights_are_named(tiny_sam):
    """They were replaced by random ones, in silence."""
    file = tiny_sam / "model.safetensors"
    tensors = load_file(file)
    name = "mask_decoder.iou_token.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks 1 tensors, such as {name}"):
        sam_model.load(str(tiny_sam))
    save_file(tensors | {name: torch.zeros(3, 3)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        sam_model.load(str(tiny_sam))
    file.write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        sam_model.load(str(tiny_sam))
    file.unlink()
    torch.save(tensors, tiny_sam / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no complete safetensors weights"):
        sam_model.load(str(tiny_sam))


# --- the Hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub") as server:
        taken_for_the_hub(server, monkeypatch)
        yield server


def test_offline_is_one_sentence_at_once(monkeypatch):
    """23 seconds of nothing, then a long one."""
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="not in the cache, and the Hub is switched off"):
        sam_model.load("facebook/no-such-sam")
    assert time.monotonic() - started < 2


def test_an_unreachable_hub_is_one_sentence_within_seconds(hub, monkeypatch):
    monkeypatch.setattr(sam_model, "HUB_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(CheckpointError, match="not in the cache, and the Hub does not answer"):
            sam_model.load("facebook/no-such-sam")
        assert time.monotonic() - started < 5


def test_only_what_is_needed_is_downloaded_and_then_no_request_is_made(hub, tiny_sam):
    files = {file.name: file.read_bytes() for file in tiny_sam.iterdir()}
    hub.repo("me/sam", {**files, "pytorch_model.bin": b"pickle", "huge.safetensors": b"0" * 1000})
    model, kind = sam_model.load("me/sam")
    assert kind == "sam" and not model.training
    fetched = {line.rsplit("/", 1)[-1] for line in hub.log if line.startswith("GET") and "/resolve/" in line}
    assert fetched <= {"config.json", "model.safetensors"}
    sam_model.load.cache_clear()
    hub.log.clear()
    hub.down = True
    sam_model.load("me/sam")
    assert hub.log == []


def test_a_repository_is_measured_before_it_is_downloaded(hub, tiny_sam, monkeypatch):
    files = {file.name: file.read_bytes() for file in tiny_sam.iterdir()}
    rewrite(tiny_sam, vision_config__hidden_size=32_768)
    hub.repo("me/wide", {**files, "config.json": (tiny_sam / "config.json").read_bytes()})
    hub.repo("me/pickled", {"config.json": files["config.json"], "pytorch_model.bin": b"pickle"})
    with pytest.raises(CheckpointError, match="at most 16,384"):
        sam_model.load("me/wide")
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        sam_model.load("me/pickled")
    with pytest.raises(CheckpointError, match="cannot be found"):
        sam_model.load("me/nothing")
    monkeypatch.setattr(sam_model, "MAX_SAM_PARAMETERS", 1000)
    hub.repo("me/large", files)
    with pytest.raises(CheckpointError, match="a SAM may have at most"):
        sam_model.load("me/large")
    assert not [line for line in hub.log if line.endswith(".safetensors")], "no weights were fetched"
