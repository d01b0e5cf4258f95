"""Payloads that say where they come from: any of them can be made again, so none has to be kept."""

from __future__ import annotations

import random
from struct import Struct

HEADER = Struct(">4sIIQ")
"""Mark, length of the payload, producer, sequence number."""
_MARK = b"TRTR"
_SIZES = (20, 33, 64, 100, 100, 128, 200, 256, 333, 500, 1000, 1024, 2000, 4096, 120, 80, 16_000, 60)
"""A prime number of them would be no better: the choice is hashed."""
_FILLING = random.Random(20_260_101).randbytes(128 * 1024)


def payload_of(producer: int, sequence: int) -> bytes:
    """The one payload with this number."""
    mixed = (producer * 0x9E3779B1 + sequence * 0x85EBCA77) & 0xFFFFFFFF
    size = _SIZES[(mixed >> 7) % len(_SIZES)]
    start = mixed % (len(_FILLING) - max(_SIZES))
    return HEADER.pack(_MARK, size, producer, sequence) + _FILLING[start : start + size - HEADER.size]


def parse_payload(payload: bytes) -> tuple[int, int] | None:
    """Producer and sequence number; None where these bytes were never sent by anybody."""
    if len(payload) < HEADER.size:
        return None
    mark, _, producer, sequence = HEADER.unpack_from(payload)
    if mark != _MARK or payload_of(producer, sequence) != payload:
        return None
    return producer, sequence
