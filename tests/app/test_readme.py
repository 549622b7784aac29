"""The snippets of the READMEs, run as they stand against a running app and a stand-in for the Hub."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hub_server import HubServer

ROOT = Path(__file__).resolve().parents[2]


def _snippets(language: str, word: str) -> list[str]:
    """The code blocks of a language, in the README and the app's own, that hold a word."""
    text = "".join((ROOT / file).read_text("utf-8") for file in ("README.md", "t4s/app/README.md"))
    found = re.findall(rf"```{language}\n(.*?)```", text, re.S)
    found = [code for code in found if word in code]
    assert found, f"the README shows no {language} with {word}"
    return found


@pytest.mark.parametrize("word", ["gradio_client", "mcp.client"])
def test_the_readmes_snippets_run_as_they_stand(address: str, word: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for code in _snippets("python", word):
        exec(code.replace("http://127.0.0.1:7860", address.rstrip("/")), {})


def test_the_readmes_two_calls_of_curl_end_with_the_answer(address: str):
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    (snippet,) = _snippets("sh", "curl")
    snippet = snippet.replace("http://127.0.0.1:7860/", address)
    done = subprocess.run(["sh", "-ec", snippet], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    last = done.stdout.split("event: complete\ndata: ")[1]
    assert json.loads(last)[-1]["query"] == "cat" and json.loads(last)[-1]["finished"]


def test_the_readmes_address_for_agents_is_the_apps(address: str):
    (config,) = _snippets("json", "mcpServers")
    (server,) = json.loads(config)["mcpServers"].values()
    assert server["url"].replace("http://127.0.0.1:7860/", address) == f"{address}gradio_api/mcp/"


def test_the_readmes_upload_makes_a_space_with_its_weights(tmp_path: Path):
    """Run as it stands, but for YOU, in a copy of the repository with what lies about in a used one."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    names = [name for name in tracked.stdout.split("\0") if name and (ROOT / name).exists()]
    for name in names:
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "work" / name)
    for name in (".venv/bin/python", "runs/a/model.safetensors", "t4s/__pycache__/a.pyc", ".git/config", ".gradio/x"):
        (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "work" / name).write_text("no")
    (snippet,) = _snippets("sh", "hf upload")
    with HubServer(tmp_path) as hub:
        paths = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-ec", snippet.replace("YOU", "tester")], cwd=tmp_path / "work",
                              env=hub.environment() | paths, capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr
        files = hub.repos["tester/text4seg"].commits[-1].files
    assert set(files) == {name for name in names if not name.startswith("tests/")}
    weights = "assets/t4s-tiny/model.safetensors"
    assert files[weights] == (ROOT / weights).read_bytes()
    assert hashlib.sha256(files[weights]).hexdigest() in hub.uploads  # through LFS
    assert files["README.md"].startswith(b"---\n") and b"sdk: gradio" in files["README.md"]
