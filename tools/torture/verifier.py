"""Knows every payload that was sent and every one that was acknowledged, and compares with the files.

What must hold of a log after a crash and a restart, with no producer connected:

* whole valid records from its first byte to its last, segments that join, ids that go up;
* every acknowledged message at its offset, with its id and its bytes;
* of each producer (one connection) and partition: what was sent and not refused, from the first message
  on without a gap and in order, and nothing twice; a crash may only cut this sequence short, behind the
  last acknowledged one;
* nothing that was refused and nothing that nobody sent;
* what was there at an earlier check, or was delivered to a consumer, is there unchanged.

Whatever was checked once is remembered as a checksum, so that a check costs what is new and one pass of
CRC-32 over what is old.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import attrs
import trio

from metaserver.message import HEADER_SIZE, iterate_records, message_id_block, scan
from tools.torture import logfiles
from tools.torture.payloads import parse_payload, payload_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tools.torture.logfiles import Name

_LOOK_SECONDS = 0.05
_PROBLEMS_MAX = 20
_WINDOW_BYTES = 1024 * 1024


class BrokenPromiseError(AssertionError):
    """What was promised and does not hold."""

    def __init__(self, problems: Sequence[str]) -> None:
        shown = list(problems[:_PROBLEMS_MAX])
        if len(problems) > len(shown):
            shown.append(f"and {len(problems) - len(shown)} more")
        super().__init__("\n".join(shown))


@attrs.define(eq=False)
class _Lane:
    """What one connection has sent to one partition, in order."""

    sent: list[int] = attrs.Factory(list)
    refused: set[int] = attrs.Factory(set)
    found: int = 0
    """So many of those that were not refused are in the log."""
    is_final: bool = False
    """The connection is gone and the log was looked at since: nothing may be added any more."""

    def expected(self) -> list[int]:
        """What may be in the log, in this order."""
        return [sequence for sequence in self.sent if sequence not in self.refused]


@attrs.define(eq=False)
class _Checked:
    """The part of a partition's log that has been looked at."""

    start: int
    end: int
    checksum: int = 0
    last_id: int = -(2**63)


@attrs.frozen
class Lost:
    """What one partition has lost since another replica, which was not as far, is the master."""

    common_end: int
    """Up to here both hold the same."""
    old_end: int
    """Of the history that was given up."""
    acknowledged: Mapping[int, tuple[int, int, int]]
    """By offset: id, producer, sequence number, of those that were answered 200."""
    message_ids: tuple[int, ...]
    """Of all messages behind ``common_end``, acknowledged or not."""


@attrs.define(eq=False)
class Verifier:
    """The history of one run, kept in this process, which is never killed."""

    _lanes: dict[tuple[int, Name], _Lane] = attrs.Factory(dict)
    _awaited: dict[Name, dict[int, tuple[int, int, int]]] = attrs.Factory(dict)
    """By offset: id, producer, sequence number; until a check has found them."""
    _delivered: dict[Name, list[tuple[int, int, int]]] = attrs.Factory(dict)
    """Offset, size and checksum of what consumers were given; until a check has found it."""
    _overtaken: dict[Name, dict[int, tuple[int, int, int]]] | None = None
    """As ``_awaited``: what an old master had acknowledged where a new one has put something else. None: no
    master is being replaced."""
    _checked: dict[Name, _Checked] = attrs.Factory(dict)
    _producers: int = 0
    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    delivered_bytes: int = 0
    found: int = 0
    """Messages in the log."""
    found_unacknowledged: int = 0
    """Of them, those whose reply never came: allowed, and no loss."""
    checks: int = 0

    # What the producers and consumers tell.

    def new_producer(self) -> int:
        """The number of a connection that is about to send."""
        self._producers += 1
        return self._producers

    def about_to_send(self, producer: int, sequence: int, name: Name) -> bytes:
        """The payload; call in the order in which the requests leave."""
        self._lanes.setdefault((producer, name), _Lane()).sent.append(sequence)
        self.sent += 1
        return payload_of(producer, sequence)

    def was_acknowledged(
        self, producer: int, sequences: Sequence[int], name: Name, offset: int, first_id: int
    ) -> None:
        """A put or a batch was answered 200."""
        acknowledged = self._awaited.setdefault(name, {})
        for message_id, sequence in zip(message_id_block(first_id, len(sequences)), sequences, strict=True):
            if offset in acknowledged:
                if self._overtaken is None:
                    raise BrokenPromiseError([f"{name}: offset {offset} was given out twice"])
                self._overtaken.setdefault(name, {})[offset] = acknowledged[offset]
            acknowledged[offset] = message_id, producer, sequence
            offset += HEADER_SIZE + len(payload_of(producer, sequence))
        self.acknowledged += len(sequences)

    def was_refused(self, producer: int, sequences: Sequence[int], name: Name) -> None:
        """A put or a batch was answered with an error."""
        self._lanes[producer, name].refused.update(sequences)
        self.refused += len(sequences)

    def was_delivered(self, name: Name, offset: int, data: bytes) -> None:
        """A consumer was given these bytes of the log."""
        self._delivered.setdefault(name, []).append((offset, len(data), crc32(data)))
        self.delivered_bytes += len(data)

    def replacement_begins(self) -> None:
        """From now on another replica may become the master, and give out offsets a second time."""
        self._overtaken = {}

    def copy(self) -> Verifier:
        """What is known now, for a look at a copy of the files that leaves no trace here."""
        return attrs.evolve(
            self,
            lanes={key: attrs.evolve(lane, sent=list(lane.sent)) for key, lane in self._lanes.items()},
            awaited={name: dict(awaited) for name, awaited in self._awaited.items()},
            delivered={name: list(delivered) for name, delivered in self._delivered.items()},
            checked={name: attrs.evolve(checked) for name, checked in self._checked.items()},
        )

    # What the files say.

    def check(self, data: Path) -> None:
        """Look at every partition, with no producer connected; raises BrokenPromiseError."""
        found = logfiles.partitions(data)
        gone = {*self._awaited, *self._checked, *self._delivered} - set(found)
        problems = [f"{name}: the directory is gone" for name in gone]
        for name, directory in found.items():
            problems += self._check_partition(name, directory)
        for lane in self._lanes.values():
            lane.is_final = True
        self.checks += 1
        if problems:
            raise BrokenPromiseError(problems)

    def replaced(self, old: Path, new: Path) -> dict[Name, Lost]:
        """What is lost, by the files of the old master, which has ended, and those of the new one.

        No producer may be connected. What is lost is not expected any more; everything else is: a message
        that is in neither of the two is found by the next check.
        """
        overtaken, self._overtaken = self._overtaken or {}, None
        olds, news = logfiles.partitions(old), logfiles.partitions(new)
        found = {}
        for name in sorted(olds):
            lost = self._lost(name, olds[name], news.get(name), overtaken.pop(name, {}))
            if lost.message_ids:
                found[name] = lost
        if overtaken:
            raise BrokenPromiseError([f"{name}: the old master's partition is gone" for name in overtaken])
        return found

    def _lost(
        self, name: Name, old: Path, new: Path | None, overtaken: dict[int, tuple[int, int, int]]
    ) -> Lost:
        checked = self._checked.get(name)
        start = _range(old)[0] if checked is None else checked.end
        old_bytes = logfiles.joined(old, start, logfiles.end_offset(old))
        new_bytes = b"" if new is None else logfiles.joined(new, start, logfiles.end_offset(new))
        common, acknowledged, message_ids, lost = 0, {}, [], []
        awaited, gone = self._awaited.get(name, {}), set()
        for record in iterate_records(old_bytes):
            end = record.position + HEADER_SIZE + len(record.data)
            offset = start + record.position
            if common == record.position and old_bytes[common:end] == new_bytes[common:end]:
                common = end
                continue
            message_ids.append(record.message_id)
            came_from = parse_payload(record.payload)
            if came_from is not None:
                lost.append(came_from)
                is_this = (record.message_id, *came_from)
                for answers in (overtaken, awaited):
                    if answers.get(offset) == is_this:
                        acknowledged[offset] = answers.pop(offset)
            gone.add((offset, end - record.position, crc32(old_bytes[record.position : end])))
        # Should one of them come back, that is wrong. But what the old master had written and, being fenced,
        # refused, its producer may have sent to the new one: that is expected.
        expected = {(producer, sequence) for _, producer, sequence in awaited.values()}
        for producer, sequence in lost:
            if (producer, sequence) not in expected:
                self._lanes[producer, name].refused.add(sequence)
        self._delivered[name] = [piece for piece in self._delivered.get(name, []) if piece not in gone]
        if overtaken:
            raise BrokenPromiseError(
                [
                    f"{name}: offset {offset}, message {message_id} (producer {producer}, number {sequence}) "
                    "was acknowledged by the old master, whose own log does not have it"
                    for offset, (message_id, producer, sequence) in overtaken.items()
                ]
            )
        old_end = start + scan(old_bytes).end
        return Lost(start + common, old_end, acknowledged, tuple(message_ids))

    def check_all_again(self, data: Path) -> None:
        """Check every record from the first on once more, trusting nothing of earlier checks."""
        for lane in self._lanes.values():
            lane.found, lane.is_final = 0, False
        before, unacknowledged = self.found, self.found_unacknowledged
        self.found = 0
        self._checked.clear()
        self.check(data)
        self.found_unacknowledged = unacknowledged
        if self.found != before:
            raise BrokenPromiseError([f"{self.found} messages, {before} at the check before"])

    def _check_partition(self, name: Name, directory: Path) -> list[str]:
        problems = _check_joins(directory)
        start, end = _range(directory)
        checked = self._checked.setdefault(name, _Checked(start, start))
        if end < checked.end:
            problems.append(f"{name}: ends at {end}, at an earlier check it ended at {checked.end}")
            return problems
        checksum = 0
        for _, piece in logfiles.read(directory, checked.start, checked.end):
            checksum = crc32(piece, checksum)
        if checksum != checked.checksum:
            problems.append(f"{name}: bytes before {checked.end} have changed since an earlier check")
        new = logfiles.joined(directory, checked.end, end)
        problems += self._check_records(name, checked, new)
        problems += self._check_delivered(name, directory)
        checked.end, checked.checksum = end, crc32(new, checksum)
        lost = self._awaited.pop(name, {})
        problems += [
            f"{name}: offset {offset}, message {message_id} (producer {producer}, number {sequence}) was "
            f"acknowledged and is not there; the log ends at {end}"
            for offset, (message_id, producer, sequence) in lost.items()
        ]
        return problems

    def _check_records(self, name: Name, checked: _Checked, new: bytes) -> list[str]:
        problems: list[str] = []
        result = scan(new)
        if result.end != len(new):
            problems.append(
                f"{name}: no whole record at offset {checked.end + result.end}, {len(new) - result.end} "
                f"bytes before the end: {result.fault or 'incomplete'}"
            )
        acknowledged = self._awaited.get(name, {})
        expected: dict[int, list[int]] = {}
        for record in iterate_records(new):
            offset = checked.end + record.position
            if record.message_id <= checked.last_id:
                problems.append(f"{name}: offset {offset}: id {record.message_id} is not above the last one")
            checked.last_id = record.message_id
            came_from = parse_payload(record.payload)
            if came_from is None or record.flag != 0:
                problems.append(f"{name}: offset {offset} holds what nobody sent: {record.payload[:40]!r}")
                continue
            acknowledgement = acknowledged.pop(offset, None)
            if acknowledgement is None:
                self.found_unacknowledged += 1
            elif acknowledgement != (record.message_id, *came_from):
                problems.append(
                    f"{name}: offset {offset} holds id {record.message_id} of {came_from}, acknowledged "
                    f"was {acknowledgement}"
                )
            problems += self._check_order(name, offset, came_from, expected)
            self.found += 1
        return problems

    def _check_order(
        self, name: Name, offset: int, came_from: tuple[int, int], expected: dict[int, list[int]]
    ) -> list[str]:
        producer, sequence = came_from
        where = f"{name}: offset {offset}: number {sequence} of producer {producer}"
        lane = self._lanes.get((producer, name))
        if lane is None:
            return [f"{where} was sent to another partition"]
        if lane.is_final:
            return [f"{where} appeared after an earlier check: a duplicate, or a change of the past"]
        if sequence in lane.refused:
            return [f"{where} was refused and is there all the same"]
        order = expected.get(producer)
        if order is None:
            order = expected[producer] = lane.expected()
        if lane.found >= len(order) or order[lane.found] != sequence:
            due = order[lane.found] if lane.found < len(order) else "nothing"
            # Go on behind it: one gap shall be one problem.
            lane.found = order.index(sequence) + 1 if sequence in order else lane.found
            return [f"{where} is there where {due} was due: a gap, a duplicate, or another order"]
        lane.found += 1
        return []

    def _check_delivered(self, name: Name, directory: Path) -> list[str]:
        problems = []
        window_start, window = 0, b""
        for offset, size, checksum in sorted(set(self._delivered.pop(name, []))):
            if not window_start <= offset <= offset + size <= window_start + len(window):
                # Consumers in groups tell of single messages: not a file opened for each.
                window_start = offset
                window = logfiles.joined(directory, offset, offset + max(size, _WINDOW_BYTES))
            if crc32(memoryview(window)[offset - window_start :][:size]) != checksum:
                problems.append(
                    f"{name}: {size} bytes were delivered to a consumer at {offset} and are not there now"
                )
        return problems


def _check_joins(directory: Path) -> list[str]:
    found = logfiles.segments(directory)
    return [
        f"{segment.path}: ends at {segment.end_offset}, the next begins at {following.start_offset}"
        for segment, following in pairwise(found)
        if segment.end_offset != following.start_offset
    ]


def _range(directory: Path) -> tuple[int, int]:
    found = logfiles.segments(directory)
    return (found[0].start_offset, found[-1].end_offset) if found else (0, 0)


@attrs.define(eq=False)
class PrefixCheck:
    """Compares a slave's files with its master's while both run, are killed and start again."""

    _master: Path
    _slave: Path
    _compared: dict[Name, int] = attrs.Factory(dict)
    rounds: int = 0
    compared_bytes: int = 0

    def look(self) -> None:
        """Compare what is new at the slave with the same bytes of the master; raises BrokenPromiseError."""
        problems = []
        masters = logfiles.partitions(self._master)
        for name, directory in logfiles.partitions(self._slave).items():
            # The slave first: whatever it has now, the master must have had before.
            end = logfiles.end_offset(directory)
            # What either of the two has deleted by its retention cannot be compared.
            first = max(_range(directory)[0], _range(masters[name])[0] if name in masters else 0)
            start = min(max(self._compared.get(name, 0), first), end)
            own = b"".join(piece for _, piece in logfiles.read(directory, start, end))
            theirs = logfiles.joined(masters[name], start, start + len(own)) if name in masters else b""
            if own != theirs:
                problems.append(
                    f"{name}: the slave's bytes {start}..{start + len(own)} are not those of the master, "
                    f"which has {len(theirs)} there"
                )
            self._compared[name] = start + len(own)
            self.compared_bytes += len(own)
        self.rounds += 1
        if problems:
            raise BrokenPromiseError(problems)

    async def keep_looking(self, pause_seconds: float = _LOOK_SECONDS) -> None:
        """All the time, whoever is alive, until cancelled; raises BrokenPromiseError."""
        while True:
            await trio.to_thread.run_sync(self.look)
            await trio.sleep(pause_seconds)

    def look_at_everything(self) -> None:
        """The same from the first byte on."""
        self._compared.clear()
        self.look()

    def is_behind(self) -> bool:
        """Whether the slave lacks something of what the master has now."""
        slaves = logfiles.partitions(self._slave)
        return any(
            name not in slaves or logfiles.end_offset(slaves[name]) < logfiles.end_offset(directory)
            for name, directory in logfiles.partitions(self._master).items()
        )

    def differences(self) -> list[str]:
        """What is not equal of two logs that should be: every file, byte for byte."""
        masters, slaves = logfiles.partitions(self._master), logfiles.partitions(self._slave)
        problems = [f"{name}: only one of the two has it" for name in set(masters) ^ set(slaves)]
        for name in set(masters) & set(slaves):
            problems += logfiles.file_differences(masters[name], slaves[name])
        return problems
