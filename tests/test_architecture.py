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
ENTRIES = [file.name for file in sorted(PACKAGE.glob("*.py")) if "\nif __name__ ==" in file.read_text()]
ENTRIES.remove("__main__.py")

# Imports point to the left: each group may import the groups before it. Members of one group do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("limits", "assets", "prompts", "lexicon"),
    ("codec",),
    ("records",),
    ("imaging",),
    ("models", "refine", "decoding", "data"),
    ("segmenter",),
    ("hub",),
    ("evaluation",),
    ("training",),
    ("app",),
    ("train", "eval", "bench", "check", "label", "__main__"),
)
LAYER = {name: place for place, names in enumerate(LAYERS) for name in names}
# Within the fourth group from the left, and what the app must not know.
ALLOWED = {("refine", "models.efficientnet"), ("models", "decoding")}
APP_MUST_NOT_KNOW = {"hub", "evaluation", "training"}
MAX_ENTRIES, MAX_FILES, MAX_LINES = 25, 9, 400
TOP_LEVEL = {"app.py", "t4s", "assets", "tests", "requirements.txt", "README.md", "LICENSE", "pyproject.toml"}
EXPORTS = {
    "CheckpointError", "CodecError", "DataError", "EndpointError", "ImageError", "Prediction", "QueryError", "Sample",
    "Segmenter", "T4SError", "codec",
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
    """The package or top-level module that a file belongs to: `codec`, `records`."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def _modules() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def _imports(file: Path, typing: bool = True) -> set[str]:
    """Dotted names of everything a file imports, anywhere in it; `from t4s import codec` counts as t4s.codec."""
    found: set[str] = set()
    tree = ast.parse(file.read_text())
    if not typing:  # what stands under `if TYPE_CHECKING` is never executed
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative imports break `python t4s/{file.name}`"
            found.add(node.module or "")
            if node.module in ("t4s", "t4s.data.spec"):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _own(names: set[str]) -> set[str]:
    """Dotted names inside t4s, without `t4s.`; what `t4s/__init__.py` exports is traced to where it lives."""
    homes = {"Segmenter": "segmenter", "Sample": "records", "Prediction": "records"}
    inside = {name.removeprefix("t4s.") for name in names if name.startswith("t4s.")}
    return {homes.get(name, "errors" if name.endswith("Error") and "." not in name else name) for name in inside} - {
        "__version__"
    }


# --- imports ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", _modules(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_one_way(file: Path):
    unit = _unit(file)
    assert unit in LAYER, f"{unit} has no place in LAYERS"
    for name in _own(_imports(file)):
        other = name.partition(".")[0]
        if other == unit:
            continue
        assert other in LAYER, f"{file.name} imports t4s.{name}, which does not exist"
        lower = LAYER[other] < LAYER[unit]
        exception = any(unit == who and (name + ".").startswith(what + ".") for who, what in ALLOWED)
        assert lower or exception, f"{unit} imports {name}, which stands to its right"
        assert unit != "app" or other not in APP_MUST_NOT_KNOW, f"the app imports {name}"


def test_no_ring_within_a_package():
    """Modules of one package may import each other, but not in a circle."""
    for package in {_unit(file) for file in _modules() if file.parent != PACKAGE}:
        files = {
            ".".join(file.relative_to(PACKAGE).with_suffix("").parts): file
            for file in (PACKAGE / package).rglob("*.py")
        }
        within = {
            name: files.keys() & _own(_imports(file, typing=False)) - {name}
            for name, file in files.items()
            if file.name != "__init__.py"
        }
        while leaves := {name for name, others in within.items() if not others & within.keys()}:
            within = {name: others for name, others in within.items() if name not in leaves}
        assert not within, f"modules of {package} import each other in a circle"


def test_no_entry_point_is_imported():
    """`__main__` dispatches to them by name; anything else would drag argument parsing into the library."""
    entries = set(LAYERS[-1])
    for file in _modules():
        if file.name != "__main__.py":
            assert not {name.partition(".")[0] for name in _own(_imports(file))} & entries, file.name


def test_only_the_app_imports_gradio_and_only_app_py_spaces():
    for file in [*_modules(), PACKAGE / "__init__.py"]:
        found = {name.split(".")[0] for name in _imports(file)}
        assert not found & {"spaces", "gradio_client"}, file.name
        assert _unit(file) == "app" or "gradio" not in found, file.name


def test_a_newcomer_finds_the_way():
    """Few entries, few files in each, files that can be read in one sitting, and a contents list in each package."""
    listed = {name.split("/")[1] for name in _tracked() if name.startswith("t4s/")}
    assert len(listed) <= MAX_ENTRIES, sorted(listed)
    for folder in [folder for folder in PACKAGE.rglob("*") if (folder / "__init__.py").is_file()]:
        files = [file for file in folder.glob("*.py") if file.name != "__init__.py"]
        assert len(files) <= MAX_FILES, f"{folder.name} has {len(files)} files"
        contents = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        missing = [file.stem for file in files if not re.search(rf"\b{file.stem}\b", contents)]
        assert not missing, f"the docstring of {folder.name} does not list {missing}"
    lengths = {str(file): file.read_text().count("\n") for file in _modules() if file.name != "__init__.py"}
    assert max(lengths.values()) <= MAX_LINES, max(lengths, key=lengths.get)
    assert 100 <= sorted(lengths.values())[len(lengths) // 2] <= 250


def test_every_public_function_is_typed():
    for file in _modules():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                untyped = [
                    each.arg for each in arguments if each.annotation is None and each.arg not in ("self", "cls")
                ]
                assert not untyped and node.returns is not None, (
                    f"{file}:{node.lineno} {node.name} lacks types {untyped}"
                )


def test_no_test_module_imports_another():
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for name in _imports(file):
            assert not (name.startswith("tests.") and ".test_" in name), f"{file.name} imports {name}"


def test_importing_t4s_is_instant():
    heavy = "torch transformers gradio accelerate peft huggingface_hub".split()
    code = f"import sys, t4s; t4s.codec; print([name for name in {heavy} if name in sys.modules])"
    assert _python("-c", code).stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["--help", "segment --help", "check synthetic@val --limit 1 --sheet {sheet}"])
def test_what_needs_no_model_starts_without_torch(command: str, tmp_path):
    arguments = command.format(sheet=tmp_path / "sheet.png").split()
    code = (
        "import sys\nfrom t4s.__main__ import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
        "print('loaded:', [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    assert _python("-c", code).stdout.splitlines()[-1] == "loaded: []"


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
    """pyproject.toml repeats requirements.txt (a Space cannot install the package it is), less the app's own four."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    app = {line for line in lines if line and not line.startswith("#")}
    library = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert {re.split(r"[\[<>=]", line)[0] for line in app - library} == {"gradio", "spaces", "httpx", "safehttpx"}
    assert library < app
    assert not [line for line in app if line.startswith("torchvision")], "PyPI's torchvision breaks CPU torch"


def test_every_dependency_has_an_upper_bound():
    """A new major version is taken on purpose, not by whoever installs first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for extra in project["optional-dependencies"].values() for line in extra]
    for line in [*project["dependencies"], *lines, *(ROOT / "requirements.txt").read_text().splitlines()]:
        assert line.startswith("#") or re.search(r"<=?\d", line), f"{line} has no upper bound"


def test_the_lock_file_pins_what_is_asked_for():
    """`sh tests/run --locked` installs exactly these versions; each satisfies pyproject.toml."""
    from packaging.requirements import Requirement

    lines = (ROOT / "tests" / "requirements.lock").read_text().splitlines()
    locked = {re.sub(r"[-_.]+", "-", line.split("==")[0].lower()): line.split("==")[1] for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            name = re.sub(r"[-_.]+", "-", requirement.name.lower())
            assert requirement.specifier.contains(locked[name]), requirement


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
    from t4s.__main__ import COMMANDS

    for module, _ in COMMANDS.values():
        assert (PACKAGE / f"{module.replace('.', '/')}.py").is_file(), module
    assert {entry.removesuffix(".py") for entry in ENTRIES} <= set(LAYERS[-1])


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_script_opens_from_anywhere(entry: str):
    """--help must work from the root, from inside t4s/ and from /, and must not wait for torch."""
    script = PACKAGE / entry
    assert "sys.path[0] = " in script.read_text(), "--help would work, and the first import of t4s after it fail"
    for cwd, path in ((ROOT, f"t4s/{entry}"), (PACKAGE, entry), (Path("/"), str(script))):
        done = _python("-X", "importtime", path, "--help", cwd=cwd)
        assert "usage:" in done.stdout.lower()
        assert not _imported(done.stderr) & {"torch", "transformers"}, f"{entry} --help imports too much"


@pytest.mark.parametrize("module", [f"t4s.{entry.removesuffix('.py')}" for entry in ENTRIES] + ["t4s"])
def test_a_module_opens_too(module: str):
    done = _python("-X", "importtime", "-m", module, "--help")
    assert "usage:" in done.stdout.lower()
    assert not _imported(done.stderr) & {"torch", "transformers"}
