"""`t4s.json` and the files of a checkpoint: what is read, what is refused, and the sentences that say so."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from t4s.errors import CheckpointError
from t4s.models import checkpoint
from t4s.models.checkpoint import CheckpointConfig

VERSION_1 = {
    "grid": [16, 16],
    "layout": "rows",
    "image_size": 320,
    "question": "{query}",
    "class_question": "{query}",
    "answer": "<seg>{body}</seg>",
    "positions": "cells",
    "both_ways": True,
    "at_once": 1,
    "absent_above": 0.05,
    "cell_weight": 0.5,
    "names": ["dog", "cat"],
    "base_model": None,
    "base_revision": None,
    "refiner": "edge",
    "metrics": {"cIoU": 0.5},
    "format_version": 1,
}


def written(folder: Path, content: object) -> Path:
    (folder / "t4s.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def test_version_1_is_read_and_version_2_written(tmp_path):
    config = CheckpointConfig.read(written(tmp_path, VERSION_1))
    assert (config.bidirectional_prefix, config.classes_per_query) == (True, 1)
    assert (config.no_target_threshold, config.cell_fusion_weight) == (0.05, 0.5)
    assert config.names == ("dog", "cat") and config.format_version == 2
    config.write(tmp_path)
    content = json.loads((tmp_path / "t4s.json").read_text())
    assert content["format_version"] == 2 and not set(content) & {*checkpoint.RENAMED, "layout"}
    assert CheckpointConfig.read(tmp_path) == config


def test_a_file_without_a_version_is_version_1(tmp_path):
    content = {name: value for name, value in VERSION_1.items() if name != "format_version"}
    assert CheckpointConfig.read(written(tmp_path, content)).no_target_threshold == 0.05


def test_another_layout_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="layout 'image'; this t4s runs checkpoints that write rows"):
        CheckpointConfig.read(written(tmp_path, VERSION_1 | {"layout": "image"}))


@pytest.mark.parametrize("field, value, says", [
    ("grid", [math.inf, 16], "grid"),
    ("grid", [16.0, 16], "grid"),
    ("grid", [True, 16], "grid"),
    ("grid", [16, 16, 16], "expected .rows, columns."),
    ("grid", None, "expected .rows, columns."),
    ("image_size", 0, "image_size 0, allowed are 1 to 4096 pixels"),
    ("image_size", "320", "image_size '320'"),
    ("image_size", 10**9, "image_size 1000000000"),
    ("image_size", None, "image_size None"),
    ("answer", None, "answer None, without <seg>"),
    ("answer", "<seg>{body}", "without <seg>{body}</seg>"),
    ("question", None, "question None, without {query}"),
    ("question", 7, "question 7, without {query}"),
    ("class_question", "all", "class_question 'all', without {query}"),
    ("refiner", None, "refiner None"),
    ("refiner", ["edge"], "refiner"),
    ("positions", ["cells"], "positions"),
    ("bidirectional_prefix", "yes", "bidirectional_prefix 'yes', allowed are true and false"),
    ("no_target_threshold", math.nan, "no_target_threshold nan"),
    ("unsure_similarity_below", 1, "unsure_similarity_below 1, allowed are numbers between -1 and 1"),
    ("normalize_queries", "yes", "normalize_queries 'yes', allowed are true and false"),
    ("drop_untaught_words", 1, "drop_untaught_words 1, allowed are true and false"),
    ("cell_fusion_weight", math.inf, "cell_fusion_weight inf"),
    ("names", "dog", "names is 'dog', expected a list"),
    ("names", ["dog", 3], "names"),
    ("base_model", 3, "base_model 3"),
    ("metrics", [1], "metrics"),
    ("format_version", "2", "format_version '2'"),
    ("format_version", [2], "format_version"),
])  # fmt: skip
def test_odd_values_are_named(tmp_path, field, value, says):
    content = json.loads(json.dumps(VERSION_1))
    old_names = {new: old for old, new in checkpoint.RENAMED.items()}
    content[old_names.get(field, field)] = value
    with pytest.raises(CheckpointError, match=says):
        CheckpointConfig.read(written(tmp_path, content))


@pytest.mark.parametrize("text, says", [
    ("{", "cannot be read"),
    ("[]", "holds a list, expected an object"),
    ("null", "holds a NoneType, expected an object"),
    ("[" * 100_000, "cannot be read"),
    ('{"metrics": ' + '{"a": ' * 50_000 + "1" + "}" * 50_001, "cannot be read"),
    (" " * 1_000_001, "has 1000001 bytes, allowed are 1000000"),
])  # fmt: skip
def test_files_that_are_no_settings(tmp_path, text, says):
    with pytest.raises(CheckpointError, match=says):
        CheckpointConfig.read(written(tmp_path, text))


def test_a_file_in_another_encoding(tmp_path):
    (tmp_path / "t4s.json").write_bytes(json.dumps(VERSION_1).encode("utf-16"))
    with pytest.raises(CheckpointError, match="t4s.json cannot be read"):
        CheckpointConfig.read(tmp_path)


# --- weights


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..\\m.safetensors", 3])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, shard):
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    (tmp_path / checkpoint.WEIGHT_INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(CheckpointError, match="allowed are names of files in its own folder"):
        checkpoint.check_weights(tmp_path)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": {}}}'])
def test_a_broken_index_is_named(tmp_path, index):
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    (tmp_path / checkpoint.WEIGHT_INDEX).write_text(index)
    with pytest.raises(CheckpointError, match="index.json cannot be read"):
        checkpoint.check_weights(tmp_path)


def test_a_shard_that_is_not_there_is_named(tmp_path):
    (tmp_path / "model-1.safetensors").write_bytes(b"")
    (tmp_path / checkpoint.WEIGHT_INDEX).write_text(json.dumps({"weight_map": {"a": "model-2.safetensors"}}))
    with pytest.raises(CheckpointError, match="lacks model-2.safetensors"):
        checkpoint.check_weights(tmp_path)


def test_a_pickled_adapter_beside_other_safetensors_is_refused(tmp_path):
    """PEFT would take adapter_model.bin as soon as there is no adapter_model.safetensors."""
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80\x04")
    (tmp_path / "extra.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickled weights .adapter_model.bin."):
        checkpoint.check_weights(tmp_path)


# --- where files are


@pytest.mark.parametrize("local", ["/etc", "./base", "~/base", "HERE"])
def test_a_checkpoint_from_the_hub_names_no_local_base(tmp_path, local):
    folder = tmp_path / "models--a--b" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    config = CheckpointConfig(base_model=str(tmp_path) if local == "HERE" else local)
    with pytest.raises(CheckpointError, match="comes from the Hub, but its base_model .* is a local path"):
        checkpoint.base_of(folder, config)


def test_a_gated_repository_says_what_to_accept_and_where(monkeypatch):
    import httpx
    from huggingface_hub.errors import GatedRepoError

    def gated(*_, **__):
        response = httpx.Response(403, request=httpx.Request("GET", "https://huggingface.co/acme/vlm"))
        raise GatedRepoError("403", response=response)

    monkeypatch.setattr("huggingface_hub.snapshot_download", gated)
    with pytest.raises(CheckpointError, match="accept its licence at https://huggingface.co/acme/vlm .*hf auth login"):
        checkpoint.find("acme/vlm")
