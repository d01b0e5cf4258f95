"""Judges a run by what clients were told and what lies on the disks at its end.

It reads the segment files itself, without the store. The invariants are those of docs/reliability.md.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING

import attrs

from metaserver.client.lane import Sent
from metaserver.message import HEADER_SIZE, iterate_records, scan
from metaserver.names import INTERNAL_TOPICS, TRANSACTIONS_LOG, AckLevel
from metaserver.storage.filenames import GAPS_NAME
from metaserver.storage.gaps import decode_gaps, is_intended
from metaserver.storage.segment import OffsetRange
from metaserver.transactions.entries import decode_entry
from metaserver.transactions.replay import Replay
from tests.simulation.node import DATA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metaserver.message import Record
    from tests.simulation.cluster import Cluster
    from tests.simulation.disk import SimDisk
    from tests.simulation.history import Name, SentMessage
    from tests.simulation.scenario import Topic

_SHOWN_MAX = 5
_RECORD_BYTES_MAX = 1024


@attrs.define(eq=False)
class _Log:
    """One partition of one machine, or what lies between two gaps of it."""

    start: int
    data: bytes

    @property
    def end(self) -> int:
        return self.start + len(self.data)

    def part(self, start: int, end: int) -> bytes:
        return self.data[start - self.start : end - self.start]


@attrs.define(eq=False)
class Verifier:
    """Of one run that has come to its end."""

    _cluster: Cluster
    _problems: list[str] = attrs.Factory(list)
    _logs: dict[Name, _Log] = attrs.Factory(dict)
    """The master's."""
    _records: dict[Name, dict[int, tuple[int, bytes]]] = attrs.Factory(dict)
    """By offset: id and payload, of the master's."""
    _quarantine: dict[Name, dict[int, list[bytes]]] = attrs.Factory(dict)
    """By offset, of every machine: payloads."""

    def check(self) -> list[str]:
        """What does not hold, in words."""
        machines = self._cluster.machines
        own = self._logs = read_logs(machines[self._cluster.master].disk, self._problems)
        for name, log in own.items():
            self._read_records(name, log)
        for machine in machines.values():
            self._read_quarantine(machine.disk)
        for machine in machines.values():
            if machine.name != self._cluster.master:
                self._compare(machine.name, read_logs(machine.disk, self._problems))
        topics = {topic.name: topic for topic in self._cluster.scenario.topics}
        self._check_sent(topics)
        self._check_transactions(topics)
        self._check_journals()
        self._check_deliveries(topics)
        self._check_groups()
        self._check_commits()
        return self._problems

    # I2: nothing that nobody sent, nothing damaged, nothing twice.

    def _read_records(self, name: Name, log: _Log) -> None:
        records = self._records[name] = {}
        seen: dict[bytes, int] = {}
        last_id = -(2**63)
        before: dict[str, list[SentMessage]] = {}
        for position, record in self._walk(name, log):
            offset = log.start + position
            payload = bytes(record.payload)
            records[offset] = (record.message_id, payload)
            sent = self._cluster.history.sent.get(payload)
            if sent is None or not sent.transaction:  # Those have their ids from before the commit.
                if record.message_id <= last_id:
                    self._say(
                        f"{_text(name)}: id {record.message_id} at {offset} is not above the one before"
                    )
                last_id = record.message_id
            if sent is None or sent.topic != name[0]:
                self._say(f"{_text(name)}: {offset} holds what nobody sent: {payload[:30]!r}")
                continue
            if payload in seen:
                self._say(f"{_text(name)}: {_who(sent)} is there twice, at {seen[payload]} and {offset}")
            seen[payload] = offset
            # A commit of unknown fate may come late, and what a power cut took of one comes again.
            others = before.setdefault(f"{sent.producer} {sent.transaction}", [])
            is_free = sent.transaction and self._cluster.may_have_been_rewritten(name[0])
            if not is_free and not sent.may_lie_behind(others):
                self._say(f"{_text(name)}: {_who(sent)} at {offset} is behind a later one of its producer")
            others.append(sent)
            if sent.is_refused:
                self._say(f"{_text(name)}: {_who(sent)} is there, though refused: {sent.outcome}")

    def _walk(self, name: Name, log: _Log) -> Iterator[tuple[int, Record]]:
        """The records; damage is passed over where it may be the rest of a write."""
        position = 0
        while position < len(log.data):
            rest = log.data[position:]
            for record in iterate_records(rest):
                yield position + record.position, record
            position += scan(rest).end
            if position == len(log.data):
                return
            if not self._may_be_torn:
                self._say(f"{_text(name)}: no whole record at {log.start + position}")
            following = self._following_record(log.data, position + 1)
            if following is None:
                self._say(f"{_text(name)}: nothing valid from {log.start + position} to the end")
                return
            position = following

    @property
    def _may_be_torn(self) -> bool:
        """Of a write that was never synced a part may be there behind one that is not, and nobody repairs it."""
        return not self._cluster.scenario.slave_count and self._cluster.history.power_cuts > 0

    def _following_record(self, data: bytes, position: int) -> int | None:
        for start in range(position, len(data) - HEADER_SIZE):
            first = next(iterate_records(data[start : start + _RECORD_BYTES_MAX]), None)
            if first is not None and bytes(first.payload) in self._cluster.history.sent:
                return start
        return None

    def _read_quarantine(self, disk: SimDisk) -> None:
        root = DATA / "quarantine"
        if not disk.is_directory(root):
            return
        for directory in sorted(disk.list_directory(root)):
            topic, _, number = directory.rpartition("-")
            name = (topic, int(number))
            for folder in sorted(disk.list_directory(root / directory)):
                for file in sorted(disk.list_directory(root / directory / folder)):
                    if not file.endswith(".meta"):
                        continue
                    data = disk.read_bytes(root / directory / folder / file)
                    start = int(file.removesuffix(".meta"))
                    for record in iterate_records(data):
                        at = self._quarantine.setdefault(name, {}).setdefault(start + record.position, [])
                        at.append(bytes(record.payload))

    # I4: slaves are copies.

    def _compare(self, slave: str, logs: dict[Name, _Log]) -> None:
        for name in self._logs.keys() | logs.keys():
            mine, theirs = self._logs.get(name), logs.get(name)
            if mine is None or theirs is None:
                self._say(f"{_text(name)}: only one of {self._cluster.master} and {slave} has it")
            elif mine.data != theirs.data or mine.start != theirs.start:
                at = next(
                    (i for i, (a, b) in enumerate(zip(mine.data, theirs.data, strict=False)) if a != b),
                    min(len(mine.data), len(theirs.data)),
                )
                self._say(
                    f"{_text(name)}: {slave} differs from {self._cluster.master} at {mine.start + at}; they "
                    f"end at {theirs.start + len(theirs.data)} and {mine.start + len(mine.data)}"
                )

    # I1: what was acknowledged is there.

    def _check_sent(self, topics: dict[str, Topic]) -> None:
        for sent in self._cluster.history.sent.values():
            if sent.outcome is None:
                self._say(f"{_who(sent)} was never settled")
            if not isinstance(sent.outcome, Sent) or sent.outcome.offset is None:
                continue
            name = (sent.topic, sent.outcome.partition.number)
            found = self._records.get(name, {}).get(sent.outcome.offset)
            if found == (sent.outcome.message_id, sent.payload):
                continue
            if topics[sent.topic].level is AckLevel.MEMORY and self._cluster.history.power_cuts:
                continue
            kept = sent.payload in self._quarantine.get(name, {}).get(sent.outcome.offset, [])
            if kept and not self._survives_master(topics[sent.topic].level):
                continue  # Its master was lost, and it lies where an operator can send it again.
            self._say(
                f"{_text(name)}: {_who(sent)}, acknowledged at {sent.settled_seconds:.3f} s with offset "
                f"{sent.outcome.offset}, is not there"
            )

    # All of a transaction, or nothing.

    def _check_transactions(self, topics: dict[str, Topic]) -> None:
        transactions: dict[tuple[str, int], list[SentMessage]] = {}
        for sent in self._cluster.history.sent.values():
            if sent.transaction:
                transactions.setdefault((sent.producer, sent.transaction), []).append(sent)
        there = self._payloads()
        kept = {payload for at in self._quarantine.values() for found in at.values() for payload in found}
        history = self._cluster.history
        for (producer, number), messages in transactions.items():
            present = [message for message in messages if message.payload in there]
            # What a memory topic has lost in a power cut says nothing.
            asked = [
                message
                for message in messages
                if topics[message.topic].level is not AckLevel.MEMORY or not history.power_cuts
            ]
            missing = [message for message in asked if message.payload not in there]
            is_committed = isinstance(messages[0].outcome, Sent)
            if is_committed and history.promotions:
                missing = [
                    message
                    for message in missing
                    if message.payload not in kept or self._survives_master(topics[message.topic].level)
                ]
            elif not is_committed and (history.promotions or not present):
                # What of it the slave had may be a part.
                continue
            if missing:
                self._say(
                    f"transaction {number} of {producer}: {len(present)} of its {len(messages)} messages are "
                    f"there; it was {'committed' if is_committed else messages[0].outcome}"
                )

    def _check_journals(self) -> None:
        """All that is decided is carried out, and every journal is the master's as far as both go."""
        journals = {
            name: read_journal(machine.disk, self._problems)
            for name, machine in self._cluster.machines.items()
        }
        own = journals[self._cluster.master]
        if not own:
            return
        # With a gap or damage its master takes no transactions, nor finishes any: node.py looks.
        others = [runs for name, runs in journals.items() if name != self._cluster.master]
        if len(own) == 1 and self._is_whole(own[0], others):
            self._check_decided(own[0])
        for slave, theirs in journals.items():
            if not theirs:
                self._say(f"{slave} has no journal of transactions")
            for one, other in product(own, theirs):
                start, end = max(one.start, other.start), min(one.end, other.end)
                if start < end and one.part(start, end) != other.part(start, end):
                    self._say(f"{slave} has another journal of transactions than {self._cluster.master}")

    def _is_whole(self, journal: _Log, others: list[list[_Log]]) -> bool:
        end = scan(journal.data).end
        if end == len(journal.data):
            return True
        # Others may have dropped what is over before it was damaged here.
        is_dropped = bool(others) and all(runs and runs[0].start > journal.start + end for runs in others)
        if not (self._may_be_torn or is_dropped):
            self._say(f"the journal of {self._cluster.master} has no whole record at {journal.start + end}")
        return False

    def _check_decided(self, journal: _Log) -> None:
        state, there = Replay(), self._payloads()
        for record in iterate_records(journal.data):
            state.take(decode_entry(bytes(record.data)))
        for found in state.transactions():
            for name, batch in found.batches.items():
                count = sum(bytes(r.payload) not in there for r in iterate_records(bytes(batch.data)))
                if count:
                    self._say(f"{name}: {count} messages of {found.key} are decided on and not there")

    def _payloads(self) -> set[bytes]:
        return {payload for records in self._records.values() for _id, payload in records.values()}

    def _survives_master(self, level: AckLevel) -> bool:
        """Whether what was acknowledged must be in the log of whoever is master."""
        is_in_memory = level is AckLevel.SLAVE and self._cluster.history.power_cuts_of_slaves > 0
        return level.waits_for_slaves and not is_in_memory

    # I3: what was delivered stays what it was.

    def _check_deliveries(self, topics: dict[str, Topic]) -> None:
        for delivery in self._cluster.history.deliveries:
            name, payload = delivery.name, delivery.payload
            if self._records.get(name, {}).get(delivery.offset) == (delivery.message_id, payload):
                continue
            if payload not in self._cluster.history.sent:
                self._say(f"{_text(name)}: {delivery.consumer} was given what nobody sent: {payload[:30]!r}")
            if topics[name[0]].level is AckLevel.MEMORY and self._cluster.history.power_cuts:
                continue
            if payload in self._quarantine.get(name, {}).get(delivery.offset, []):
                continue
            self._say(
                f"{_text(name)}: {delivery.consumer} was given {payload[:14]!r} of {delivery.offset} at "
                f"{delivery.seconds:.3f} s, which is not there"
            )

    # A group gets everything; what was rewritten may lie before where it had come.

    def _check_groups(self) -> None:
        groups: dict[str, set[tuple[Name, int]]] = {}
        for delivery in self._cluster.history.deliveries:
            groups.setdefault(delivery.group, set()).add((delivery.name, delivery.offset))
        for group, delivered in groups.items():
            for name, records in self._records.items():
                for offset in records:
                    is_missed = self._cluster.history.may_be_missed(name, offset)
                    if (name, offset) not in delivered and not is_missed:
                        self._say(f"{_text(name)}: group {group} was never given {offset}")

    # I5: offsets go on, and not beyond the end.

    def _check_commits(self) -> None:
        last: dict[str, int] = {}
        for commit in self._cluster.registry.commits:
            topic, broker = commit.path.split("/")[-2:]
            name = (topic, int(broker.partition("-")[2]))
            log = self._logs.get(name)
            end = 0 if log is None else log.start + len(log.data)
            is_free = self._cluster.may_have_been_rewritten(topic)
            if not is_free and commit.offset < last.get(commit.path, 0):
                self._say(
                    f"{commit.path} went back from {last[commit.path]} to {commit.offset}, by {commit.member}"
                )
            if not is_free and commit.offset > end:
                self._say(f"{commit.path} is {commit.offset}, behind the end {end}")
            last[commit.path] = commit.offset

    def _say(self, problem: str) -> None:
        if len(self._problems) < _SHOWN_MAX:
            self._problems.append(problem)


def read_logs(disk: SimDisk, problems: list[str]) -> dict[Name, _Log]:
    """Every partition of a topic on a disk, by its segment files. None has a gap: nothing is deleted."""
    found: dict[Name, _Log] = {}
    for directory in sorted(disk.list_directory(DATA)) if disk.is_directory(DATA) else ():
        topic, _, number = directory.rpartition("-")
        if not number.isdigit() or not topic or topic in INTERNAL_TOPICS:
            continue
        runs = _read_runs(disk, DATA / directory)
        for before, behind in pairwise(runs):
            _say_hole(disk, directory, before, behind, problems)
        if runs:
            found[topic, int(number)] = _Log(runs[0].start, b"".join(run.data for run in runs))
    return found


def read_journal(disk: SimDisk, problems: list[str]) -> list[_Log]:
    """What lies between gaps of a disk's journal of transactions.

    A master drops of it what is over. A slave that was not so far goes on behind that, and drops what it has
    before a gap when it has what its master had then: until then, or for ever where it is promoted, it has
    both, and ``gaps`` tells.
    """
    directory = f"{TRANSACTIONS_LOG.topic}-{TRANSACTIONS_LOG.partition}"
    path = DATA / directory
    if not disk.is_directory(path):
        return []
    runs = _read_runs(disk, path)
    told = decode_gaps(disk.read_bytes(path / GAPS_NAME)) if GAPS_NAME in disk.list_directory(path) else None
    for before, behind in pairwise(runs):
        is_gap = before.end < behind.start
        if not is_gap or not is_intended(OffsetRange(before.end, behind.start), told or ()):
            _say_hole(disk, directory, before, behind, problems)
    return runs


def _read_runs(disk: SimDisk, path: Path) -> list[_Log]:
    """Segments that join are one."""
    runs: list[_Log] = []
    for file in sorted(file for file in disk.list_directory(path) if file.endswith(".meta")):
        start, data = int(file.removesuffix(".meta")), disk.read_bytes(path / file)
        if runs and runs[-1].end == start:
            runs[-1].data += data
        else:
            runs.append(_Log(start, data))
    return runs


def _say_hole(disk: SimDisk, directory: str, before: _Log, behind: _Log, problems: list[str]) -> None:
    problems.append(
        f"{disk.name} {directory}: a file ends at {before.end}, the next begins at {behind.start}"
    )


def _who(sent: SentMessage) -> str:
    return f"message {sent.sequence} of {sent.producer}"


def _text(name: Name) -> str:
    return f"{name[0]}-{name[1]}"
