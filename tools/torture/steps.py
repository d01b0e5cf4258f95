"""SIGKILL exactly at a system call: one script, run again and again, and each time one call is the last.

strace counts the calls of each thread by itself. So a point is a call and a number: the thread that comes
first to make that call so often is killed before it is made, and the process with it. A first run without
a kill tells how far the numbers go. Two passages are struck: the script (puts that roll segments and write
checkpoints, a new topic, a branch of a distributed transaction, a clean stop), and the start behind a
SIGKILL at the end of the script, which recovers. A call that opens a file cannot be told from one that
creates it; what is created is struck at the call that follows.
"""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from metaserver.client import connect
from metaserver.client.connection import batch_result, expect_text
from metaserver.control.client import call
from metaserver.errors import ClientError, ControlError, ReplyError
from metaserver.message import encode_record, iterate_records
from metaserver.node.paths import NodePaths
from metaserver.protocol import (
    TransactionAction,
    XaKey,
    encode_put_batch,
    encode_transaction,
    encode_transactional_put,
)
from tools.torture import logfiles
from tools.torture.commands import must_find_nothing
from tools.torture.filesystems import UnavailableError
from tools.torture.nodes import START_SECONDS_MAX, Place, Site, wait_until
from tools.torture.payloads import parse_payload
from tools.torture.verifier import BrokenPromiseError, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from metaserver.client import BrokerConnection
    from tools.torture.logfiles import Name

Passage = Literal["script", "recovery"]

TOPICS = ("[topic=orders]", "[topic=events]", "[topic=paired]\nnumPartitions=2")
NAMES: tuple[Name, ...] = (("orders", 0), ("events", 0))
CREATED: Name = ("created", 0)
PAIR: tuple[Name, ...] = (("paired", 0), ("paired", 1))
SETTINGS = {"maxSegmentSize": 16_384, "recoveryCheckpointBytes": 8192}
"""Small: a few puts fill a segment."""
CALLS = (
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "pwritev2",
    "io_submit",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "ftruncate",
    "mkdir",
)
_KEY = XaKey(1, "0a", "01", "steps")
_ROUNDS = 6
_BATCH = 5
_ANSWER_SECONDS = 20.0
_LINE = re.compile(r"(\d+)\s+(\w+)\(")


@attrs.frozen
class Point:
    """Where the process dies."""

    passage: Passage
    call: str
    number: int
    """The so manieth of one thread, from 1."""


@attrs.define(eq=False)
class Script:
    """What is asked of a broker, in order, and what it has answered; ends early when the broker does."""

    verifier: Verifier = attrs.Factory(Verifier)
    pair: tuple[tuple[int, int], ...] = ()
    """Producer and number of the two messages of the transaction, once they were sent."""
    is_prepared: bool = False
    is_committed: bool = False
    is_done: bool = False

    async def run(self, place: Place) -> None:
        """Everything but the stop."""
        with suppress(ClientError, ControlError, OSError):
            async with connect("127.0.0.1", place.master_port) as link:
                await self._puts(link, NAMES)
                socket = NodePaths.of(place.base, is_slave=False).control_socket
                await trio.to_thread.run_sync(
                    lambda: call(
                        socket,
                        "create-topic",
                        _ANSWER_SECONDS,
                        topic=CREATED[0],
                        entries={"numPartitions": "1"},
                    )
                )
                await self._transaction(link)
                await self._puts(link, (*NAMES, CREATED))
                self.is_done = True

    async def _puts(self, link: BrokerConnection, names: Sequence[Name]) -> None:
        producer, sequence = self.verifier.new_producer(), 0
        for number in range(_ROUNDS):
            for topic, partition in names:
                numbers = range(sequence, sequence + (_BATCH if number % 2 else 1))
                sequence = numbers.stop
                sent = [self.verifier.about_to_send(producer, each, (topic, partition)) for each in numbers]
                records = b"".join(encode_record(payload, 0) for payload in sent)
                if len(sent) == 1:
                    put = await link.put(topic, partition, sent[0])
                    offset, first_id = put.offset, put.message_id
                else:
                    result = batch_result(await link.request(_batch(topic, partition, records)))
                    offset, first_id = result.offset, result.first_id
                self.verifier.was_acknowledged(producer, numbers, (topic, partition), offset, first_id)

    async def _transaction(self, link: BrokerConnection) -> None:
        producer = self.verifier.new_producer()
        await _command(link, TransactionAction.BEGIN)
        for number, (topic, partition) in enumerate(PAIR):
            payload = self.verifier.about_to_send(producer, number, (topic, partition))
            expect_text(await link.request(_transactional_put(topic, partition, payload)))
            self.pair += ((producer, number),)
        await _command(link, TransactionAction.PREPARE)
        self.is_prepared = True
        await _command(link, TransactionAction.COMMIT_TWO_PHASE)
        self.is_committed = True

    async def decide(self, place: Place) -> None:
        """What a transaction manager does after a crash: say commit again, where that is not known."""
        if not self.is_prepared or self.is_committed:
            return
        async with connect("127.0.0.1", place.master_port) as link:
            # It may have been committed and forgotten: then there is nothing of this name.
            with suppress(ReplyError):
                await _command(link, TransactionAction.COMMIT_TWO_PHASE)

    def judge(self, data: Path) -> None:
        """Raises BrokenPromiseError."""
        self.verifier.check(data)
        found = Counter(
            came_from
            for name, directory in logfiles.partitions(data).items()
            if name in PAIR
            for came_from in _sent_messages(directory)
            if came_from in self.pair
        )
        wanted = 2 if self.is_prepared else found.total()
        if found.total() not in (0, 2) or found.total() != wanted or any(n > 1 for n in found.values()):
            raise BrokenPromiseError(
                [f"of the transaction {found} is there; prepared: {self.is_prepared}, {self.is_committed}"]
            )


def _batch(topic: str, partition: int, records: bytes) -> Callable[[int], bytes]:
    return lambda opaque: encode_put_batch(topic, partition, records, opaque)


def _transactional_put(topic: str, partition: int, payload: bytes) -> Callable[[int], bytes]:
    return lambda opaque: encode_transactional_put(topic, partition, payload, 0, _KEY, opaque)


async def _command(link: BrokerConnection, action: TransactionAction) -> str:
    encode = lambda opaque: encode_transaction(action, _KEY, opaque, qualifier=_KEY.qualifier)  # noqa: E731
    return expect_text(await link.request(encode))


def _sent_messages(directory: Path) -> Iterator[tuple[int, int]]:
    for record in iterate_records(logfiles.joined(directory, 0, logfiles.end_offset(directory))):
        came_from = parse_payload(record.payload)
        if came_from is not None:
            yield came_from


@attrs.define(eq=False)
class Steps:
    """Counts the calls, then strikes them."""

    _base: Path
    counts: dict[Passage, Counter[str]] = attrs.Factory(dict)
    """Of the thread that made most of them, by call."""
    struck: Counter[tuple[Passage, str]] = attrs.Factory(Counter)
    missed: int = 0
    """Points that were not reached: threads share their work otherwise in each run."""
    acknowledged: int = 0
    start_seconds_max: float = 0.0
    _runs: int = 0

    def __attrs_post_init__(self) -> None:
        if shutil.which("strace") is None:
            raise UnavailableError("there is no strace here")

    def count(self) -> None:
        """Run both passages and kill nothing."""
        for passage in ("script", "recovery"):
            self._run(passage, None)

    def points(self, limit: int) -> list[Point]:
        """About so many, evenly over all."""
        every = [
            Point(passage, name, number)
            for passage, counts in self.counts.items()
            for name, count in sorted(counts.items())
            for number in range(1, count + 1)
        ]
        step = max(1.0, len(every) / limit)
        return [every[int(index * step)] for index in range(int(len(every) / step))]

    def strike(self, point: Point) -> None:
        """Die there, start, look; raises BrokenPromiseError and NodeError."""
        try:
            self._run(point.passage, point)
        except BrokenPromiseError as error:
            raise BrokenPromiseError([f"{point}: {error}"]) from error

    def _run(self, passage: Passage, point: Point | None) -> None:
        self._runs += 1
        base = self._base / f"run-{self._runs}"
        trace = base.with_suffix(".trace")
        # -D: strace is the child, and the broker the process that was started.
        command = ["strace", "-D", "-f", "-qq", "-o", str(trace), "-e", f"trace={','.join(CALLS)}"]
        if point is not None:
            command += ["-e", f"inject={point.call}:signal=KILL:when={point.number}"]
        traced, plain = Site(command=tuple(command)), Site()
        script = Script()
        place = Place(base, TOPICS, settings=SETTINGS)
        node = place.master
        try:
            place.master_site = traced if passage == "script" else plain
            node.launch_and_wait()
            if node.is_running:
                trio.run(script.run, place)
            if passage == "script":
                self._end(place)
            else:
                node.kill()
                place.master_site = traced
                node.launch_and_wait()
                self._end(place)
            if point is None:
                if not script.is_done:
                    raise BrokenPromiseError([f"the script does not end:\n{node.log_tail()}"])
                self.counts[passage] = _calls(trace)
            elif node.was_killed:
                self.struck[passage, point.call] += 1
            else:
                self.missed += 1
            place.master_site = plain
            self._judge(place, script)
        finally:
            place.end()
        shutil.rmtree(base)
        trace.unlink(missing_ok=True)

    def _end(self, place: Place) -> None:
        """A clean stop, whose calls may be struck too."""
        node = place.master
        if node.is_running:
            node.send(signal.SIGTERM)
        wait_until(lambda: not node.is_running, START_SECONDS_MAX, "the broker ends")

    def _judge(self, place: Place, script: Script) -> None:
        node = place.master
        node.start()
        self.start_seconds_max = max(self.start_seconds_max, node.start_seconds)
        problems = node.problems()
        if problems:
            raise BrokenPromiseError(problems)
        trio.run(script.decide, place)
        script.judge(place.master_data)
        self.acknowledged += script.verifier.acknowledged
        node.stop()
        if not logfiles.partitions(place.master_data):
            return  # It died before the first put, and verify wants something to look at.
        must_find_nothing("verify", str(place.master_data))


def _calls(trace: Path) -> Counter[str]:
    threads: Counter[tuple[str, str]] = Counter()
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _LINE.match(line)
        if match is not None:
            threads[match[1], match[2]] += 1
    most: Counter[str] = Counter()
    for (_, name), count in threads.items():
        most[name] = max(most[name], count)
    return most


def run_steps(base: Path, limit: int, tell: Callable[[str], None]) -> list[tuple[str, str]]:
    """The long form; raises UnavailableError where there is no strace."""
    steps = Steps(base)
    steps.count()
    points = steps.points(limit)
    for number, point in enumerate(points, 1):
        steps.strike(point)
        if number % 10 == 0:
            tell(f"{number} of {len(points)} points, {steps.acknowledged:,} messages acknowledged, none lost")
    rows = [
        (f"{passage}: {name}, of {count} calls of a thread", f"{steps.struck[passage, name]} kills")
        for passage, counts in steps.counts.items()
        for name, count in sorted(counts.items())
    ]
    return [
        ("points", str(len(points))),
        *rows,
        ("points that a run did not reach", str(steps.missed)),
        ("messages acknowledged", f"{steps.acknowledged:,}"),
        ("acknowledged and missing, moved or changed; duplicates", "0"),
        ("transactions in part, or prepared and gone", "0"),
        ("directories that verify finds fault with", "0"),
        ("longest start of a master after a kill", f"{steps.start_seconds_max:.2f} s"),
    ]
