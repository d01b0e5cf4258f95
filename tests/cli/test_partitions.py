"""Partitions closed and opened while the broker runs; moved and removed while it does not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from metaserver.cli.exit_codes import ExitCode
from metaserver.storage import RealFileSystem
from tests.support import get, put

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home


def test_closed_ones_refuse_until_they_are_opened(home: Home) -> None:
    home.configure(topics="[topic=t*]\nnumPartitions=3\n")
    home.start()
    names = ["-topic", "test", "-start", "1", "-end", "2", "-host", "127.0.0.1", "-port", "9123"]
    with home.connect() as wire:
        assert [wire.ask(put("test", b"x", n, partition=n)).status for n in range(3)] == [200] * 3
        assert home.run("close-partitions", *names, "--dry-run").out == (
            "partitions 1, 2 of test would be closed\n"
        )
        assert wire.ask(put("test", b"x", 3, partition=1)).status == 200
        ran = home.run("close-partitions", *names)
        assert (ran.code, ran.out) == (0, "partitions 1, 2 of test are closed\n")
        assert [wire.ask(put("test", b"x", n, partition=n)).status for n in range(3)] == [200, 403, 403]
        assert wire.ask(get("test", 0, 100, 4, partition=1)).status == 403
        lines = home.run("topics").out.splitlines()
        assert [line.split()[-1] == "closed" for line in lines[1:4]] == [False, True, True]
        assert home.run("open-partitions", "-topic", "test", "--dry-run").out == (
            "partitions 1, 2 of test would be open again\n"
        )
        assert wire.ask(put("test", b"x", 5, partition=1)).status == 403
        assert json.loads(home.run("open-partitions", "-topic", "test", "--json").out)["opened"] == [1, 2]
        assert [wire.ask(put("test", b"x", n, partition=n)).status for n in range(3)] == [200] * 3
        assert home.run("open-partitions", "-topic", "test").out == "no partition of test is closed\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["close-partitions", "-topic", "nobody", "-start", "0", "-end", "0"], "there is no topic nobody"),
        (["close-partitions", "-topic", "shared", "-start", "1", "-end", "0"], "-start 1 is behind -end 0"),
        (["close-partitions", "-topic", "shared", "-start", "0", "-end", "7"], "has no partition 7"),
        (["close-partitions", "-topic", "shared", "-start", "-1", "-end", "0"], "-1"),
        (["close-partitions", "-topic", "shared"], "Missing option"),
        (["open-partitions", "-topic", "nobody"], "there is no topic nobody"),
        (["open-partitions", "-topic", "shared", "-host", "far.example"], "on its own machine"),
        (["reload", "-host", "far.example", "-port", "9123"], "on its own machine"),
    ],
)
def test_what_a_broker_refuses(pair: Home, words: list[str], complaint: str) -> None:
    ran = pair.run(*words)
    assert ran.code != 0
    assert complaint in ran.err


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of a broker that is not running, with partitions 0 to 3 of a topic, each with its number in it."""
    for number in range(4):
        directory = tmp_path / "data" / f"my-topic-{number}"
        directory.mkdir(parents=True)
        (directory / f"{0:020d}.meta").write_text(str(number))
    return tmp_path / "data"


def content(data: Path) -> dict[int, int]:
    """Which directory now has whose messages."""
    return {int(path.parent.name.rpartition("-")[2]): int(path.read_text()) for path in data.glob("*/*.meta")}


@pytest.mark.parametrize(
    ("first", "last", "offset", "expected"),
    [
        (2, 3, 2, {0: 0, 1: 1, 4: 2, 5: 3}),
        (0, 3, 1, {1: 0, 2: 1, 3: 2, 4: 3}),
        (0, 3, 10, {10: 0, 11: 1, 12: 2, 13: 3}),
    ],
)
def test_numbers_move(
    home: Home, data: Path, first: int, last: int, offset: int, expected: dict[int, int]
) -> None:
    words = ["move-partitions", "-dataDir", str(data), "-topic", "my-topic"]
    there = ["-start", str(first), "-end", str(last), "-offset", str(offset)]
    ran = home.run(*words, *there, "--dry-run")
    assert (ran.code, "nothing was moved" in ran.err) == (0, True)
    assert content(data) == {n: n for n in range(4)}
    assert home.run(*words, *there).code == 0
    assert content(data) == expected
    # And back.
    back = ["-start", str(first + offset), "-end", str(last + offset), "-offset", str(-offset)]
    assert home.run(*words, *back).code == 0
    assert content(data) == {n: n for n in range(4)}


@pytest.mark.parametrize(
    ("first", "last", "offset", "complaint"),
    [
        (0, 1, 1, "my-topic-2 is there already"),
        (3, 4, 4, "there is no"),
        (1, 0, 4, "-start 1 is behind -end 0"),
        (0, 1, 0, "moves nothing"),
        (0, 1, -1, "numbers begin at 0"),
    ],
)
def test_moves_that_are_refused(
    home: Home, data: Path, first: int, last: int, offset: int, complaint: str
) -> None:
    words = ["-dataDir", str(data), "-topic", "my-topic", "-start", str(first), "-end", str(last)]
    ran = home.run("move-partitions", *words, "-offset", str(offset))
    assert ran.code != 0
    assert complaint in ran.err
    assert content(data) == {n: n for n in range(4)}


def test_removing(home: Home, data: Path) -> None:
    words = ["delete-partitions", "-dataDir", str(data), "-topic", "my-topic", "-start", "2", "-end", "5"]
    ran = home.run(*words, "--dry-run")
    assert (ran.code, ran.out.count("would be removed"), ran.err.count("there is no")) == (0, 2, 2)
    ran = home.run(*words)
    assert (ran.code, "there is no terminal to ask" in ran.err) == (ExitCode.USAGE, True)
    assert len(content(data)) == 4
    ran = home.run(*words, "-f")
    assert (ran.code, content(data)) == (0, {0: 0, 1: 1})
    assert home.run(*words, "-f").code == ExitCode.FAILED
    assert home.run(*words[:2], str(data / "nowhere"), *words[3:], "-f").code == ExitCode.FAILED


def test_a_running_brokers_data_is_not_touched(home: Home, data: Path) -> None:
    lock = RealFileSystem().lock(data / ".lock", "pid 1 on a test")
    try:
        range_ = ["-dataDir", str(data), "-topic", "my-topic", "-start", "3", "-end", "3"]
        for words in (["delete-partitions", *range_, "-f"], ["move-partitions", *range_, "-offset", "9"]):
            ran = home.run(*words)
            assert (ran.code, "is in use by pid 1 on a test" in ran.err) == (1, True)
    finally:
        lock.release()
    assert content(data) == {n: n for n in range(4)}


def test_moved_partitions_are_served_under_their_new_numbers(home: Home) -> None:
    home.configure(topics="[topic=test]\nnumPartitions=3\n")
    home.start()
    with home.connect() as wire:
        wire.ask(put("test", b"hello", 1))
    assert home.run("stop").code == 0
    ran = home.run(
        *("move-partitions", "-dataDir", str(home.base / "data" / "master"), "-topic", "test"),
        *("-start", "0", "-end", "0", "-offset", "2"),
    )
    assert ran.code == 0
    home.start()
    with home.connect() as wire:
        assert b"hello" in wire.ask(get("test", 0, 100, 1, partition=2)).body
