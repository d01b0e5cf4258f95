"""The demo as a newcomer runs it: it holds, it tidies up, it says when something does not hold."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metaserver.cli.demo import DemoError, check
from metaserver.cli.demo_screen import sparkline
from metaserver.cli.demo_traffic import Traffic
from metaserver.cli.exit_codes import ExitCode
from tests.support import eventually

if TYPE_CHECKING:
    from tests.cli.conftest import Home


def test_the_whole_story(home: Home) -> None:
    home.calls_in_process = False
    ran = home.run("demo", "--seconds", "5")
    assert (ran.code, ran.err) == (0, "")
    done = [line[9:] for line in ran.out.splitlines() if re.match(r" *[0-9.]+ s  ok ", line)]
    assert len(done) == 9
    assert re.search(r"all [0-9,]+ acknowledged messages are on both, once, in order", ran.out)
    assert "FAIL" not in ran.out
    (directory,) = re.findall(r"started, in (\S+)", ran.out)
    assert not Path(directory).exists()


def test_control_c_leaves_nothing_behind(home: Home) -> None:
    with home.popen("demo", "--seconds", "60", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        directory = Path(line.rpartition(" in ")[2].strip())
        pids = [int((directory / "logs" / name).read_text()) for name in (".run.pid", ".run-slave.pid")]
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read().decode()
        assert process.wait(30) == ExitCode.INTERRUPTED
    assert ": interrupted" in rest
    assert "FAIL" not in rest
    assert not directory.exists()
    eventually(lambda: not any(Path(f"/proc/{pid}/fd").exists() for pid in pids), "the end of both nodes")


def test_a_reader_who_has_seen_enough_ends_it(home: Home) -> None:
    with home.popen("demo", "--seconds", "60", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        directory = Path(process.stdout.readline().decode().rpartition(" in ")[2].strip())
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0
    assert not directory.exists()


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ([(0, 1), (40, 2)], "lacks 1 acknowledged messages, the first is number 3"),
        ([(0, 1), (40, 2), (80, 2), (120, 3)], "twice, or out of order"),
        ([(0, 1), (40, 3), (80, 2)], "twice, or out of order"),
        ([(0, 1), (40, 2), (80, 3), (120, 5)], "1 messages that nobody has sent"),
        ([(0, 1), (41, 2), (80, 3)], "lacks 1 acknowledged messages, the first is number 2"),
    ],
)
def test_what_does_not_hold_is_said(found: list[tuple[int, int]], text: str) -> None:
    traffic = Traffic(acknowledged={1: 0, 2: 40, 3: 80}, unanswered={4})
    check("master", [(0, 1), (40, 2), (80, 3)], traffic)
    check("master", [(0, 1), (40, 2), (80, 3), (120, 4)], traffic)
    with pytest.raises(DemoError, match=text):
        check("master", found, traffic)


def test_a_sparkline_is_scaled_to_its_highest() -> None:
    from collections import deque

    assert sparkline(deque([0, 7, 14])) == "▁▅█"
    assert sparkline(deque([0, 0])) == "▁▁"
    assert sparkline(deque()) == ""
