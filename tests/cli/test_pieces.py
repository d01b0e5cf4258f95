"""The pure pieces: framing, formats, starting points, addresses, installations, texts."""

from __future__ import annotations

import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.cli.formats import formatter, time_text
from metaserver.cli.framing import FramingError, LineSplitter, RecordSplitter, join_lines, join_records
from metaserver.cli.installation import find_installation
from metaserver.cli.output import Failure, count_of, describe_bytes, describe_seconds, table
from metaserver.cli.starting_point import parse_starting_point
from metaserver.cli.target import Address, parse_address
from metaserver.client import Fetched
from metaserver.config import base_directory_of
from metaserver.names import MAX_OFFSET
from tests.support import record

if TYPE_CHECKING:
    from metaserver.cli.framing import Splitter


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def split(splitter: Splitter, data: list[bytes]) -> list[bytes]:
    found = [body for piece in data for body in splitter.feed(piece)]
    return found + splitter.finish()


@given(st.lists(st.binary().map(lambda body: body.replace(b"\n", b" "))), st.lists(st.integers(0, 10**6)))
def test_lines_are_the_same_however_they_arrive(bodies: list[bytes], cuts: list[int]) -> None:
    assert split(LineSplitter(), pieces(join_lines(bodies), cuts)) == bodies if bodies else True
    joined = b"\n".join(bodies)
    expected = bodies if bodies and bodies[-1] else bodies[:-1]
    assert split(LineSplitter(), pieces(joined, cuts)) == expected


@given(st.lists(st.binary()), st.lists(st.integers(0, 10**6)))
def test_records_are_the_same_however_they_arrive(bodies: list[bytes], cuts: list[int]) -> None:
    assert split(RecordSplitter(), pieces(join_records(bodies), cuts)) == bodies


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\x7f\0\0\0", b"text, and no record", b"\0\0\0\1", b"\0"]
)
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(FramingError):
        split(RecordSplitter(), [data])


def test_a_line_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaserver.cli.framing.MESSAGE_BYTES_MAX", 10)
    splitter = LineSplitter()
    assert splitter.feed(b"123456") == []
    with pytest.raises(FramingError):
        splitter.feed(b"78901")


@pytest.mark.parametrize("name", ["lines", "records", "json", "raw"])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_a_format_stops_before_what_is_no_record(name: str, with_offsets: bool) -> None:
    good = record(b"a", 1) + record(b"", 2)
    damaged = bytearray(record(b"c", 3))
    damaged[-1] ^= 1
    render = formatter(name, with_offsets=with_offsets)
    for tail in (b"", bytes(damaged), bytes(40), record(b"d", 4)[:-1], b"\xff" * 20):
        written = render(Fetched("t", 0, 100, good + tail), None)
        assert (written.messages, written.next_offset) == (2, 100 + len(good))
    assert render(Fetched("t", 0, 100, good), 1)[1:] == (1, 121)
    assert render(Fetched("t", 0, 100, b""), None) == (b"", 0, 100)


def test_times() -> None:
    assert time_text(0) == "1970-01-01T00:00:00.000Z"
    assert time_text(1e15) == ""
    assert parse_starting_point("start").offset == 0
    assert parse_starting_point("end").offset == MAX_OFFSET
    assert parse_starting_point("123").offset == 123
    assert parse_starting_point("@1763705400.5").wall_seconds == 1763705400.5
    assert parse_starting_point("2025-11-21T06:10:00+00:00").wall_seconds == 1763705400
    assert parse_starting_point("2025-11-21T06:10").wall_seconds == datetime(2025, 11, 21, 6, 10).timestamp()  # noqa: DTZ001
    ago = parse_starting_point("-2h").wall_seconds
    assert ago is not None
    assert abs(time.time() - 7200 - ago) < 60


@pytest.mark.parametrize("text", ["", "-1", "-5x", "@", "@x", "tomorrow", "9" * 20, "-m", "25:00"])
def test_no_starting_point(text: str) -> None:
    with pytest.raises(Failure):
        parse_starting_point(text)


def test_addresses() -> None:
    assert parse_address("host:8123") == Address("host", 8123)
    assert str(parse_address("[::1]:8123")) == "[::1]:8123"
    for text in ("", "host", "host:", ":1", "::1:8123", "host:0", "host:70000", "host:x"):
        with pytest.raises(Failure):
            parse_address(text)


@pytest.mark.parametrize(
    "path", ["conf/server.ini", "a/conf/server.ini", "server.ini", "/x/y.ini", "/conf/s.ini", "a/../conf/s"]
)
def test_the_base_directory_is_that_of_the_configuration(path: str) -> None:
    assert find_installation(Path(path)).base_directory == base_directory_of(Path(path))


def test_which_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "server.ini").touch()
    monkeypatch.delenv("BASE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    found = find_installation(None, is_slave=True)
    assert (found.server_file, found.slave_file) == (
        tmp_path / "conf" / "server.ini",
        tmp_path / "conf" / "async_slave.properties",
    )
    other = tmp_path / "else" / "conf" / "server.ini"
    monkeypatch.setenv("BASE_DIR", str(tmp_path / "else"))
    with pytest.raises(Failure, match=r"BASE_DIR is .*else, and there is no conf/server\.ini in it"):
        find_installation(None)
    other.parent.mkdir(parents=True)
    other.touch()
    assert find_installation(None).server_file == other
    assert find_installation(Path("x.ini"), Path("y")).slave_file == tmp_path / "y"


def test_texts() -> None:
    assert [describe_bytes(size) for size in (0, 1, 1023, 1536, 1 << 20, 5 << 30, 1 << 50)] == [
        "0 bytes",
        "1 byte",
        "1023 bytes",
        "1.5 KiB",
        "1.0 MiB",
        "5.0 GiB",
        "1024.0 TiB",
    ]
    assert [describe_seconds(seconds) for seconds in (0.25, 59, 61, 3700, 90000)] == [
        "0.250 s",
        "59 s",
        "1 min 1 s",
        "1 h 1 min",
        "1 d 1 h",
    ]
    assert (count_of(1, "topic"), count_of(2000, "topic")) == ("1 topic", "2,000 topics")
    assert table([["a", "n"], ["bcd", "10"]], right=frozenset({1})) == "a     n\nbcd  10"
