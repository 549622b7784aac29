"""The house itself: which module may import which, what lies where, and that every entry point opens from anywhere."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "t4s"
DOORS = [file.name for file in sorted(PACKAGE.glob("*.py")) if "\nif __name__ ==" in file.read_text()]
DOORS.remove("__main__.py")

# A module imports lower floors, and of its own floor only what stands before it: so arrows only point down.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "limits", "assets", "metrics", "prompts", "checkpoint", "recipe", "journal", "resample", "_outline"),
    ("_labels", "_cells", "_mend", "codec", "photo", "spoil"),
    ("samples", "grammar", "drafting", "edge", "tower"),
    (
        *("guided", "export", "render", "sam", "refine", "corpora", "augment"),
        *("constrain", "confidence", "absence", "evidence", "tiny", "alignment", "backbone", "loading"),
    ),
    ("outcomes", "decoding", "answering", "lists", "collate", "baselines", "scoring", "hub", "report", "page",
     "parcel", "story", "showcase", "lora", "starting", "learning", "cell_lesson"),
    ("segmenter", "validation", "publishing", "answerers", "desk", "endpoints", "bench_tokenizers", "bench_decoding",
     "bench_refine", "bench_places", "bench_absent", "attempts", "shots"),
    ("train_tower", "train_edge", "train", "eval", "bench", "check", "__main__"),
)
RANK = {name: (floor, place) for floor, names in enumerate(FLOORS) for place, name in enumerate(names)}
TOP_LEVEL = {"app.py", "t4s", "assets", "tests", "requirements.txt", "README.md", "LICENSE", "pyproject.toml"}
EXPORTS = {
    "CheckpointError", "CodecError", "DataError", "ImageError", "Prediction", "QueryError", "Sample", "Segmenter",
    "T4SError", "codec",
}  # fmt: skip
MAX_WEIGHTS = 40_000_000  # bytes of one shipped checkpoint


# --- what the tests look at ---------------------------------------------------------------------------


def _git(*arguments: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], input=stdin, capture_output=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return done.stdout


def _tracked() -> list[str]:
    return [name for name in _git("ls-files", "-z").decode().split("\0") if name]


def _unit(file: Path) -> str:
    """The house's name of a file: `codec`, and `corpora` for each file of the corpora."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def _modules() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def _imports(file: Path) -> set[str]:
    """Dotted names of everything a file imports, anywhere in it; `from t4s import codec` counts as t4s.codec."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports break `python t4s/{file.name}`"
            found.add(node.module or "")
            if node.module in ("t4s", "t4s.corpora"):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _own(names: set[str]) -> set[str]:
    """The house's units among imported names; what `t4s/__init__.py` exports is traced to where it lives."""
    homes = {"Segmenter": "segmenter", "Sample": "samples", "Prediction": "samples"}
    units = {name.split(".")[1] for name in names if name.startswith("t4s.")}
    return {homes.get(unit, "errors" if unit.endswith("Error") else unit) for unit in units} - {"__version__"}


# --- arrows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", _modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows_only_point_down(file: Path):
    unit = _unit(file)
    assert unit in RANK, f"{unit} has no floor: give it one in FLOORS, with the reason in its docstring"
    for other in _own(_imports(file)) - {unit}:
        assert other in RANK, f"{file.name} imports t4s.{other}, which is no module of the house"
        assert RANK[other] < RANK[unit], f"{unit} (floor {RANK[unit][0]}) imports {other} (floor {RANK[other][0]})"


def test_no_entry_point_is_imported():
    """`__main__` dispatches to them by name; anything else would drag argument parsing into the library."""
    doors = set(FLOORS[-1])
    for file in _modules():
        if file.name != "__main__.py":
            assert not _own(_imports(file)) & doors, file.name


def test_corpora_do_not_import_each_other_in_a_ring():
    within = {
        file.stem: {name.split(".")[2] for name in _imports(file) if name.count(".") >= 2 and ".corpora." in name}
        for file in (PACKAGE / "corpora").glob("*.py")
        if file.stem != "__init__"
    }
    while leaves := {name for name, others in within.items() if not others & within.keys()}:
        within = {name: others for name, others in within.items() if name not in leaves}
    assert not within


def test_only_the_app_imports_gradio_and_spaces():
    for file in _modules() + [PACKAGE / "__init__.py"]:
        assert not {name.split(".")[0] for name in _imports(file)} & {"gradio", "spaces", "gradio_client"}, file.name


def test_importing_t4s_is_instant():
    heavy = "torch transformers gradio accelerate peft huggingface_hub".split()
    code = f"import sys, t4s; t4s.codec; print([name for name in {heavy} if name in sys.modules])"
    assert _python("-c", code).stdout.strip() == "[]"


def test_what_is_exported_is_what_is_meant():
    import t4s

    assert set(t4s.__all__) == EXPORTS
    assert set(dir(t4s)) >= EXPORTS
    assert all(getattr(t4s, name) is not None for name in EXPORTS)
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = t4s.segment


def test_no_module_shadows_another():
    """`python t4s/train.py` puts t4s/ first on the path: a t4s/types.py would then break `import enum`."""
    installed = {name for name, homes in importlib.metadata.packages_distributions().items() if homes != ["t4s"]}
    foreign = set(sys.stdlib_module_names) | installed
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not (names - {"__init__", "__main__"}) & foreign


# --- the repository -----------------------------------------------------------------------------------


def test_the_top_level_holds_nothing_else():
    """Dot files may come and go; `.venv` and the like are ignored and so not tracked."""
    top = {name.split("/")[0] for name in _tracked()}
    assert {name for name in top if not name.startswith(".")} == TOP_LEVEL
    assert {".gitattributes", ".gitignore"} <= top


def test_weights_are_plain_files():
    """.gitattributes has the Hub's LFS patterns, so git-lfs, where installed, makes pointers of added weights.

    A pointer in the index leaves every clone without the model. The index is read, not the working
    tree: there git-lfs would show the weights again.
    """
    large = [line.split(": ")[0] for line in _attributes(_tracked()) if line.endswith(": filter: lfs")]
    assert any(name.endswith(".safetensors") for name in large)
    for name in large:
        assert not _git("cat-file", "blob", f":{name}").startswith(b"version https://git-lfs"), f"{name} is a pointer"


def _attributes(names: list[str]) -> list[str]:
    return _git("check-attr", "--stdin", "filter", stdin="\n".join(names).encode()).decode().splitlines()


def test_weights_are_small_safetensors():
    pickled = re.compile(r"\.(bin|pt|pth|ckpt|pkl|pickle|npy|npz|h5)$")
    assert not [name for name in _tracked() if pickled.search(name)]
    for folder in ("t4s-tiny", "t4s-edge"):
        weights = list((ROOT / "assets" / folder).rglob("*.safetensors"))
        assert weights, f"assets/{folder} has no weights"
        assert sum(file.stat().st_size for file in weights) < MAX_WEIGHTS


def test_no_text_names_a_machine():
    """A path of the machine something was made on helps nobody and tells too much."""
    parts = (("/wo", "rk/"), ("/tmp/", "venv"), ("/ro", "ot/"), ("/opt/", "pypi"), ("sha", "red/photos"))
    homes = r"/home/(?!(?:x|me|you)\b)\w|/Users/\w"  # /home/x/ may stand for anyone's
    place = re.compile("|".join([first + second for first, second in parts] + [homes]))  # so that this file is no hit
    for name in _tracked():
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        assert not place.findall(text), name


def test_requirements_agree():
    """pyproject.toml repeats requirements.txt (a Space cannot install the package it is), less the app's own two."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    app = {line for line in lines if line and not line.startswith("#")}
    library = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {re.split(r"[\[<>=]", line)[0] for line in app - library} == {"gradio", "spaces"}
    assert library < app
    assert not [line for line in app if line.startswith("torchvision")], "PyPI's torchvision breaks CPU torch"


def test_what_the_library_imports_is_declared():
    """tqdm was there only because something else asks for it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [line for lines in (project["dependencies"], *extras.values()) for line in lines]
    declared = {re.split(r"[\[<>=]", line)[0] for line in lines}
    called = {"PIL": "pillow", "pydensecrf": "pydensecrf2"}  # imported under another name
    found = {name.split(".")[0] for file in _modules() for name in _imports(file)}
    found -= {"t4s", *sys.stdlib_module_names}
    assert {called.get(name, name) for name in found} <= declared


def test_ruff_has_nothing_to_say():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "-q", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# --- entry points -------------------------------------------------------------------------------------


def _python(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )
    assert done.returncode == 0, re.sub(r"(?m)^import time:.*\n", "", done.stderr)
    return done


def _imported(importtime: str) -> set[str]:
    """Top-level names of what `python -X importtime` lists."""
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in importtime.splitlines() if line.count("|") == 2}


def test_every_command_has_its_module():
    from t4s.__main__ import DOORS as COMMANDS

    assert {f"{module}.py" for module, _ in COMMANDS.values()} <= set(DOORS)
    assert {door.removesuffix(".py") for door in DOORS} - {"hub"} <= set(FLOORS[-1])  # hub: a push that failed, again


@pytest.mark.parametrize("door", [door for door in DOORS if door != "hub.py"])  # python -m t4s.hub
def test_a_script_opens_from_anywhere(door: str):
    """--help must work from the root, from inside t4s/ and from /, and must not wait for torch."""
    script = PACKAGE / door
    assert "sys.path[0] = " in script.read_text(), "--help would work, and the first import of t4s after it fail"
    for cwd, path in ((ROOT, f"t4s/{door}"), (PACKAGE, door), (Path("/"), str(script))):
        done = _python("-X", "importtime", path, "--help", cwd=cwd)
        assert "usage:" in done.stdout.lower()
        assert not _imported(done.stderr) & {"torch", "transformers"}, f"{door} --help imports too much"


@pytest.mark.parametrize("module", [f"t4s.{door.removesuffix('.py')}" for door in DOORS] + ["t4s"])
def test_a_module_opens_too(module: str):
    done = _python("-X", "importtime", "-m", module, "--help")
    assert "usage:" in done.stdout.lower()
    assert not _imported(done.stderr) & {"torch", "transformers"}
