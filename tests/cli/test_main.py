"""The table of verbs, the help, and what a shell sees of mistakes."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from metaserver import __version__
from metaserver.cli.exit_codes import MEANINGS, ExitCode
from metaserver.cli.main import VERBS
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Home, Ran

    Call = Callable[..., Ran]


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "help"])
def test_each_verb_is_a_command_with_help(verb: str, call: Call) -> None:
    command = getattr(import_module(f"metaserver.cli.{VERBS[verb].module}"), verb.replace("-", "_"))
    assert isinstance(command, click.Command)
    ran = call("help", verb)
    assert ran.code == 0
    assert f"metaServer {verb}" in ran.out


def test_help_lists_every_verb_and_every_exit_code(call: Call) -> None:
    ran = call("help")
    assert ran.code == 0
    assert all(f"\n  {verb.usage}" in ran.out for verb in VERBS.values())
    assert all(f"{int(code):>3}  {MEANINGS[code]}" in ran.out for code in ExitCode)
    assert call("--help").out == ran.out


def test_the_page_for_readers_knows_every_verb_and_exit_code() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"`{verb}" not in page and f"`metaServer {verb}" not in page] == []
    assert [code for code in ExitCode if f"| {int(code)} |" not in page] == []


def test_version(call: Call) -> None:
    assert call("--version").out.startswith(f"metaServer {__version__}")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("strat", "start"),
        ("sttop", "stop"),
        ("slavestatus", "slave-status"),
        ("veryfi", "verify"),
        ("x", "top"),
    ],
)
def test_an_unknown_verb_names_the_nearest(wrong: str, right: str, call: Call) -> None:
    ran = call(wrong)
    assert ran.code == ExitCode.USAGE
    assert ran.err.startswith(f"metaServer: there is no verb '{wrong}'; do you mean `{right}`?")
    assert call("help", wrong).code == ExitCode.USAGE


def test_no_verb_and_no_such_option(call: Call) -> None:
    assert call().code == ExitCode.USAGE
    ran = call("status", "--jason")
    assert ran.code == ExitCode.USAGE
    assert "--json" in ran.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["start", "slaev"], "'slaev' is no kind of node"),
        (["start", "-Fmetaslav=x"], "do you mean -Fmetaslave=FILE?"),
        (["start", "-Fmetaslave"], "do you mean -Fmetaslave=FILE?"),
        (["start", "-Fzzz=x"], "what there is: -Fmetaslave=FILE"),
        (["start", "slave", "-Fsamsa=x"], "-Fsamsa=x makes the node a samsa, and `slave` something else"),
        (["start", "samsa", "-Fmetaslave=x"], "makes the node a slave, and `samsa` something else"),
        (["start", "-Fgregor"], "do you mean -Fgregor=FILE?"),
    ],
)
def test_which_node_is_meant_must_be_clear(words: list[str], text: str, call: Call) -> None:
    ran = call(*words)
    assert (ran.code, text in ran.err) == (ExitCode.USAGE, True)


def test_the_parent_of_a_start_imports_nothing_heavy(home: Home) -> None:
    """``start`` spawns a process that does: paying twice would show."""
    code = (
        "import sys, metaserver.cli.lifecycle, metaserver.cli.processes;"
        "print([name for name in ('trio', 'rich', 'structlog', 'anyio') if name in sys.modules])"
    )
    assert home.python(code) == "[]\n"


def test_a_program_beside_a_checkout_called_metaserver_gets_the_package(tmp_path: Path) -> None:
    """Not the folder, which looks like a package without a file of its own."""
    (tmp_path / "metaserver" / "metaserver").mkdir(parents=True)
    program = tmp_path / "program.py"
    program.write_text("from metaserver import __version__\nprint(__version__)\n", encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (f"{__version__}\n", 0), done.stderr


@pytest.mark.parametrize("is_buffered", [False, True])
@pytest.mark.parametrize("words", [["help"], ["check-config"], ["status"]])
def test_output_that_cannot_be_written_is_one_sentence(
    home: Home, words: list[str], monkeypatch: pytest.MonkeyPatch, *, is_buffered: bool
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "" if is_buffered else "1")
    with Path("/dev/full").open("wb") as full:
        process = home.popen(*words, stdout=full.fileno(), stderr=-1)
        _, err = process.communicate(timeout=30)
    assert err == b"metaServer: standard output: No space left on device\n"
    assert process.returncode == ExitCode.FAILED


def test_a_reader_who_has_seen_enough_is_no_error(home: Home) -> None:
    process = home.popen("help", stdout=-1, stderr=-1)
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, b"")


def test_ctrl_c_while_it_is_being_loaded_says_nothing() -> None:
    program = """
        import signal, sys

        class Interrupter:
            def find_spec(self, name, path=None, target=None):
                if name == "click":
                    signal.raise_signal(signal.SIGINT)

        # A program that a shell began in the background ignores the signal otherwise.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.meta_path.insert(0, Interrupter())
        from metaserver.__main__ import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")
