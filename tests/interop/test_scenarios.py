"""The table of upstream's scenarios in docs/compatibility/scenarios.md, and the tests it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = TESTS.parent / "docs" / "compatibility" / "scenarios.md"
SCENARIOS = 112
_ROW = re.compile(r"\| ([0-9]+(?:(?:-|, )[0-9]+)?) \| [^|]+ \| ([^|]+) \| ([^|]*) \|")


def text() -> str:
    return DOCUMENT.read_text(encoding="utf-8")


def rows() -> list[tuple[list[int], str, set[str]]]:
    """Numbers, what holds here, and the names of tests."""
    found = []
    for numbers, here, tests in _ROW.findall(text()):
        ends = [int(number) for number in re.findall(r"[0-9]+", numbers)]
        found.append((list(range(ends[0], ends[-1] + 1)), here, set(re.findall(r"`(test_\w+)`", tests))))
    return found


def functions() -> dict[str, set[int]]:
    """Every test there is, with the scenarios that its marker names."""
    found: dict[str, set[int]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found.setdefault(node.name, set()).update(_numbers_of(node))
    return found


def _numbers_of(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[int]:
    return {
        argument.value
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.scenario"
        for argument in decorator.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, int)
    }


def test_every_scenario_has_its_row() -> None:
    assert [number for numbers, _, _ in rows() for number in numbers] == list(range(1, SCENARIOS + 1))


def test_every_row_says_how_it_is_and_what_holds_it() -> None:
    for numbers, here, tests in rows():
        assert here.startswith(("same", "better on purpose: ")), numbers
        assert tests, numbers


def test_the_tests_that_the_table_names_are_there() -> None:
    assert set(re.findall(r"`(test_\w+)`", text())) - {
        "test_groups",
        "test_refusals",
        "test_failover",
    } <= set(functions())


def test_a_test_with_a_number_stands_in_its_row() -> None:
    held = {number: tests for numbers, _, tests in rows() for number in numbers}
    marked = {name: numbers for name, numbers in functions().items() if numbers}
    assert marked
    for name, numbers in marked.items():
        for number in numbers:
            assert name in held[number], f"scenario {number} is held by {name}, says its marker"
