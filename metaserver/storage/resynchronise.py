"""Verifying a file of records, and finding the next valid record behind damage.

Where something is no valid record, the question is where the log goes on. Message bodies may hold
anything, records too, so the answers are tried from the surest to the weakest:

1. The damaged header is right about its length: behind it lies a valid record, or the end.
2. Only the length is wrong: up to some valid record, the bytes have the checksum of the header.
3. Any valid record. But inside the data that a header announces which is right about its length, or
   plausible (a power cut may have left zeros there), records that are older than it are part of its body.

Only records with at least one byte of data are searched for: twelve bytes of zeros with an id behind
them are no evidence.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from zlib import crc32

import attrs

from metaserver.message import CHECKSUM_MASK, FLAG_HAS_ATTRIBUTE, HEADER, HEADER_SIZE, scan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.storage.filesystem import File

_CHUNK_BYTES = 4 * 1024 * 1024
_SEARCH_BYTES = 1024 * 1024
_CRC_BYTES = 1024 * 1024

_SEARCH_BUDGET_BYTES = 1024 * 1024 * 1024
"""How much may be checksummed in one search: a body may be made so that every byte looks like a header."""
_ODD_FLAG_BUDGET_BYTES = 256 * 1024 * 1024

_PLAUSIBLE_LENGTH_MAX = 64 * 1024 * 1024
_HOUR_OF_IDS = 3600 * 1000 << 22
"""An id is a time in milliseconds above 22 other bits."""
_MONTH_OF_IDS = 30 * 24 * _HOUR_OF_IDS
_YEAR_OF_IDS = 366 * 24 * _HOUR_OF_IDS

_FLAG_POSITION = 16
_FLAG_START = b"\0\0\0"
"""Every flag in use is 0 or 1. Headers are searched for by it, at the speed of ``bytes.find``."""
_NONZERO = re.compile(rb"[^\0]")
_ODD_FLAG_HEADER = re.compile(rb"\0(?!\0\0\0)[\s\S]{3}[\0-\x7f][\s\S]{15}")


@attrs.frozen
class ScanResult:
    """What verifying found. Positions are positions in the file."""

    end: int
    """Behind the last valid record; what follows it, if anything, is a torn tail."""
    count: int = 0
    last_id: int | None = None
    damaged: tuple[tuple[int, int], ...] = ()
    """Start and end of each range without a valid record, with valid ones behind it."""


class _SearchTooLongError(Exception):
    """The budget of a search is used up."""


def scan_file(file: File, start: int, end: int, last_id: int | None) -> ScanResult:
    """Verify the records between two positions.

    ``last_id`` is the id of the record before, where it is known. Needs little memory whatever the
    size. Raises OSError.
    """
    position, count = start, 0
    damaged: list[tuple[int, int]] = []
    found_id = None
    while True:
        run = _scan_run(file, position, end)
        position = run.end
        count += run.count
        if run.last_id is not None:
            found_id = last_id = run.last_id
        if position == end:
            break
        resumed = _find_next(file, position, end, last_id)
        if resumed is None:
            break
        damaged.append((position, resumed))
        position = resumed
    return ScanResult(position, count, found_id, tuple(damaged))


def _scan_run(file: File, position: int, end: int) -> ScanResult:
    """Go on until the end, or until something is no valid record."""
    count = 0
    last_id: int | None = None
    while position < end:
        data = file.read(min(_CHUNK_BYTES, end - position), position)
        result = scan(data)
        if result.count:
            count += result.count
            last_id = result.last_id
            position += result.end
        elif result.fault is not None:
            break
        else:
            # Incomplete: longer than a chunk, or longer than the file.
            record = _record_at(file, position, end)
            if record is None:
                break
            count += 1
            last_id = record.message_id
            position = record.end
    return ScanResult(position, count, last_id)


@attrs.frozen
class _Found:
    position: int
    length: int
    message_id: int

    @property
    def end(self) -> int:
        return self.position + HEADER_SIZE + self.length


def _record_at(file: File, position: int, end: int) -> _Found | None:
    """The record at a position, if it is whole and valid."""
    header = file.read(min(HEADER_SIZE, end - position), position)
    if len(header) < HEADER_SIZE:
        return None
    length, expected, message_id, _flag = HEADER.unpack(header)
    body = position + HEADER_SIZE
    if length < 0 or body + length > end or not (length or expected or message_id):
        return None
    if _crc(file, body, body + length) & CHECKSUM_MASK != expected:
        return None
    return _Found(position, length, message_id)


def _crc(file: File, start: int, end: int, value: int = 0) -> int:
    for position in range(start, end, _CRC_BYTES):
        value = crc32(file.read(min(_CRC_BYTES, end - position), position), value)
    return value


def _find_next(file: File, damage: int, end: int, last_id: int | None) -> int | None:
    """Where the log goes on behind damage; None where nothing valid follows.

    The end of the file is the answer where a search was given up: what is not known to be torn is kept.
    """
    header = file.read(min(HEADER_SIZE, end - damage), damage)
    if len(header) < HEADER_SIZE:
        return None
    length, expected, message_id, flag = HEADER.unpack(header)
    is_plausible = (
        0 <= length <= _PLAUSIBLE_LENGTH_MAX
        and any(header)
        and 0 <= flag <= FLAG_HAS_ATTRIBUTE
        and (last_id is None or 0 < message_id - last_id < _YEAR_OF_IDS)
    )
    body = damage + HEADER_SIZE
    announced_end = body + length if length >= 0 and any(header) else -1
    if announced_end > end:
        announced_end = -1
    follower = _record_at(file, announced_end, end) if announced_end >= 0 else None
    is_joined = announced_end == end or (follower is not None and (is_plausible or follower.length > 0))
    is_cut_short = is_plausible and announced_end < 0

    def is_data(candidate: _Found) -> bool:
        is_inside = candidate.position < announced_end or is_cut_short
        return (
            is_inside and (is_joined or is_plausible) and _is_older(candidate.message_id, message_id, last_id)
        )

    crc, crc_end = 0, body
    try:
        for candidate in _search(file, damage + 1, end, odd_flags=False):
            if candidate.position >= body:
                crc, crc_end = _crc(file, crc_end, candidate.position, crc), candidate.position
                if crc & CHECKSUM_MASK == expected:
                    return candidate.position
            if is_joined and candidate.position >= announced_end:
                break
            if not is_data(candidate):
                return candidate.position
    except _SearchTooLongError:
        if not is_joined and not is_cut_short:
            return end
    if is_joined:
        return announced_end if announced_end < end else None
    if is_cut_short:
        return None
    try:
        with_any_flag = _search(file, damage + 1, end, odd_flags=True)
        return next((found.position for found in with_any_flag if not is_data(found)), None)
    except _SearchTooLongError:
        return None


def _is_older(candidate_id: int, damaged_id: int, last_id: int | None) -> bool:
    """Whether a record inside the data of a damaged one was most likely written before it.

    Where it is no older than what comes before, the damaged id may be wrong too: then it is far off.
    """
    age = damaged_id - candidate_id
    if last_id is None:
        return 0 <= age < _MONTH_OF_IDS
    return age >= 0 and (candidate_id <= last_id or age < _HOUR_OF_IDS)


def _search(file: File, start: int, end: int, *, odd_flags: bool) -> Iterator[_Found]:
    """Every valid record with data that begins at or behind a position, in order."""
    budget = _ODD_FLAG_BUDGET_BYTES if odd_flags else _SEARCH_BUDGET_BYTES
    headers_of = _headers_with_odd_flag if odd_flags else _headers
    zeros = bytes(_SEARCH_BYTES + HEADER_SIZE)
    for chunk_start in range(start, end - HEADER_SIZE, _SEARCH_BYTES):
        chunk = file.read(min(_SEARCH_BYTES + HEADER_SIZE - 1, end - chunk_start), chunk_start)
        if zeros.startswith(chunk):
            continue
        for position in headers_of(chunk):
            length, expected, message_id, _flag = HEADER.unpack_from(chunk, position)
            body = chunk_start + position + HEADER_SIZE
            if not 0 < length <= end - body or expected < 0:
                continue
            budget -= length
            if budget < 0:
                raise _SearchTooLongError
            if _crc(file, body, body + length) & CHECKSUM_MASK == expected:
                yield _Found(body - HEADER_SIZE, length, message_id)


def _headers(chunk: bytes) -> Iterator[int]:
    """Positions in a chunk where a header with a flag in use may lie."""
    flag_at = chunk.find(_FLAG_START, _FLAG_POSITION)
    while 0 <= flag_at < len(chunk) - 3:
        position = flag_at - _FLAG_POSITION
        if chunk[flag_at + 3] <= FLAG_HAS_ATTRIBUTE:
            yield position
        if not chunk[position]:
            # In a run of zeros: the next length that is not zero begins at most 3 bytes before its end.
            nonzero = _NONZERO.search(chunk, position)
            if nonzero is None:
                return
            flag_at = max(flag_at, nonzero.start() - 4 + _FLAG_POSITION)
        flag_at = chunk.find(_FLAG_START, flag_at + 1)


def _headers_with_odd_flag(chunk: bytes) -> Iterator[int]:
    """Positions where a header with any flag may lie, of a record of ordinary length."""
    match = _ODD_FLAG_HEADER.search(chunk)
    while match is not None:
        yield match.start()
        match = _ODD_FLAG_HEADER.search(chunk, match.start() + 1)
