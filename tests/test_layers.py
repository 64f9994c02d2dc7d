"""The house stands: imports point one way, no file imports itself around a corner, and nobody knows what is above."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import pytest

ROOT = Path(__file__).parents[1]

# Lowest first: a room may import what stands before it, and within its own folder whatever makes no circle.
FLOORS = (
    "_version files jobs words",
    "divergences ranks draws",
    "heads",
    "gates",
    "controls fused",
    "loss",
    "decoding.forward decoding.lean",
    "html",
    "packaged sources pairs templates conversations forms data_files data logits routers top_tokens",
    "decoding",
    "rollouts",
    "trace",
    "inspection",
    "gated_student",
    "evaluation",
    "training",
    "runs integrations",
    "cli",
    "__main__",
)
FOREIGN_TRAINERS = ("trl",)
PAGE = ("gradio", "plotly", "app")


@cache
def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file, of every module of a package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports: at its top, within functions, for types alone, or by a name in a string."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            found |= {word.value for word in node.args if is_module_name(word)}
        elif isinstance(node, ast.Dict | ast.Tuple | ast.List):  # a table of names that wait to be imported
            entries = node.values if isinstance(node, ast.Dict) else node.elts
            found |= {word.value for word in entries if is_module_name(word) and word.value not in formats()}
    return frozenset(found)


def is_module_name(node: ast.AST | None) -> TypeGuard[ast.Constant]:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return is_text and re.fullmatch(r"(speckd|app|tests)(\.[a-z_]+)+", node.value) is not None


@cache
def formats() -> frozenset[str]:
    """Names of file formats look like names of modules: "speckd.trace" is both."""
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / "speckd").rglob("*.py"))
    return frozenset(name for text in texts for name in re.findall(r'^FORMAT = "([a-z._]+)"', text, re.MULTILINE))


def imported_modules(package: str) -> Iterator[tuple[str, str]]:
    """(importer, imported) of every import within a package; a name of a module counts as that module."""
    known = modules(package)
    for name, path in known.items():
        for target in imports(path):
            while target and target not in known:
                target = target.rpartition(".")[0]
            own_folder = name.startswith(f"{target}.") and target != package
            if target and target != name and not own_folder:
                yield name, target


def floor_of(module: str) -> int | None:
    """The floor of a module of speckd: that of its own name, else of its folder. None for the package's face."""
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        for floor, rooms in enumerate(FLOORS):
            if ".".join(parts[:length]) in rooms.split():
                return floor
    return None


def test_every_room_has_a_floor() -> None:
    homeless = [name for name in modules("speckd") if name != "speckd" and floor_of(name) is None]
    assert not homeless, f"HOUSE: give these a floor in FLOORS: {homeless}"


def test_no_import_goes_uphill() -> None:
    uphill = []
    for importer, imported in imported_modules("speckd"):
        if importer == "speckd":
            continue  # the package's face hands names on
        if imported == "speckd":
            uphill.append(f"{importer} imports the package's face")
            continue
        low, high = floor_of(importer), floor_of(imported)
        assert low is not None and high is not None
        if high > low:
            uphill.append(f"{importer} -> {imported}")
    assert not uphill, uphill


@pytest.mark.parametrize("package", ["speckd", "app"])
def test_no_circle(package: str) -> None:
    arrows: dict[str, set[str]] = {}
    for importer, imported in imported_modules(package):
        if importer != package:
            arrows.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def walk(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, "a circle: " + " -> ".join([*way[way.index(module) :], module])
        if module in done:
            return
        for target in sorted(arrows.get(module, ())):
            walk(target, (*way, module))
        done.add(module)

    for module in sorted(arrows):
        walk(module, ())


def test_the_library_knows_neither_the_page_nor_a_foreign_trainer() -> None:
    for name, path in modules("speckd").items():
        heads = {target.split(".")[0] for target in imports(path)}
        assert not heads & set(PAGE), f"{name} imports {heads & set(PAGE)}"
        if not name.startswith("speckd.integrations"):
            assert not heads & set(FOREIGN_TRAINERS), f"{name} imports {heads & set(FOREIGN_TRAINERS)}"


def test_neither_package_imports_the_tests() -> None:
    for package in ("speckd", "app"):
        for name, path in modules(package).items():
            assert not any(target.split(".")[0] == "tests" for target in imports(path)), f"{name} imports tests"
    assert "tests" not in {target.split(".")[0] for target in imports(ROOT / "app.py")}


def test_figures_know_neither_torch_nor_gradio() -> None:
    heads = {target.split(".")[0] for target in imports(ROOT / "app" / "figures.py")}
    assert not heads & {"torch", "gradio"}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("def f():\n    from speckd.trace import Trace", "speckd.trace.Trace"),
        ("import importlib\nimportlib.import_module('speckd.training.trainer')", "speckd.training.trainer"),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import speckd.gates", "speckd.gates"),
    ],
)
def test_hidden_imports_are_seen(tmp_path: Path, line: str, found: str) -> None:
    (tmp_path / "module.py").write_text(line)
    assert found in imports(tmp_path / "module.py")
