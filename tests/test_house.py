"""The house: scripts on top of wings, wings on top of common floors, and every arrow down."""

import ast
import importlib
import io
import re
import sys

import pytest
from conftest import ROOT

# From the bottom up; a wing may import itself, those before it and the modules above the wings.
WINGS = ["data", "encode", "retrieve", "serve", "distil", "sweep"]
MAY_IMPORT = {wing: WINGS[: number + 1] for number, wing in enumerate(WINGS)}
MAY_IMPORT["example"] = ["data", "encode", "example"]
MODULES = sorted((ROOT / "disret").rglob("*.py"))


def imports(path):
    """Modules of this project that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if (ROOT / f"{name.replace('.', '/')}.py").exists())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_arrows_point_down(path):
    wing = path.parent.name if path.parent != ROOT / "disret" else None
    for name in imports(path):
        first, *rest = name.split(".")
        assert first == "disret", f"imports the script {name}"
        of = rest[0] if len(rest) > 1 else None
        assert of is None or of in MAY_IMPORT.get(wing, ()), f"imports {name}"


def test_no_circles():
    """Of two modules of a wing, one does not know the other."""
    arrows = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): set(imports(path))
        for path in MODULES
    }
    while floor := [name for name, below in arrows.items() if not below & arrows.keys()]:
        for name in floor:
            del arrows[name]
    assert not arrows


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=str)
def test_wings_say_what_they_are(path):
    wing = path.parent.name
    assert wing == "disret" or wing in MAY_IMPORT
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said.strip()
    if wing != "disret":
        assert {line.partition(":")[0] for line in said.splitlines()} >= {"In", "May import"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_modules_say_facts_and_scripts_name_flags(path):
    """But for the module of the command line, and the `main` of a module that is a command."""
    tree = ast.parse(path.read_text())
    commands = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main"]
    own = {id(node) for command in commands for node in ast.walk(command)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and id(node) not in own:
            texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            assert not [t for t in texts if isinstance(t, str) and re.search(r"--[a-z]", t)]


SCRIPTS = {"distill": 300, "benchmark": 260, "ispeed": 200, "sweep": 140}  # lines, at most
SERVER = ("__main__", "api", "batching", "comparison", "measures", "watch")
BEYOND = sorted((ROOT / "beyond").glob("*.py"))


def functions(path):
    return [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_begin_with_the_method(script):
    path = ROOT / f"{script}.py"
    assert path.read_text().count("\n") <= SCRIPTS[script]
    (main,) = (function for function in functions(path) if function.name == "main")
    assert main.end_lineno - main.lineno < 40
    first = next(f for f in functions(path) if f.name not in ("main", "parse_args"))
    assert first.lineno <= 120


def test_the_method_is_in_sight():
    sources = {script: (ROOT / f"{script}.py").read_text() for script in SCRIPTS}
    assert re.search(r"^def init_from_layers", sources["distill"], re.MULTILINE)
    assert "loss = EmbedDistillLoss(" in sources["distill"]
    for step in ("open_index(", "query_vectors(", "= search(", "metrics("):
        assert step in sources["benchmark"]
    assert "time.perf_counter()" in sources["ispeed"]


def flags(script, monkeypatch):
    """Those of `--help`, without the ones that every script has."""
    with monkeypatch.context() as patch, pytest.raises(SystemExit), io.StringIO() as shown:
        patch.setattr(sys, "argv", [f"{script}.py", "--help"])
        patch.setattr(sys, "stdout", shown)
        try:
            importlib.import_module(script).parse_args()
        finally:
            text = shown.getvalue()
    found = set(re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE))
    return found - {"--debug", "--version", "--device", "--mirror"}


def test_flags_are_few(monkeypatch):
    counts = {script: len(flags(script, monkeypatch)) for script in SCRIPTS}
    assert counts["distill"] <= 35
    assert sum(counts.values()) <= 65


def test_the_authors_flags_are_there(monkeypatch):
    theirs = {
        "distill": "teacher init-with output layers keep-order train-batch-size eval-batch-size "
        "max-seq-length warmup-steps eval-steps num-epochs adamw-lr adamw-eps mixed-precision",
        "benchmark": "datasets document-encoder query-encoder split output extension k-values "
        "score-function batch-size",
        "ispeed": "encoders datasets batch-sizes max-sentences num-runs output",
    }
    for script, names in theirs.items():
        assert {f"--{name}" for name in names.split()} <= flags(script, monkeypatch)


def test_modules_know_no_arguments():
    """But for the command line's own, the server's command, and the `main` of another."""
    for path in MODULES:
        if path.name not in ("command_line.py", "__main__.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [getattr(node, "id", None), getattr(node, "attr", None)]
                assert "Namespace" not in names, path
                arguments = node.args.args if isinstance(node, ast.FunctionDef) else []
                assert "args" not in [argument.arg for argument in arguments] or any(
                    argument.arg == "state"
                    for argument in arguments  # of the trainer's callbacks
                ), path


def test_the_house_is_small():
    server = [ROOT / "disret" / "serve" / f"{name}.py" for name in SERVER]
    counts = {path: path.read_text().count("\n") for path in (*MODULES, *BEYOND)}
    assert len(counts) - len(server) <= 72
    assert sum(counts.values()) - sum(counts[path] for path in server) <= 11_800
    assert sum(counts[path] for path in server) <= 1_110


@pytest.mark.parametrize("path", BEYOND, ids=lambda path: path.stem)
def test_commands_beyond_the_paper_stand_alone(path):
    assert all(name.startswith("disret.") for name in imports(path))
    assert path.stat().st_mode & 0o111
    assert f"python beyond/{path.name}" in ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_stand_alone(script):
    assert all(name.startswith("disret.") for name in imports(ROOT / f"{script}.py"))
