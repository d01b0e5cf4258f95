"""``produce --cluster``: to all partitions of all brokers, found through the registry."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.cli.cluster import opened, unknown_topic
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure, complain, count_of, say
from metaserver.cli.sending import describe_acknowledged, keep_rate, piece_of, show_often
from metaserver.cli.signals import on_signal
from metaserver.errors import (
    MetaServerError,
    NoPartitionError,
    SendError,
    SendManyError,
    SendUnknownError,
)
from metaserver.names import pattern_matches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from metaserver.cli.cluster import Choice
    from metaserver.cli.sender import Input
    from metaserver.cli.sending import Show
    from metaserver.client import OutgoingMessage, Partition, Producer, ProducerOptions, Selector, Session
    from metaserver.registry.paths import BrokerPartition

    KeyOf = Callable[[bytes], tuple[bytes | None, bytes]]
    """A message's key, or None, and what is sent of it."""

_PATIENCE_SECONDS = 5.0
"""After an interrupt: for what was handed over already."""
_FAILURES_SHOWN = 3


@attrs.frozen(kw_only=True)
class Job:
    """What is to be sent, and how."""

    topic: str
    partition: BrokerPartition | None
    """None: all of them, by the key or in turn."""
    attribute: str | None
    key_of: KeyOf
    batch_bytes: int
    is_batched: bool
    messages_per_second: float | None


@attrs.define
class Outcome:
    """What became of the messages, which are numbered from 1."""

    acknowledged: int = 0
    acknowledged_bytes: int = 0
    by_broker: Counter[int] = attrs.Factory(Counter)
    partitions: set[Partition] = attrs.Factory(set)
    failures: list[tuple[int, SendError]] = attrs.Factory(list)
    """Of messages that are not, or perhaps not, stored."""
    unanswered: int = 0
    """Given up at an interrupt: stored or not."""
    problem: MetaServerError | OSError | Failure | None = None
    """Why nothing was sent, or the input ended early."""
    seconds: float = 0.0
    is_interrupted: bool = False
    _next_number: int = 1

    @property
    def is_complete(self) -> bool:
        """Whether everything that was read was acknowledged."""
        return not self.failures and not self.unanswered

    def note(self, messages: Sequence[OutgoingMessage], outcomes: Sequence[object]) -> None:
        """What came of some messages, in the order of the input."""
        from metaserver.client import Sent

        for number, (message, outcome) in enumerate(zip(messages, outcomes, strict=True), self._next_number):
            if isinstance(outcome, Sent):
                self.acknowledged += 1
                self.acknowledged_bytes += len(message.payload)
                self.by_broker[outcome.partition.broker_id] += 1
                self.partitions.add(outcome.partition)
            elif isinstance(outcome, SendError):
                self.failures.append((number, outcome))
        self._next_number += len(messages)


def key_function(separator: str | None, regex: str | None) -> KeyOf:
    """What finds the key of a message; raises Failure."""
    if separator is not None and regex is not None:
        raise Failure("a key is found by --key-separator or by --key-regex, not by both", ExitCode.USAGE)
    if separator is not None:
        return _by_separator(separator.replace("\\t", "\t").encode())
    if regex is not None:
        try:
            return _by_pattern(re.compile(regex.encode()))
        except re.error as error:
            raise Failure(f"--key-regex {regex}: {error}", ExitCode.USAGE) from error
    return lambda body: (None, body)


def _by_separator(separator: bytes) -> KeyOf:
    if not separator:
        raise Failure("--key-separator is blank; \\t is a tab", ExitCode.USAGE)

    def key_of(body: bytes) -> tuple[bytes | None, bytes]:
        key, found, rest = body.partition(separator)
        return (key, rest) if found else (None, body)

    return key_of


def _by_pattern(pattern: re.Pattern[bytes]) -> KeyOf:
    def key_of(body: bytes) -> tuple[bytes | None, bytes]:
        found = pattern.search(body)
        if found is None:
            return None, body
        return found[1] if pattern.groups else found[0], body

    return key_of


async def produce_in_cluster(choice: Choice, job: Job, source: Input, show: Show) -> Outcome:
    """Send all of it and wait until the fate of each message is known."""
    outcome = Outcome()
    async with trio.open_nursery() as nursery:
        run = _Run(job, outcome)
        await nursery.start(on_signal, lambda _number: run.interrupt(), signal.SIGINT, signal.SIGTERM)
        nursery.start_soon(show_often, outcome, show)
        try:
            await run.all(choice, source)
        except (MetaServerError, OSError, Failure) as error:
            outcome.problem = error
        nursery.cancel_scope.cancel()
    show(outcome)
    return outcome


def report(outcome: Outcome) -> None:
    """Print it; raises SystemExit unless all is well."""
    text = describe_acknowledged(outcome, outcome.seconds)
    if outcome.by_broker:
        shares = ", ".join(
            f"broker {broker}: {count:,}" for broker, count in sorted(outcome.by_broker.items())
        )
        text += f"; {count_of(len(outcome.partitions), 'partition')}, {shares}"
    say(text)
    for number, error in outcome.failures[:_FAILURES_SHOWN]:
        complain(f"message {number}: {error}")
    if len(outcome.failures) > _FAILURES_SHOWN:
        unknown = sum(isinstance(error, SendUnknownError) for _number, error in outcome.failures)
        complain(
            f"{len(outcome.failures):,} messages were not acknowledged; {unknown:,} of them may be stored"
        )
    if outcome.unanswered:
        complain(f"{count_of(outcome.unanswered, 'message')} without a reply: stored or not")
    if outcome.problem is not None and outcome.is_complete:
        raise outcome.problem
    if not outcome.is_complete:
        raise SystemExit(int(ExitCode.NOT_ACKNOWLEDGED))
    if outcome.is_interrupted:
        raise SystemExit(int(ExitCode.INTERRUPTED))


@attrs.define(eq=False)
class _Run:
    """One job under way."""

    _job: Job
    _outcome: Outcome
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _sending: trio.CancelScope | None = None

    def interrupt(self) -> None:
        """Read nothing more, and wait a little for what was handed over."""
        self._outcome.is_interrupted = True
        self._scope.cancel()
        if self._sending is not None:
            self._sending.deadline = trio.current_time() + _PATIENCE_SECONDS

    async def all(self, choice: Choice, source: Input) -> None:
        """Raises ClientError, OSError, FramingError and Failure."""
        with self._scope:
            async with opened(choice) as session:
                options, selector = await self._chosen(session, choice)
                async with session.producer(options, selector=selector) as producer:
                    await self._send_all(producer, source)

    async def _chosen(self, session: Session, choice: Choice) -> tuple[ProducerOptions, Selector | None]:
        """How the producer is to send; raises Failure where nobody takes such messages."""
        from metaserver.client import Partition, ProducerOptions

        job = self._job
        options = ProducerOptions() if choice.profile is None else choice.profile.producer
        options = attrs.evolve(options, batch_bytes_max=job.batch_bytes)
        if not job.is_batched:
            options = attrs.evolve(options, batch_messages_max=1)
        partitions = await session.partitions(job.topic)
        if not partitions:
            # A section a*b, whose topics come into being with their first message.
            names = await session.topics()
            pattern = next((name for name in names if "*" in name and pattern_matches(name, job.topic)), None)
            if pattern is None:
                raise unknown_topic(session, job.topic)
            options = attrs.evolve(options, default_topic=pattern)
            partitions = await session.partitions(pattern)
        if job.partition is None:
            return options, None
        chosen = Partition(job.topic, job.partition.broker_id, job.partition.partition)
        known = [str(partition.in_topic) for partition in partitions]
        if str(chosen.in_topic) not in known:
            raise Failure(f"topic {job.topic} has no partition {chosen.in_topic}; it has {', '.join(known)}")
        return options, _only(chosen)

    async def _send_all(self, producer: Producer, source: Input) -> None:
        started = time.perf_counter()
        try:
            async with aclosing(source.batches(self._job.batch_bytes)) as batches:
                async for bodies in batches:
                    for piece in self._pieces(bodies):
                        await keep_rate(started, self._outcome.acknowledged, self._job.messages_per_second)
                        await self._send(producer, piece)
                        if not self._outcome.is_complete:
                            return
        finally:
            self._outcome.seconds = time.perf_counter() - started

    def _pieces(self, bodies: list[bytes]) -> Iterator[list[bytes]]:
        size = piece_of(len(bodies), self._job.messages_per_second)
        return (bodies[start : start + size] for start in range(0, len(bodies), size))

    async def _send(self, producer: Producer, bodies: list[bytes]) -> None:
        from metaserver.client import OutgoingMessage

        job, outcome = self._job, self._outcome
        messages = [OutgoingMessage(payload, job.attribute, key) for key, payload in map(job.key_of, bodies)]
        # Once handed over they go their way; a cancellation must not lose what became of them.
        with trio.CancelScope(shield=True) as self._sending:
            try:
                outcome.note(messages, await producer.send_many(job.topic, messages))
            except SendManyError as error:
                outcome.note(messages, error.outcomes)
        if self._sending.cancelled_caught:
            outcome.unanswered += len(messages)
        self._sending = None


def _only(chosen: Partition) -> Selector:
    def select(
        topic: str,
        partitions: Sequence[Partition],
        key: bytes | None,  # noqa: ARG001 - of the protocol
        payload: bytes,  # noqa: ARG001
    ) -> Partition:
        if chosen not in partitions:
            raise NoPartitionError(topic, f"{chosen.in_topic} is not there now")
        return chosen

    return select
