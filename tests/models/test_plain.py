"""What `t4s export` writes loads elsewhere: by transformers alone, adapters merged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from t4s import Segmenter
from t4s.assets import asset
from t4s.models import loading, plain

ROOT = Path(__file__).resolve().parents[2]


def test_an_export_loads_by_transformers_alone(tmp_path, segmenter, examples, capsys):
    assert plain.main(["t4s-tiny", "-o", str(tmp_path / "out"), "--merged", "--dtype", "float32"]) == 0
    code = (
        "import sys, json, torch\nfrom transformers import AutoModelForImageTextToText, AutoProcessor\n"
        f"sys.path.insert(0, {str(ROOT)!r})\nimport t4s.models.tiny.vision_tower\n"  # its own tower registers itself
        f"model = AutoModelForImageTextToText.from_pretrained({str(tmp_path / 'out')!r})\n"
        f"AutoProcessor.from_pretrained({str(tmp_path / 'out')!r}, backend='pil')\n"
        "print(sum(p.numel() for p in model.parameters()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(p.numel() for p in loading.load(asset("t4s-tiny")).model.parameters())
    assert '"LABEL *" c16x1' in (tmp_path / "out" / "grammar.ebnf").read_text()
    again = Segmenter.from_pretrained(tmp_path / "out", device="cpu")
    photo = examples / "two_cats.jpg"
    assert again(photo, "cat", refine="none").text == segmenter(photo, "cat", refine="none").text
    assert plain.main(["t4s-tiny", "-o", str(tmp_path / "out"), "--merged"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_an_adapter_is_merged(tmp_path):
    """A LoRA adapter on a tiny base: the export has the base's shapes and the adapter's answers."""
    from t4s.models import create
    from t4s.training import lora
    from tests.support.families import build

    base = build("llava", tmp_path / "base")
    vlm = create.base(str(base), grid=(4, 4))
    adapted = lora.attach(vlm, 2, 4, 0.0)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    lora.save(adapted, vlm, tmp_path / "adapter")
    out = plain.export_merged(str(tmp_path / "adapter"), tmp_path / "out", "float32")
    assert not (out / "adapter_config.json").exists()
    stored = Segmenter.from_pretrained(out, device="cpu").vlm.model.state_dict()
    merged = Segmenter.from_pretrained(tmp_path / "adapter", device="cpu").vlm.model.state_dict()
    assert all(torch.equal(stored[name], weight) for name, weight in merged.items())
    plain_base = create.base(str(base), grid=(4, 4)).model.state_dict()
    assert any(not torch.equal(stored[name], weight) for name, weight in plain_base.items() if "q_proj" in name)
