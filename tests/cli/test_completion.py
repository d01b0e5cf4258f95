"""A shell completes verbs, verbs below them, and options."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.main import VERBS
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Ran


def complete(words: str, position: int) -> list[str]:
    """What the bash script would be answered."""
    ran = subprocess.run(
        [sys.executable, "-P", "-m", "metaserver"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_METASERVER_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.partition(",")[2] for line in ran.stdout.splitlines()]


def test_what_is_offered() -> None:
    assert complete("metaServer ", 1) == list(VERBS)
    assert complete("metaServer sta", 1) == ["start", "status", "stats"]
    assert complete("metaServer topics cr", 2) == ["create"]
    assert "--execute" in complete("metaServer groups reset --ex", 3)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts(call: Callable[..., Ran], shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = call("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert f"_METASERVER_COMPLETE={shell}_complete" in ran.out
    assert "metaServer.sh" in ran.out
    monkeypatch.setenv("SHELL", f"/usr/bin/{shell}")
    assert call("completion").out == ran.out
    monkeypatch.setenv("SHELL", "/bin/other")
    assert call("completion").code == ExitCode.USAGE


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_its_script(call: Callable[..., Ran], tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(call("completion", "bash").out)
    ran = subprocess.run(
        ["bash", "-c", f". {script}; complete -p metaServer metaServer.sh"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines()[0].endswith("metaServer")
