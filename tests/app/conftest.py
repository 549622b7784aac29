"""One running app for all tests of this folder, with a stand-in for the model, and one browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gradio_client import Client
from playwright.sync_api import Browser, sync_playwright

import app
from t4s.app import service
from t4s.app.suggestions import Suggestions
from tests.support import stand_in
from tests.support.visit import FLAGS

SEEN = Suggestions(("cat", "toilet"), (0,) * 128 + (1,) * 96 + (-1,) * 32)  # above a cat, then a toilet, then nothing


@pytest.fixture(scope="session")
def segmenter() -> stand_in.StandIn:
    return stand_in.StandIn()


@pytest.fixture(scope="session")
def address(segmenter: stand_in.StandIn) -> Iterator[str]:
    service.suggest = lambda vlm, encoded, count: SEEN  # the stand-in has no cells to compare
    blocks = app.build(segmenter, sams=None).queue()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, mcp_server=True, **app.LAUNCH)
    yield url
    blocks.close()


@pytest.fixture(scope="session")
def client(address: str) -> Client:
    return Client(address, verbose=False)


@pytest.fixture(scope="module")  # an open browser runs an event loop, and other modules run their own
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a SAM with random weights, built on the spot."""
    import torch
    from transformers import SamConfig, SamModel

    vision = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
              "output_channels": 16, "window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32,
              "num_pos_feats": 8}  # fmt: skip
    prompts = {"hidden_size": 16, "image_size": 64, "mask_input_channels": 4, "patch_size": 8,
               "image_embedding_size": 8}  # fmt: skip
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
               "iou_head_hidden_dim": 16}  # fmt: skip
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("sam")
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    model.save_pretrained(folder)
    return str(folder)
