"""What is fuzzed: a function of bytes that raises only where something is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import MetaServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@attrs.frozen
class Target:
    """A parser, a file or a port as bytes in; what its owner expects of wrong bytes is caught in there."""

    name: str
    run: Callable[[bytes], object]
    seeds: Sequence[bytes]
    """What is well formed, and is mutated."""
    words: Sequence[bytes] = ()
    """Pieces that a mutation puts in: keywords, separators, numbers at the edge."""


EDGES = (b"0", b"-1", b"2147483647", b"2147483648", b"9223372036854775807", b"9" * 30, b"1_0", "٣".encode())
"""Numbers, and what Python takes for one."""

DEEP = b"[" * 5000
"""More than a recursive parser may go down."""


def refusing(
    parse: Callable[[bytes], object], refusal: type[Exception] = MetaServerError
) -> Callable[[bytes], object]:
    """``parse``, which may raise only errors of the project's tree (or another that it names)."""

    def run(data: bytes) -> object:
        try:
            return parse(data)
        except refusal:
            return None

    return run


def pieces(data: bytes, count_max: int = 16) -> list[bytes]:
    """A target that takes several values: each stands behind its length, of two bytes."""
    found: list[bytes] = []
    while len(data) >= 2 and len(found) < count_max:
        end = 2 + int.from_bytes(data[:2], "big")
        found.append(data[2:end])
        data = data[end:]
    return found


def joined(values: Sequence[bytes]) -> bytes:
    """What :func:`pieces` takes apart."""
    return b"".join(len(value).to_bytes(2, "big") + value for value in values)
