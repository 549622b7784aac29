"""`t4s import`: from a Hub id in the original layout to a repository that anyone loads; killed, it goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants

from t4s import Segmenter, hub
from t4s.hub import importing
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.original import convert
from tests.support import original_llava as original
from tests.support.hub_server import HubServer, taken_for_the_hub

ROOT = Path(__file__).resolve().parents[2]
KNOWN_ID = "acme/original"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A Hub with a known checkpoint in the original layout on it."""
    original.write(tmp_path / "old")
    files = {file.name: file.read_bytes() for file in (tmp_path / "old").iterdir()}
    monkeypatch.setitem(convert.KNOWN["checkpoints"], KNOWN_ID, {"grid": [24, 24], "licence": "non-commercial"})
    with HubServer(tmp_path / "hub") as running:
        taken_for_the_hub(running, monkeypatch)
        monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
        running.repo(KNOWN_ID, files)
        yield running


def test_an_imported_checkpoint_is_pushed_and_keeps_its_licence(server, tmp_path, capsys):
    out = tmp_path / "new"
    assert importing.main([KNOWN_ID, "-o", str(out), "--push-to-hub", "tester/mine"]) == 0
    assert "Its licence is non-commercial" in capsys.readouterr().err
    pushed = server.repos["tester/mine"].commits[-1].files
    assert {"t4s.json", "README.md", "tokenizer.json", "config.json"} <= set(pushed)
    Segmenter.from_pretrained("tester/mine", device="cpu")
    assert "The weights of tester/mine are licensed 'non-commercial'" in capsys.readouterr().err
    card = ModelCard.load(hub.write_card(out, "tester/trained-further"))
    assert (card.data.license, card.data.license_name) == ("other", "non-commercial")
    assert "`non-commercial`" in card.text


def test_a_known_id_is_converted_once(server, monkeypatch):
    first = Segmenter.from_pretrained(KNOWN_ID, device="cpu")
    assert first.vlm.config == CheckpointConfig.read(convert.converted(KNOWN_ID))
    monkeypatch.setattr(convert, "convert_id", lambda *_: pytest.fail("it was converted again"))
    assert Segmenter.from_pretrained(KNOWN_ID, device="cpu").vlm.config.grid == (24, 24)


def test_a_repository_that_may_not_be_written_ends_it_before_anything_is_fetched(server, tmp_path, capsys):
    server.log.clear()
    assert importing.main([KNOWN_ID, "-o", str(tmp_path / "new"), "--push-to-hub", "others/model"]) == 2
    assert "The repository others/model cannot be used" in capsys.readouterr().err
    assert not [line for line in server.log if KNOWN_ID in line] and not (tmp_path / "new").exists()


@pytest.mark.long
def test_a_killed_conversion_goes_on(tmp_path):
    """Killed (-9) after its first shards: nothing has the final name, and the next run ends as an undisturbed one."""
    original.write(tmp_path / "old")
    code = f"""
import sys, time; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from t4s.models.original import convert
from t4s.models.original.shards import ShardWriter
convert.SMALLEST_SHARD, convert.SHARD_SHARE = 100_000, 1000
flush = ShardWriter.flush
def slow(writer):
    flush(writer)
    time.sleep(float(sys.argv[2]))
ShardWriter.flush = slow
convert.convert(Path({str(tmp_path / "old")!r}), Path(sys.argv[1]), (16, 16), progress=False)
"""
    out, part = tmp_path / "new", tmp_path / "new.part"
    running = subprocess.Popen([sys.executable, "-c", code, str(out), "0.2"])
    deadline = time.monotonic() + 120
    while len(list(part.glob("*.safetensors"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert part.is_dir() and not out.exists()
    subprocess.run([sys.executable, "-c", code, str(out), "0"], check=True)
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "clean"), "0"], check=True)
    files = {file.name: file.read_bytes() for file in out.iterdir()}
    clean = {file.name: file.read_bytes() for file in (tmp_path / "clean").iterdir()}
    assert files.keys() == clean.keys()
    assert [name for name in files if files[name] != clean[name]] == []
