"""Bytes to commands, against the tables of the reference and against every way to cut them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metaserver.errors import ProtocolError
from metaserver.protocol import (
    CommandDecoder,
    Limits,
    Malformed,
    OversizedPut,
    PutBatch,
    Puts,
    ReplyDecoder,
    Result,
    Value,
    Version,
)
from tests.protocol.frames import (
    SMALL_LIMITS,
    bytewise,
    cut,
    decode,
    flatten,
    frames,
    is_final,
    mutated_streams,
    outcome,
    shown,
)

TESTDATA = Path(__file__).resolve().parents[1] / "testdata" / "wire"
REQUESTS = tomllib.loads((TESTDATA / "requests.toml").read_text(encoding="utf-8"))
REPLIES = tomllib.loads((TESTDATA / "replies.toml").read_text(encoding="utf-8"))
TRAILING = b"version 99\r\n"


def cases(table: dict[str, list[dict[str, Any]]], kind: str) -> list[Any]:
    return [pytest.param(case, case["bytes"].encode("latin-1"), id=case["name"]) for case in table[kind]]


# The tables.


@pytest.mark.parametrize(("case", "data"), cases(REQUESTS, "frame"))
def test_golden_request(case: dict[str, Any], data: bytes) -> None:
    commands = CommandDecoder(Limits()).feed(data)
    assert [shown(command) for command in commands] == case["commands"]


@pytest.mark.parametrize(("case", "data"), cases(REQUESTS, "frame"))
def test_golden_request_byte_by_byte(case: dict[str, Any], data: bytes) -> None:
    assert decode(bytewise(data)) == decode([data])


@pytest.mark.parametrize(("case", "data"), cases(REQUESTS, "frame"))
def test_golden_request_with_trailing_data(case: dict[str, Any], data: bytes) -> None:
    assert decode([data + TRAILING]) == [*decode([data]), Version(99)]


@pytest.mark.parametrize(("case", "data"), cases(REQUESTS, "frame"))
def test_golden_request_is_awaited_to_its_last_byte(case: dict[str, Any], data: bytes) -> None:
    decoder = CommandDecoder(Limits())
    before = flatten(decoder.feed(data[:-1]))
    waiting = (decoder.has_partial_frame, 0 < decoder.held_bytes < len(data))
    assert waiting == (True, True)
    assert [*before, *flatten(decoder.feed(data[-1:]))] == decode([data])
    assert (decoder.has_partial_frame, decoder.held_bytes) == (False, 0)


@pytest.mark.parametrize(("case", "data"), cases(REQUESTS, "malformed"))
@pytest.mark.parametrize("how", ["whole", "byte by byte", "with trailing data"])
def test_golden_malformed(case: dict[str, Any], data: bytes, how: str) -> None:
    pieces = {"whole": [data], "byte by byte": bytewise(data), "with trailing data": [data + TRAILING]}[how]
    (command,) = decode(pieces)
    assert isinstance(command, Malformed)
    assert case["says"] in command.reason
    assert command.opaque == case.get("opaque", command.opaque)


def test_a_decoder_that_is_given_up_holds_and_returns_nothing() -> None:
    decoder = CommandDecoder(Limits())
    decoder.feed(b"put t 0 10 0 1\r\n")
    for _ in range(5):
        decoder.feed(b"x")
    assert decoder.held_memory_bytes > decoder.held_bytes + 5 * sys.getsizeof(b"")
    decoder.give_up()
    assert (decoder.held_memory_bytes, decoder.has_partial_frame, decoder.has_failed) == (0, False, True)
    assert decoder.feed(b"12345version 1\r\n") == []


def test_nothing_is_decoded_behind_a_malformed_frame() -> None:
    decoder = CommandDecoder(Limits())
    commands = decoder.feed(b"version 1\r\nnonsense\r\nversion 2\r\n")
    assert commands[0] == Version(1)
    assert [type(command) for command in commands[1:]] == [Malformed]
    assert decoder.has_failed
    assert decoder.feed(b"version 3\r\n") == []


@pytest.mark.parametrize("bad", [b"2147483648", b"-2147483649", b"9999999999"])
def test_puts_before_one_with_a_wrong_opaque_are_kept(bad: bytes) -> None:
    good = b"put a 0 1 0 1\r\nxput a 0 1 0 -2147483648\r\ny"
    commands = decode([good + b"put a 0 1 0 %b\r\nz" % bad + good])
    assert commands[:2] == [("a", 0, b"x", 0, None, b"1"), ("a", 0, b"y", 0, None, b"-2147483648")]
    assert [type(command) for command in commands[2:]] == [Malformed]


def test_long_nonsense_is_not_repeated_in_full() -> None:
    (command,) = decode([b"x" * 8000 + b"\r\n"])
    assert isinstance(command, Malformed)
    assert len(command.reason) < 200


# Replies.


@pytest.mark.parametrize(("case", "data"), cases(REPLIES, "frame"))
@pytest.mark.parametrize("how", ["whole", "byte by byte", "with trailing data"])
def test_golden_reply(case: dict[str, Any], data: bytes, how: str) -> None:
    if "result" in case:
        expected: Result | Value = Result(**case["result"])
    else:
        expected = Value(case["value"]["data"].encode("latin-1"), case["value"]["opaque"])
    decoder = ReplyDecoder()
    match how:
        case "whole":
            assert decoder.feed(data) == [expected]
        case "byte by byte":
            assert [reply for piece in bytewise(data) for reply in decoder.feed(piece)] == [expected]
        case _:
            assert decoder.feed(data + b"result 200 0 1\r\n") == [expected, Result(200, "", 1)]


@pytest.mark.parametrize(("case", "data"), cases(REPLIES, "malformed"))
def test_what_is_no_reply(case: dict[str, Any], data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyDecoder().feed(data)


def test_a_reply_longer_than_the_limit_is_refused_at_its_line() -> None:
    assert ReplyDecoder(5).feed(b"value 5 1\r\nhello") == [Value(b"hello", 1)]
    with pytest.raises(ProtocolError):
        ReplyDecoder(5).feed(b"value 6 1\r\n")


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=6))
def test_any_bytes_are_replies_or_one_error(data: bytes, positions: list[int]) -> None:
    def run(pieces: list[bytes]) -> tuple[list[Result | Value], bool]:
        decoder, found = ReplyDecoder(), []
        try:
            for piece in pieces:
                found += decoder.feed(piece)
        except ProtocolError:
            return found, True
        return found, False

    assert run([data])[1] == run(cut(data, positions))[1]


# Limits: one that is met, and one byte more.


@pytest.mark.parametrize("how", ["whole", "byte by byte"])
@pytest.mark.parametrize("word", ["get", "put"])
def test_longest_line(word: str, how: str) -> None:
    limits = Limits(line_bytes_max=64)
    behind = " g 0 0 1 1" if word == "get" else " 0 0 0 1"

    def line(size: int) -> bytes:
        topic = "t" * (size - len(word) - 1 - len(behind))
        return f"{word} {topic}{behind}\r\n".encode()

    assert len(line(64)) == 64 + 2
    pieces = bytewise if how == "byte by byte" else lambda data: [data]
    assert outcome(decode(pieces(line(64)), limits)) is None
    reason = outcome(decode(pieces(line(65)), limits))
    assert reason is not None
    assert "64 bytes (maxLineBytes)" in reason


def test_a_line_without_end_is_not_kept() -> None:
    decoder = CommandDecoder(Limits(line_bytes_max=64))
    assert decoder.feed(b"x" * 65) == []
    assert decoder.held_bytes == 65
    (command,) = decoder.feed(b"x")
    assert isinstance(command, Malformed)
    assert decoder.held_bytes == 0


@pytest.mark.parametrize("frame", [b"put t 0 %d 0 1\r\n", b"putbatch t 0 %d 1\r\n", b"sync t 0 %d 0 1 1\r\n"])
def test_longest_body(frame: bytes) -> None:
    limits = Limits(body_bytes_max=100, record_bytes_max=1000)
    (command,) = decode([frame % 100 + b"x" * 100], limits)
    assert not is_final(command)
    (command,) = decode([frame % 101], limits)
    assert isinstance(command, Malformed)
    assert "100 bytes (maxRequestBytes)" in command.reason
    assert command.opaque == 1


@pytest.mark.parametrize("how", ["whole", "byte by byte"])
@pytest.mark.parametrize("checksum", [b"", b"-1 "])
def test_longest_record(checksum: bytes, how: str) -> None:
    limits = Limits(record_bytes_max=100)

    def frame(length: int) -> bytes:
        return b"put t 0 %d 0 %b1\r\n" % (length, checksum) + b"x" * length + TRAILING

    pieces = bytewise if how == "byte by byte" else lambda data: [data]
    assert decode(pieces(frame(80)), limits) == [
        ("t", 0, b"x" * 80, 0, b"-1" if checksum else None, b"1"),
        Version(99),
    ]
    assert decode(pieces(frame(81)), limits) == [OversizedPut("t", 0, 81, 1), Version(99)]


def test_the_body_of_an_oversized_put_is_not_kept() -> None:
    decoder = CommandDecoder(Limits(record_bytes_max=100))
    assert decoder.feed(b"put t 0 5000 0 1\r\n" + b"x" * 1000) == [OversizedPut("t", 0, 5000, 1)]
    assert decoder.has_partial_frame
    assert decoder.held_bytes == 0
    assert decoder.feed(b"x" * 3999) == []
    assert decoder.has_partial_frame
    assert decoder.feed(b"x" + TRAILING) == [Version(99)]


def test_a_batch_may_be_longer_than_a_record() -> None:
    body = b"x" * 500
    assert decode([b"putbatch t 0 500 1\r\n" + body], Limits(record_bytes_max=100)) == [
        PutBatch("t", 0, body, 1)
    ]


def test_many_heads_are_told_apart() -> None:
    """More different puts than any table of heads may keep."""
    numbers = [*range(3000), *range(3000)]
    data = b"".join(b"put t%d %d 1 %d 7\r\nx" % (n, n % 5, n % 3) for n in numbers)
    assert decode([data]) == [(f"t{n}", n % 5, b"x", n % 3, None, b"7") for n in numbers]


def test_a_run_ends_where_the_partition_changes() -> None:
    data = b"put a 0 1 0 1\r\nx" * 3 + b"put a 1 1 0 1\r\nx" * 2
    runs = CommandDecoder(Limits()).feed(data)
    assert [len(run.bodies) for run in runs if isinstance(run, Puts)] == [3, 2]


# Any bytes.

PIECES = st.lists(st.integers(0, 300), max_size=12)


def check_any_cut(data: bytes, positions: list[int]) -> None:
    whole = decode([data], SMALL_LIMITS)
    assert not any(is_final(command) for command in whole[:-1])
    assert decode(cut(data, positions), SMALL_LIMITS) == whole
    assert decode(bytewise(data), SMALL_LIMITS) == whole


@given(st.binary(max_size=300), PIECES)
@example(b"put " + b"t" * 60 + b" 0 1 0 1\r\nx", [3])
def test_random_bytes(data: bytes, positions: list[int]) -> None:
    check_any_cut(data, positions)


@given(st.lists(frames, max_size=6).map(b"".join), PIECES)
def test_frames_however_they_are_cut(data: bytes, positions: list[int]) -> None:
    check_any_cut(data, positions)


@given(mutated_streams, PIECES)
def test_mutated_frames_however_they_are_cut(data: bytes, positions: list[int]) -> None:
    check_any_cut(data, positions)


@given(mutated_streams, PIECES)
def test_what_is_held_stays_within_the_limits(data: bytes, positions: list[int]) -> None:
    decoder = CommandDecoder(SMALL_LIMITS)
    longest = SMALL_LIMITS.line_bytes_max + 2 + SMALL_LIMITS.body_bytes_max
    for piece in cut(data, positions):
        decoder.feed(piece)
        assert decoder.held_bytes <= longest
        assert decoder.held_bytes == 0 or decoder.has_partial_frame
