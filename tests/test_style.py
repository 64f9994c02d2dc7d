"""Functions of over sixty lines (docstring not counted) say why in their first comment; no test runs a coroutine on the
thread of Playwright's loop."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LONGEST = 60


def test_a_long_function_says_why() -> None:
    silent = []
    for path in [*(ROOT / "speckd").rglob("*.py"), *(ROOT / "app").rglob("*.py"), ROOT / "app.py"]:
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            documented = ast.get_docstring(node, clean=False) is not None
            n_documentation = node.body[0].end_lineno - node.body[0].lineno + 1 if documented else 0  # type: ignore[operator]
            assert node.end_lineno is not None
            n_lines = node.end_lineno - node.lineno + 1 - n_documentation
            if n_lines > LONGEST and not any("# Long: " in line for line in lines[node.lineno - 1 : node.end_lineno]):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {n_lines} lines")
    assert not silent, silent


def test_a_coroutine_of_a_test_runs_on_a_thread_of_its_own() -> None:
    """`asyncio.run` fails on a worker that ran a browser test before: tests/coroutines.py says why."""
    tests = ROOT / "tests"
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in tests.rglob("*.py")
        if path != tests / "coroutines.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and node.attr in {"run", "run_until_complete"}
        and isinstance(node.value, ast.Name)
        and node.value.id in {"asyncio", "anyio"}
    ]
    assert not bare, f"use tests.coroutines.run: {bare}"
