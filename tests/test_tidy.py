"""The rules of docs/contributing.md that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metaserver"
MODULES = sorted(PACKAGE.rglob("*.py"))
MODULE_LINES_MAX = 600
TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "bin",
    "conf",
    "docs",
    "metaserver",
    "pyproject.toml",
    "tests",
    "tools",
}


@attrs.frozen
class Ban:
    """A spelling that has a better one."""

    spelling: str
    instead: str
    allowed: tuple[str, ...] = ()
    """Paths below metaserver/ (a folder ends in a slash) where it is right."""


# Where programs begin, and the waits of those that talk to a broker from outside.
_CLOCK_READERS = ("node/", "cli/", "client/", "control/client.py")

BANS = [
    Ban(r"\btime\.(time|monotonic|perf_counter)\(", "the Clock that is handed in", _CLOCK_READERS),
    Ban(r"\btime\.sleep\(", "trio.sleep", ("cli/",)),
    Ban(
        r"(?<![\w.])(?<!def )open\(",
        "the FileSystem, or files.py",
        ("storage/filesystem.py", "files.py", "cli/"),
    ),
    Ban(r"(?<![\w.])print\(", "a log line", ("cli/",)),
    Ban(r"\bTODO\b|\bFIXME\b|\bXXX\b", "an issue"),
]


def _name(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def _code(module: Path) -> str:
    """The source with its string literals blanked: a docstring may name what code may not do."""
    source = module.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno is not None:
            for number in range(node.lineno - 1, node.end_lineno):
                line = lines[number].encode()
                start = node.col_offset if number == node.lineno - 1 else 0
                end = node.end_col_offset if number == node.end_lineno - 1 else len(line.rstrip(b"\n"))
                blank = b" " * ((end or start) - start)
                lines[number] = (line[:start] + blank + line[start + len(blank) :]).decode()
    return "".join(lines)


def _tracked() -> set[str]:
    """First path elements of what is, or would be, in the repository."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0 and listing.stdout:
        return {line.partition("/")[0] for line in listing.stdout.splitlines()}
    return {path.name for path in ROOT.iterdir()} - {"build", "dist", "logs", "meta", "metaserver.egg-info"}


def test_there_are_modules() -> None:
    assert PACKAGE / "message.py" in MODULES


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_module_size(module: Path) -> None:
    lines = len(module.read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES_MAX, "a module this long does two things"


@pytest.mark.parametrize("ban", BANS, ids=lambda ban: ban.instead)
def test_banned_spellings(ban: Ban) -> None:
    found = [
        f"{_name(module)}:{number}: {line.strip()}"
        for module in MODULES
        if not _name(module).startswith(ban.allowed or ("\0",))
        for number, line in enumerate(_code(module).splitlines(), 1)
        if re.search(ban.spelling, line)
    ]
    assert not found, f"use {ban.instead}"


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_broad_except_says_why(module: Path) -> None:
    source = module.read_text(encoding="utf-8")
    lines = source.splitlines()
    silent = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
            continue
        last = node.body[-1]
        raises_again = isinstance(last, ast.Raise) and last.exc is None
        before, line = lines[node.lineno - 2], lines[node.lineno - 1]
        reason = re.sub(r"noqa: [A-Z0-9, ]+", "", line.partition("#")[2])
        if not raises_again and not reason.strip(" -:") and not before.strip().startswith("#"):
            silent.append(node.lineno)
    assert not silent, "say beside it why nothing narrower will do"


def _is_broad(caught: ast.expr | None) -> bool:
    return caught is None or (isinstance(caught, ast.Name) and caught.id in {"Exception", "BaseException"})


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_public_names_have_docstrings(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or module.stat().st_size == 0, "the module has no docstring"
    bare = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert not bare


def test_nothing_unexpected_at_the_top() -> None:
    assert {name for name in _tracked() if not name.startswith(".")} <= TOP_LEVEL


def test_text_is_utf8_without_tabs_or_trailing_blanks() -> None:
    for path in [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert "\t" not in line, f"{path}:{number}: a tab"
            assert line == line.rstrip(), f"{path}:{number}: blanks at the end"
