"""``consume --group``: as a member of a group. An offset is stored only behind what has been written."""

from __future__ import annotations

import os
import select
import signal
import stat
from typing import TYPE_CHECKING, Literal

import attrs
import trio

from metaserver.cli.cluster import known_partitions, opened
from metaserver.cli.framing import LENGTH
from metaserver.cli.output import Failure, complain
from metaserver.cli.reader import write_all
from metaserver.cli.signals import on_signal
from metaserver.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.cli.cluster import Choice
    from metaserver.client import Consumer, ReceivedMessage
    from metaserver.client.replica_choice import ReadFrom

    Render = Callable[[ReceivedMessage], bytes]

_COMMIT_SECONDS = 1.0
"""Between two commits: what is printed again after a kill, and no more."""
_LAST_COMMIT_SECONDS_MAX = 10.0
_LOOK_SECONDS = 1.0
_PIPE_BYTES = select.PIPE_BUF
"""So much a pipe takes at once, if it takes anything."""


@attrs.frozen(kw_only=True)
class Job:
    """What is to be printed."""

    topic: str
    group: str
    start: Literal["earliest", "latest"] | None
    """None, and the next: as the profile has it, or else a client does."""
    read_from: ReadFrom | None
    count: int | None
    idle_seconds: float | None
    """End when nothing has come for so long; None: never."""
    render: Render


@attrs.define
class Ended:
    """How it came to its end."""

    signal_number: int | None = None
    problem: ClientError | OSError | Failure | None = None


@attrs.define(eq=False)
class Output:
    """Where messages are written, one at a time: when ``write`` returns, the kernel has it."""

    descriptor: int
    _is_file: bool = attrs.field(init=False)
    _poll: select.poll | None = attrs.field(init=False)
    """Tells whether a pipe would take a small message at once; None for what is neither pipe nor file."""

    def __attrs_post_init__(self) -> None:
        mode = os.fstat(self.descriptor).st_mode
        self._is_file = stat.S_ISREG(mode)
        self._poll = select.poll() if stat.S_ISFIFO(mode) else None
        if self._poll is not None:
            self._poll.register(self.descriptor, select.POLLOUT)

    async def write(self, data: bytes) -> None:
        """Raises OSError; BrokenPipeError where nobody reads any more."""
        is_small = len(data) <= _PIPE_BYTES
        if self._is_file or (is_small and self._poll is not None and self._poll.poll(0)):
            write_all(self.descriptor, data)
            return
        # In a thread: who reads may take his time, and a signal must end this all the same.
        await trio.to_thread.run_sync(write_all, self.descriptor, data, abandon_on_cancel=True)


def renderer(name: str, *, with_offsets: bool) -> Render:
    """The function for ``--format NAME``."""
    match name:
        case "records":
            return lambda message: LENGTH.pack(len(message.payload)) + message.payload
        case "json":
            from metaserver.cli.formats import message_as_json

            return lambda message: message_as_json(message, str(message.partition.in_topic)).encode() + b"\n"
        case _ if with_offsets:
            return lambda message: (
                b"%b:%d\t%b\n" % (str(message.partition.in_topic).encode(), message.offset, message.payload)
            )
        case _:
            return lambda message: message.payload + b"\n"


async def consume_in_group(choice: Choice, job: Job, output: Output) -> Ended:
    """Print until it is enough, a signal comes, or nobody reads any more."""
    ended = Ended()
    async with trio.open_nursery() as nursery:

        def end(number: int) -> None:
            ended.signal_number = number
            nursery.cancel_scope.cancel()

        await nursery.start(on_signal, end, signal.SIGINT, signal.SIGTERM)
        try:
            await _consume(choice, job, output)
        except BrokenPipeError:
            pass  # Whoever read our output has seen enough.
        except (ClientError, OSError, Failure) as error:
            ended.problem = error
        nursery.cancel_scope.cancel()
    return ended


async def _consume(choice: Choice, job: Job, output: Output) -> None:
    from metaserver.client import ConsumerOptions
    from metaserver.client.scope import background_tasks

    options = ConsumerOptions() if choice.profile is None else choice.profile.consumer
    options = attrs.evolve(options, commit="auto", commit_interval_seconds=_COMMIT_SECONDS)
    if job.start is not None:
        options = attrs.evolve(options, start=job.start)
    if job.read_from is not None:
        options = attrs.evolve(options, read_from=job.read_from)
    async with opened(choice) as session:
        await known_partitions(session, job.topic)
        async with session.consumer(job.group, job.topic, options) as consumer, background_tasks() as tasks:
            await consumer.wait_assigned()
            tasks.start_soon(_tell_problems, consumer)
            await print_messages(consumer, job, output)


async def print_messages(consumer: Consumer, job: Job, output: Output) -> None:
    """Print until it is enough; however it ends, what was written is stored, and nothing else.

    Raises ClientError, and OSError: BrokenPipeError where nobody reads any more.
    """
    written: ReceivedMessage | None = None
    left = job.count
    try:
        while left is None or left > 0:
            if job.idle_seconds is None:
                message = await anext(consumer)
            else:
                with trio.move_on_after(job.idle_seconds) as waiting:
                    message = await anext(consumer)
                if waiting.cancelled_caught:
                    return
            await output.write(job.render(message))
            written = message
            if left is not None:
                left -= 1
    finally:
        # The one before was dealt with when this one was asked for. No other will be, so it is said here.
        with trio.move_on_after(_LAST_COMMIT_SECONDS_MAX, shield=True):
            if written is not None:
                await consumer.commit(written)


async def _tell_problems(consumer: Consumer) -> None:
    """Say what keeps messages from coming, once it has done so for a while."""
    if not consumer.partitions:
        complain("the other members of the group have all partitions now; waiting for one")
    before: set[str] = set()
    told: set[str] = set()
    while True:
        await trio.sleep(_LOOK_SECONDS)
        found = set(consumer.problems)
        for problem in sorted((found & before) - told):
            complain(problem)
        told = found & (told | before)
        before = found
