"""The road to the Hub and back, over real HTTP to a small stand-in."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants, snapshot_download
from huggingface_hub.errors import HTTPError
from PIL import Image

from t4s import hub, train
from t4s.errors import CheckpointError
from t4s.hub.__main__ import main as hub_main
from t4s.models import checkpoint, create
from t4s.training import run, saving
from tests.support.hub_server import READS, WRITES, HubServer, taken_for_the_hub

FORM = {"format_version": 1, "grid": [16, 16], "layout": "rows", "base_model": "acme/vlm", "base_revision": "ab12"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The stand-in, taken for the Hub by this process too."""
    with HubServer(tmp_path) as running:
        taken_for_the_hub(running, monkeypatch)
        yield running


@pytest.fixture
def folder(tmp_path) -> Path:
    """A finished checkpoint, as far as files go, with what training leaves beside it."""
    path = tmp_path / "out" / "my cells"
    (path / "checkpoint-2").mkdir(parents=True)
    (path / "t4s.json").write_text(json.dumps(FORM))
    (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "acme/vlm"}))
    (path / "adapter_model.safetensors").write_bytes(b"weights" * 999)
    (path / "README.md").write_text("---\nlibrary_name: peft\n---\nPEFT's own card, with a path")
    (path / "training_args.bin").write_bytes(b"pickle")
    (path / "trainer_state.json").write_text("{}")
    (path / "sample.png").write_bytes(b"a training photo that --dry-run drew")
    (path / "checkpoint-2" / "optimizer.pt").write_bytes(b"x")
    Image.new("RGB", (20, 10)).save(path / "predictions.png")
    datasets, figures = ["folder:/home/me/PHOTOS@train*3", "hub:acme/leaves"], [
        hub.Figure("cIoU", 0.71234, "folder:/home/me/PHOTOS@val", 300)]  # fmt: skip
    hub.write_card(path, "tester/cells", datasets, {"steps": 2, "out": str(path)}, figures, "predictions.png")
    return path


def pull(repo_id: str, revision: str | None = None) -> Path:
    return Path(snapshot_download(repo_id, revision=revision))


# --- there and back


def test_everything_goes_up_in_one_commit_and_comes_back(server, folder, tmp_path):
    repo_id = hub.create("tester/cells", private=True)
    assert server.repos[repo_id].private
    url = hub.push(folder, repo_id)
    first, second = server.repos[repo_id].commits
    assert url.endswith(f"/commit/{second.oid}")
    sent = {"t4s.json", "adapter_config.json", "adapter_model.safetensors", "README.md", "predictions.png"}
    assert set(second.files) == sent | {".gitattributes"}, "no optimizer, no pickle, no subfolder"
    back = pull(repo_id)
    assert all((back / name).read_bytes() == (folder / name).read_bytes() for name in sent)


def test_a_pinned_revision_stays_what_it_was(server, folder):
    hub.push(folder, hub.create("tester/cells"))
    old = server.repos["tester/cells"].commits[-1].oid
    (folder / "t4s.json").write_text(json.dumps({**FORM, "grid": [32, 32]}))
    hub.push(folder, "tester/cells")
    pinned, newest = (json.loads((pull("tester/cells", r) / "t4s.json").read_text()) for r in (old, None))
    assert (pinned["grid"], newest["grid"]) == ([16, 16], [32, 32])


def test_a_later_push_leaves_no_weights_of_an_earlier_one(server, folder):
    """An adapter pushed, then a merged model to the same id: with both in the repository the adapter won silently."""
    hub.push(folder, hub.create("tester/cells"))
    server.repos["tester/cells"].commits[-1].files["notes.pdf"] = b"the owner's own"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).unlink()
    (folder / "model.safetensors").write_bytes(b"merged")
    hub.push(folder, "tester/cells")
    files = server.repos["tester/cells"].commits[-1].files
    assert not [name for name in files if name.startswith("adapter")]
    assert {"model.safetensors", "notes.pdf"} <= set(files)
    assert len(server.repos["tester/cells"].commits) == 3


def test_a_repository_that_exists_is_used_and_one_of_another_kind_is_not(server):
    assert hub.create("tester/cells") == hub.create("tester/cells") == "tester/cells"
    assert hub.create("cells") == "tester/cells", "without a name before the slash it is the login's own"
    server.repo("tester/other", {"model.safetensors": b"", "config.json": b"{}"})
    with pytest.raises(CheckpointError, match="it is another model; push to another id"):
        hub.create("tester/other")


# --- what can go wrong, before training


@pytest.mark.parametrize("token, repo_id, said", [
    ("hf_wrong", "tester/cells", "no valid login at http.*run `hf auth login`"),
    ("", "tester/cells", "no valid login"),
    (READS, "tester/cells", "may not write there"),
    (WRITES, "someone/cells", "may not write there"),
    (WRITES, "someone/theirs", "may not write there"),
    (WRITES, "a/b/c", "must look like user/name"),
])  # fmt: skip
def test_no_login_or_no_right_ends_it_before_training(server, monkeypatch, token, repo_id, said):
    """ "someone/theirs" exists: create_repo(exist_ok=True) is content with it, and the push failed after hours."""
    server.repo("someone/theirs")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CheckpointError, match=said):
        hub.create(repo_id)


def test_no_network_and_an_odd_answer_are_named(server, monkeypatch):
    server.down = True
    with pytest.raises(CheckpointError, match="the Hub answered 418 .*out of order"):
        hub.create("tester/cells")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="http://127.0.0.1:9 could not be reached"):
        hub.create("tester/cells")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set; unset it"):
        hub.create("tester/cells")


def test_a_base_that_does_not_come_is_said(server, tmp_path, monkeypatch):
    """No network at all, and a connection that breaks off in the middle of a download."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="acme/vlm could not be fetched from the Hub: "):
        checkpoint.find("acme/vlm")

    def breaks(*_, **__):
        raise HTTPError("peer closed connection without sending the whole body")

    monkeypatch.setattr("huggingface_hub.snapshot_download", breaks)
    with pytest.raises(CheckpointError, match="could not be fetched from the Hub: peer closed"):
        checkpoint.find("acme/vlm")


# --- what can go wrong, after training


def test_a_failed_upload_loses_nothing_and_its_command_tries_again(server, folder, capsys):
    hub.create("tester/cells")
    server.broken_upload = True
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(CheckpointError, match="answered 507 .*Nothing is lost") as caught:
        hub.push(folder, "tester/cells")
    assert before == {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert len(server.repos["tester/cells"].commits) == 1, "half an upload is no commit"
    python, *command = shlex.split(str(caught.value).split("run: ")[1])
    assert python == "python"
    assert command[:2] == ["-m", "t4s.hub"]
    for works in (False, True):
        server.broken_upload = not works
        assert hub_main(command[2:]) == (0 if works else 1)
        printed = capsys.readouterr()
        assert ("Nothing is lost" in printed.err) is not works
    assert printed.out.strip() == f"{server.url}/tester/cells/commit/{server.repos['tester/cells'].commits[-1].oid}"


@pytest.mark.parametrize("file, key, value", [
    ("adapter_config.json", "base_model_name_or_path", "/home/me/models/vlm"),
    ("adapter_config.json", "base_model_name_or_path", "C:\\models\\vlm"),
    ("t4s.json", "base_model", "../vlm"),
    ("config.json", "_name_or_path", "~/vlm"),
])  # fmt: skip
def test_a_path_of_the_machine_never_leaves_it(server, folder, file, key, value):
    content = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps({**content, key: value}))
    hub.create("tester/cells")
    with pytest.raises(CheckpointError, match=f"names {key} by a path of this machine.*--base-id"):
        hub.push(folder, "tester/cells")
    assert len(server.repos["tester/cells"].commits) == 1


@pytest.mark.parametrize("gone", ["t4s.json", "README.md", "adapter_model.safetensors"])
def test_half_a_checkpoint_is_not_pushed(server, folder, gone):
    (folder / gone).unlink()
    with pytest.raises(CheckpointError, match="give a folder that t4s/train.py has finished"):
        hub.push(folder, "tester/cells")
    with pytest.raises(CheckpointError, match="not a folder"):
        hub.push(folder / "nothing", "tester/cells")


# --- the card


def test_the_card_tells_what_it_is_and_nothing_of_the_machine(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "acme/vlm" and card.data.base_model_relation == "adapter"
    assert card.data.datasets == ["acme/leaves"] and card.data.pipeline_tag == "image-segmentation"
    (result,) = card.data.eval_results
    assert (result.metric_name, result.metric_value, result.dataset_name) == ("cIoU", 0.71234, "folder:PHOTOS@val")
    for said in ("| cIoU | 0.7123 | folder:PHOTOS@val | 300 |", "folder:PHOTOS@train*3", "hub:acme/leaves", "![",
                 "| steps | 2 |", "revision `ab12`", "16×16", "T4S_CHECKPOINT=tester/cells",
                 "Not stated: the base model's terms"):  # fmt: skip
        assert said in card.text, said
    assert "/home/me" not in str(card) and str(folder.parent) not in str(card) and "PEFT" not in str(card)


@pytest.mark.parametrize("spec, shown", [
    ("folder:/home/me/PHOTOS@train*3", "folder:PHOTOS@train*3"),
    ("folder:/home/me/PHOTOS@train*3, which it was trained on", "folder:PHOTOS@train*3, which it was trained on"),
    ("folder:/home/me/PHOTOS@val, 32 photos", "folder:PHOTOS@val, 32 photos"),
    ("hub:acme/leaves@train", "hub:acme/leaves@train"),
    ("hub:/home/me/leaves@train*2", "hub:leaves@train*2"),  # a folder that `datasets` loads
    ("synthetic:-crescent*2", "synthetic:-crescent*2"),
    ("/home/me/checkpoint", "checkpoint"),
    ("C:\\data\\checkpoint", "checkpoint"),
    ("acme/vlm", "acme/vlm"),
])  # fmt: skip
def test_a_corpus_is_named_without_this_machines_folders(folder, spec, shown):
    assert hub.public(spec) == shown
    if spec.startswith("hub:"):
        card = ModelCard.load(hub.write_card(folder, "tester/cells", [spec]))
        assert card.data.datasets == (["acme/leaves"] if "acme" in spec else None) and "/home/me" not in str(card)


def test_the_cards_code_parses_and_names_the_checkpoint(folder):
    (code,) = re.findall("```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    ast.parse(code)
    assert 'from_pretrained("tester/cells")' in code


def test_figures_replace_those_of_the_same_metric_and_data(folder):
    hub.add_figures(folder, [hub.Figure("cIoU", 0.8, "folder:/elsewhere/PHOTOS@val", 301),
                             hub.Figure("gIoU", 0.5, "refcoco:x@val", 7)])  # fmt: skip
    card = ModelCard.load(folder / "README.md")
    assert [(r.metric_name, r.metric_value) for r in card.data.eval_results] == [("cIoU", 0.8), ("gIoU", 0.5)]
    assert "0.7123" not in card.text and "| gIoU | 0.5 | refcoco:x@val | 7 |" in card.text
    assert "## Training" in card.text and card.data.base_model == "acme/vlm"


def test_each_data_set_has_its_own_results_in_the_cards_metadata(folder):
    """All stood under the first one's name and count, as the Hub's page shows them."""
    made = [hub.Figure("T-acc", 90.0, "voc", 5), hub.Figure("N-acc", 80.0, "voc", 7),
            hub.Figure("T-acc", 70.0, "msrc", 3)]  # fmt: skip
    hub.add_figures(folder, made)
    index = ModelCard.load(folder / "README.md").data.to_dict()["model-index"]
    results = {part["dataset"]["name"]: part["metrics"] for part in index[0]["results"]}
    assert [metric["value"] for metric in results["voc"]] == [90.0, 80.0]
    assert [metric["value"] for metric in results["msrc"]] == [70.0]
    text = (folder / "README.md").read_text()
    hub.add_figures(folder, made[:1])  # the others are read back, each with its own count
    assert "| N-acc | 80 | voc | 7 |" in text and (folder / "README.md").read_text() == text


def test_a_full_model_of_the_embedded_kind_has_no_base_on_the_hub(folder):
    (folder / "adapter_config.json").unlink()
    (folder / "t4s.json").write_text(json.dumps({**FORM, "base_model": "t4s-tiny", "base_revision": None}))
    card = ModelCard.load(hub.write_card(folder, "tester/cells", license="cc-by-nc-4.0"))
    assert card.data.base_model is None and card.data.license == "cc-by-nc-4.0"
    assert "A full model on the checkpoint that comes with t4s" in card.text and "Not measured." in card.text
    hub.add_figures(folder, [hub.Figure("cIoU", 0.6, "voc", 5)])
    assert "Not measured." not in (folder / "README.md").read_text()


def test_a_card_without_its_picture_or_its_marks_is_refused(folder):
    with pytest.raises(CheckpointError, match="'missing.png' is not in"):
        hub.write_card(folder, "tester/cells", picture="missing.png")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nan own card")
    with pytest.raises(CheckpointError, match="has no place for figures"):
        hub.add_figures(folder, [])
    (folder / "README.md").unlink()
    with pytest.raises(CheckpointError, match="has no README.md"):
        hub.add_figures(folder, [])


# --- the whole way, from train.py

TRAIN = ["--dataset", "synthetic", "--batch", "1", "--total-batch", "1", "--queries-per-image", "1", "--threads", "1",
         "--steps", "1", "--lora-rank", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small untrained checkpoint, to train on."""
    path = tmp_path_factory.mktemp("base")
    saving.write(create.fresh(["circle"], (4, 4), width=32, layers=1, seed=0), None, path)
    return path


@pytest.mark.parametrize("token, repo_id, said", [
    (READS, "tester/cells", "may not write there"),
    ("", "tester/cells", "no valid login"),
    (WRITES, "tester/other", "it is another model"),
])  # fmt: skip
def test_no_step_is_trained_without_a_place_to_push_to(server, tmp_path, monkeypatch, capsys, token, repo_id, said):
    server.repo("tester/other", {"model.safetensors": b"", "config.json": b"{}"})
    monkeypatch.setenv("HF_TOKEN", token)
    assert train.main([*TRAIN, "--out", str(tmp_path / "new"), "--push-to-hub", repo_id]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_dry_run_makes_no_repository(server, base, tmp_path):
    assert train.main([*TRAIN, "--base", str(base), "--out", str(tmp_path / "new"), "--push-to-hub", "--dry-run"]) == 0
    assert not server.repos and not [line for line in server.log if "create" in line]


def test_a_local_base_goes_up_merged_and_an_upload_that_broke_goes_up_later(server, base, tmp_path, capsys,
                                                                             monkeypatch):  # fmt: skip
    """What was trained lies on the disk, complete; training again with --resume pushes it without a step."""
    monkeypatch.setattr(run, "CARD_PHOTOS", 1)
    server.broken_upload = True
    on = [*TRAIN, "--base", str(base), "--out", str(tmp_path / "leaves"), "--push-to-hub", "--private"]
    assert train.main(on) == 2
    said = capsys.readouterr().err
    assert "Nothing is lost" in said and f"python -m t4s.hub {tmp_path / 'leaves'} tester/leaves" in said
    assert {"model.safetensors", "t4s.json", "README.md", "predictions.png"} <= {
        file.name for file in (tmp_path / "leaves").iterdir()
    }
    server.broken_upload = False
    assert train.main([*on, "--resume"]) == 0
    pushed = server.repos["tester/leaves"].commits[-1].files
    assert server.repos["tester/leaves"].private and len(server.repos["tester/leaves"].commits) == 2
    assert "adapter_config.json" not in pushed and json.loads(pushed["t4s.json"])["base_model"] is None
    assert not [name for name, content in pushed.items() if str(tmp_path).encode() in content]
    assert 'from_pretrained("tester/leaves")' in pushed["README.md"].decode()


def test_a_base_that_others_find_is_named_and_not_sent(server, base, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CARD_PHOTOS", 1)
    out = str(tmp_path / "leaves")
    assert train.main([*TRAIN, "--base", str(base), "--base-id", "acme/base", "--out", out, "--push-to-hub"]) == 0
    pushed = server.repos["tester/leaves"].commits[-1].files
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(pushed) and "model.safetensors" not in pushed
    assert json.loads(pushed["t4s.json"])["base_model"] == "acme/base"
    assert json.loads(pushed["adapter_config.json"])["base_model_name_or_path"] == "acme/base"
    assert ModelCard(pushed["README.md"].decode()).data.base_model == "acme/base"
    assert not [name for name, content in pushed.items() if str(base).encode() in content]
