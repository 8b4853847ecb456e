"""The house: scripts on top of wings, wings on top of common floors, and every arrow down."""

import ast
import re

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


def test_a_main_is_one_screen():
    for script in ("distill", "benchmark", "ispeed", "sweep"):
        tree = ast.parse((ROOT / f"{script}.py").read_text())
        (main,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
        assert main.end_lineno - main.lineno < 40, script


@pytest.mark.parametrize("script", ["distill", "benchmark", "ispeed", "sweep"])
def test_scripts_stand_alone(script):
    assert all(name.startswith("disret.") for name in imports(ROOT / f"{script}.py"))
