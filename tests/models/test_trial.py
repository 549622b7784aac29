"""Chat templates and adapter patterns without an end are stopped, and harmless ones are left alone."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from t4s.errors import CheckpointError
from t4s.models import loading, trial
from t4s.models.vlm import VLM

MODULES = ["model.language_model.layers.0.self_attn.q_proj." + "x" * 30, "model.language_model.layers.11.mlp.down_proj"]
LOOP = "{% for a in range(90000) %}{% for b in range(90000) %}{% for c in range(90000) %}{% endfor %}{% endfor %}"


@pytest.fixture(autouse=True)
def one_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """The trial's limits are constants of the script itself: a copy of it has shorter ones."""
    script = tmp_path / "trial.py"
    text = Path(trial.__file__).read_text("utf-8")
    script.write_text(text.replace("CPU_SECONDS, WALL_SECONDS = 5, 60", "CPU_SECONDS, WALL_SECONDS = 1, 60"))
    assert script.read_text() != text
    monkeypatch.setattr(trial, "__file__", str(script))


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (LOOP + "{% endfor %}", "does not come to an end"),
        ("{{ 'a' * 10 ** 10 }}", "takes more than"),
        (
            "{% set n = namespace(t='ab') %}{% for i in range(99) %}{% set n.t = n.t + n.t %}{% endfor %}",
            "",  # by memory or by time, whichever is first
        ),
        ("{% for a in range(90000) %}0123456789abcdef{% endfor %}", "takes more than"),
    ],
)
def test_a_template_without_an_end_is_stopped(template: str, says: str):
    started = time.monotonic()
    problem = trial.template_problem(template)
    assert problem and says in problem
    assert time.monotonic() - started < 40


@pytest.mark.parametrize(
    "template", ["", "{{ messages[0].content[1].text }}", "{% for", "{{ none.a.b }}", "{{ 1 / 0 }}"]
)
def test_templates_that_end_are_left_to_the_one_who_uses_them(template: str):
    assert trial.template_problem(template) == ""


def test_an_endless_template_of_a_checkpoint_is_named(fresh_vlm: VLM, tmp_path: Path):
    fresh_vlm.model.save_pretrained(tmp_path / "saved")
    fresh_vlm.processor.save_pretrained(tmp_path / "saved")
    fresh_vlm.config.write(tmp_path / "saved")
    (tmp_path / "saved" / "chat_template.jinja").write_text(LOOP + "{% endfor %}")
    with pytest.raises(CheckpointError, match="chat template of .* does not come to an end within"):
        loading.load(tmp_path / "saved", device="cpu")
    shutil.rmtree(tmp_path / "saved")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"target_modules": r"(\w+\.?)+(\w+\.?)+!"}, "does not come to an end"),
        ({"target_modules": "([", "r": 8}, "is not valid"),
        ({"rank_pattern": {r"([a-z_]+[.0-9]*)*!": 4}}, "does not come to an end"),
        ({"layers_pattern": [r"(x+x+)+y"]}, "does not come to an end"),
    ],
)
def test_patterns_without_an_end_are_stopped(config: dict, says: str):
    assert says in trial.patterns_problem(config, MODULES)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "([", "v_proj"]},  # a list holds names, not patterns
        {"target_modules": r"model\.language_model\..*(q|k|v|o)_proj", "rank_pattern": {"q_proj": 4}},
        {"target_modules": None, "rank_pattern": {}},
    ],
)
def test_harmless_patterns_pass(config: dict):
    assert trial.patterns_problem(config, MODULES * 500) == ""
