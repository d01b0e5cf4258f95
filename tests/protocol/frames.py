"""What the tests of the wire share: commands in a comparable form, and strategies of frames."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
from hypothesis import strategies as st

from metaserver.protocol import CommandDecoder, Limits, LocalKey, Malformed, Puts, XaKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from metaserver.protocol import Command

SMALL_LIMITS = Limits(line_bytes_max=64, body_bytes_max=96, record_bytes_max=80)


def flatten(commands: Iterable[Command]) -> list[object]:
    """Runs of puts as single puts: where a run ends depends on how the bytes came, and may."""
    flat: list[object] = []
    for command in commands:
        if isinstance(command, Puts):
            count = len(command.bodies)
            assert count == len(command.flags) == len(command.checksums) == len(command.opaques)
            assert count > 0, "an empty run"
            flat += (
                (command.topic, command.partition, *message)
                for message in zip(
                    command.bodies, command.flags, command.checksums, command.opaques, strict=True
                )
            )
        else:
            flat.append(command)
    return flat


def decode(pieces: Iterable[bytes], limits: Limits | None = None) -> list[object]:
    """Everything one connection's bytes mean."""
    decoder = CommandDecoder(limits or Limits())
    commands: list[Command] = []
    for piece in pieces:
        commands += decoder.feed(piece)
    return flatten(commands)


def cut(data: bytes, positions: Iterable[int]) -> list[bytes]:
    """The pieces between these positions, empty ones included."""
    bounds = [0, *sorted(min(position, len(data)) for position in positions), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


def outcome(commands: Sequence[object]) -> str | None:
    """Why the connection is to be closed, if it is."""
    return commands[-1].reason if commands and isinstance(commands[-1], Malformed) else None


# Strategies. Numbers lie around the limits of their types as often as not.

_EDGES = [
    0,
    1,
    -1,
    7,
    60,
    61,
    96,
    97,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**63 - 1,
    2**63,
    -(2**63),
    10**30,
]
_numbers = st.one_of(st.sampled_from(_EDGES), st.integers(-(2**32), 2**32)).map(str)
_spelt_numbers = st.one_of(
    _numbers, _numbers, _numbers, st.sampled_from(["", "x", "+5", "007", "-0", "1.5", "1_0", "٣", "0x1"])
)
_names = st.one_of(
    st.sampled_from(["t", "test", "a-b", "", "../x", "T" * 40, "T" * 80, "ü", "\x00", "t\n"]),
    st.text(max_size=8).map(lambda text: text.replace("\r", "")),
)
_bodies = st.one_of(st.binary(max_size=8), st.sampled_from([b"\r\n", b"x" * 60, b"x" * 61, b"x" * 96]))


def _line(*words: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    return st.tuples(*words).map(lambda found: " ".join(found).encode() + b"\r\n")


@st.composite
def _with_body(draw: st.DrawFn, word: str, *behind_length: st.SearchStrategy[str]) -> bytes:
    """A frame whose length says how long its body is, or nearly."""
    body = draw(_bodies)
    length = str(draw(st.sampled_from([len(body)] * 6 + [len(body) + 1, max(0, len(body) - 1), 97, -1])))
    words = [word, draw(_names), draw(_spelt_numbers), length, *(draw(more) for more in behind_length)]
    return " ".join(words).encode() + b"\r\n" + body


_small = st.integers(0, 3).map(str)


@st.composite
def _replicated(draw: st.DrawFn) -> bytes:
    """Positions of partitions, most of them right in themselves."""
    position = st.tuples(st.sampled_from(["t", "a", "b"]), _small, _small, st.sampled_from(["0", "0", "1"]))
    positions = draw(
        st.lists(st.one_of(position, position, position, st.tuples(_names, _spelt_numbers)), max_size=3)
    )
    body = "".join(" ".join(words) + "\r\n" for words in positions).encode()
    length = len(body) + draw(st.sampled_from([0, 0, 0, 0, 1, -1]))
    return b"replicated g %b %d 1\r\n%b" % (draw(_spelt_numbers).encode(), length, body)


@st.composite
def _plain_put(draw: st.DrawFn) -> bytes:
    """A put without any fault, most often to the partition of its neighbours."""
    body = draw(_bodies.filter(lambda data: len(data) <= 60))
    topic = draw(st.sampled_from([b"a", b"a", b"b"]))
    checksum = draw(st.sampled_from([b"", b"-1 ", b"5 "]))
    opaque = draw(st.integers(-(2**31), 2**31 - 1))
    partition = draw(st.sampled_from([0, 0, 1]))
    return b"put %b %d %d 0 %b%d\r\n%b" % (topic, partition, len(body), checksum, opaque, body)


frames = st.one_of(
    _plain_put(),
    _plain_put(),
    _with_body("put", _spelt_numbers, _spelt_numbers),
    _with_body("put", _spelt_numbers, _spelt_numbers, _spelt_numbers),
    _with_body("put", _spelt_numbers, _spelt_numbers, st.just("TX:s:1"), _spelt_numbers),
    _with_body("putbatch", _spelt_numbers),
    _with_body("sync", _small, _small, _spelt_numbers),
    _line(st.just("pair"), _names, _spelt_numbers),
    _line(st.just("successor"), _names, _spelt_numbers),
    _replicated(),
    _line(st.just("get"), _names, _names, _spelt_numbers, _spelt_numbers, _spelt_numbers, _spelt_numbers),
    _line(st.just("get"), _names, _names, _small, _small, _small, _small, _spelt_numbers),
    _line(st.just("offset"), _names, _names, _spelt_numbers, _spelt_numbers, _spelt_numbers),
    _line(st.just("stats"), _names, _spelt_numbers),
    _line(st.just("version"), _spelt_numbers),
    _line(
        st.just("transaction"),
        st.sampled_from(["null", "TX:s:1", "XID:1:ab::q"]) | _names,
        _names,
        st.sampled_from(["BEGIN", "RECOVER", "NONE"]),
        _spelt_numbers,
    ),
    _line(
        st.just("transaction"),
        st.sampled_from(["TX:s:1", "XID:1:ab::q"]),
        _names,
        st.just("PREPARE"),
        _spelt_numbers,
        _names,
        _spelt_numbers,
    ),
    st.sampled_from(
        [b"quit\r\n", b"stats\r\n", b"version\r\n", b"\r\n", b"result 200 2 1\r\nok", b"value 1 1\r\nx"]
    ),
)
"""Frames of every kind, most of them without a fault."""

_mutations = st.lists(
    st.tuples(
        st.floats(0, 1),
        st.sampled_from(["drop", "insert", "change", "double", "swap"]),
        st.binary(max_size=3),
    ),
    max_size=4,
)


def _mutate(data: bytes, changes: list[tuple[float, str, bytes]]) -> bytes:
    for where, how, extra in changes:
        position = int(where * len(data))
        front, rest = data[:position], data[position:]
        match how:
            case "drop":
                data = front + rest[1:]
            case "insert":
                data = front + extra + rest
            case "change":
                data = front + extra + rest[len(extra) :]
            case "double":
                data = front + rest[:5] + rest
            case _:
                data = rest + front
    return data


mutated_streams = st.builds(_mutate, st.lists(frames, max_size=6).map(b"".join), _mutations)
"""Frames back to back, with a few bytes dropped, added, changed, doubled or moved."""


def is_final(command: object) -> bool:
    return isinstance(command, Malformed)


def shown(command: Command) -> dict[str, object]:
    """A command as the tables write it."""
    fields = attrs.asdict(command, value_serializer=_shown_key)
    return {
        "kind": type(command).__name__,
        **{name: _shown_value(value) for name, value in fields.items()},
    }


def _shown_key(_owner: object, _field: object, value: object) -> object:
    return str(value) if isinstance(value, LocalKey | XaKey) else value


def _shown_value(value: object) -> object:
    match value:
        case bytes():
            return value.decode("latin-1")
        case list() | tuple():
            return [_shown_value(element) for element in value]
        case None:
            return ""
        case _:
            return value
