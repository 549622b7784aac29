"""train.py and label.py as scripts of `uv run`: what their headers ask for is what the package asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEADER = re.compile(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$")  # the standard's own expression


@pytest.mark.parametrize(("script", "extras"), [("train.py", ()), ("label.py", ("label", "datasets"))])
def test_the_header_of_a_script_is_the_packages_own_list(script: str, extras: tuple[str, ...]):
    found = HEADER.search((ROOT / "t4s" / script).read_text())
    content = "".join(line.removeprefix("#").removeprefix(" ") for line in found["content"].splitlines(keepends=True))
    header = tomllib.loads(content)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    assert header["requires-python"] == project["requires-python"] and header["dependencies"] == wanted
