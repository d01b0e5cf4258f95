"""docs/client.md tells what is so: its programs run, and its snippets call what there is."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from metaserver import client
from tests.client.brokers import Brokers
from tests.support import WAIT_SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "client.md"
ADDRESS = "metaq://127.0.0.1:8123"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


PROGRAMS = [block for page in (PAGE, ROOT / "README.md") for block in blocks(page) if ADDRESS in block]
SNIPPETS = [block for block in blocks(PAGE) if ADDRESS not in block]
OBJECTS: dict[str, type] = {
    "session": client.Session,
    "producer": client.Producer,
    "consumer": client.Consumer,
    "pending": client.PendingSend,
    "LocalStore": client.LocalStore,
}
RESULTS: dict[str, type] = {
    "sent": client.Sent,
    "message": client.ReceivedMessage,
    "lag": client.Lag,
    "report": client.FetchReport,
    "profile": client.Profile,
}
FUNCTIONS = {name: getattr(client, name) for name in client.__all__}


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    found = Brokers(tmp_path_factory.mktemp("brokers"), partitions=1)
    found.start()
    yield found
    found.end()


def test_there_is_a_program_for_each_kind() -> None:
    kinds = ("trio.run(main)", "asyncio.run(main())", "client.blocking import")
    assert [sum(kind in program for program in blocks(PAGE)) for kind in kinds] == [1, 1, 1]
    assert len(PROGRAMS) == 4


@pytest.mark.parametrize("program", PROGRAMS, ids=["trio", "asyncio", "blocking", "readme"])
def test_a_program_runs(brokers: Brokers, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace(ADDRESS, brokers.servers)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=WAIT_SECONDS_MAX,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("b'hello'\n", 0), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS, ids=["trio", "asyncio", "blocking", "readme"])
def test_a_program_is_short(program: str) -> None:
    body = [line for line in program.splitlines() if line]
    assert len(body) <= 12


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_uses_what_there_is(snippet: str) -> None:
    compile(snippet, "docs/client.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    used = 0
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = {**OBJECTS, **RESULTS}.get(node.value.id)
            if owner is not None:
                used += 1
                assert _has(owner, node.attr), f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call):
            _bind(node)
    assert used


def _has(owner: type, name: str) -> bool:
    return hasattr(owner, name) or (attrs.has(owner) and hasattr(attrs.fields(owner), name))


def _bind(call: ast.Call) -> None:
    """Raises TypeError where what is called takes no such arguments."""
    function = call.func
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    if isinstance(function, ast.Name) and function.id in FUNCTIONS:
        inspect.signature(FUNCTIONS[function.id]).bind(*call.args, **keywords)
    elif (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in OBJECTS
    ):
        method = inspect.getattr_static(OBJECTS[function.value.id], function.attr)
        target = method.__func__ if isinstance(method, classmethod) else method
        inspect.signature(target).bind(None, *call.args, **keywords)


def test_defaults_on_the_page_are_those_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for options in (client.SessionOptions, client.ConsumerOptions, client.ProducerOptions):
        for field in attrs.fields(options):
            for shown in re.findall(rf"`(?:\w+\.)?{field.name}` \(([0-9.]+)\)", page):
                assert float(shown) == field.default, field.name
