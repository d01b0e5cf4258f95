"""The client with plain calls, with a real broker and each of the loops in its thread."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client import (
    ConsumerOptions,
    FileOffsets,
    MemoryOffsets,
    OutgoingMessage,
    Partition,
    ProducerOptions,
)
from metaserver.client.blocking import open_session
from metaserver.client.dead_letters import LocalDeadLetters
from metaserver.client.local_store import LocalStore
from metaserver.errors import (
    ConfigError,
    DiscoveryError,
    HandlerFailedError,
    NoPartitionError,
    SendFailedError,
    SendManyError,
)
from tests.client.brokers import Brokers
from tests.support import ROOT, eventually, put

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from metaserver.client import ReceivedMessage, Sent
    from metaserver.client.blocking import Consumer, Session
    from metaserver.client.blocking.loop_thread import Backend

WAIT_SECONDS_MAX = 30.0
MANUAL = ConsumerOptions(commit="manual")
QUICK = ConsumerOptions(attempts_max=2, retry_seconds_min=0.001)
NUMBERS = [b"%d" % number for number in range(10)]

_groups = count()
_topics = count()


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    """``test`` has ten messages in one partition, ``two`` two partitions of ten; the others are empty."""
    topics = ("test", "empty", *(f"topic-{number}" for number in range(40)))
    found = Brokers(tmp_path_factory.mktemp("brokers"), partitions=1, topics=topics)
    found.master.topics += "[topic=two]\nnumPartitions=2\n"
    found.start()
    with found.master.connect() as wire:
        for opaque, payload in enumerate(NUMBERS):
            wire.ask(put("test", payload, opaque))
            for partition in (0, 1):
                wire.ask(put("two", payload, opaque, partition))
    yield found
    found.end()


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """A wait that never ends fails its test."""

    def late(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS_MAX, WAIT_SECONDS_MAX)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def session(brokers: Brokers, backend: Backend) -> Iterator[Session]:
    with open_session(brokers.servers, backend=backend) as found:
        yield found


@pytest.fixture
def group() -> str:
    return f"group-{next(_groups)}"


@pytest.fixture
def topic() -> str:
    """Of this test alone."""
    return f"topic-{next(_topics)}"


def take(consumer: Consumer, number: int) -> list[bytes]:
    """So many, the last of which the application is still busy with."""
    return [next(consumer).payload for _ in range(number)]


def position(session: Session, offsets: MemoryOffsets, group: str) -> int:
    """Where the group stands in the one partition of ``test``."""
    (partition,) = session.partitions("test")
    return session.call(offsets.load, group, [partition])[partition].offset


def stored(session: Session, topic: str) -> list[bytes]:
    return [message.payload for message in session.browse(topic)]


# Producers.


def test_what_is_sent_is_stored(session: Session, topic: str) -> None:
    with session.producer() as producer:
        sent = producer.send(topic, b"one", attribute="first", key=b"k")
        assert (sent.partition, sent.offset) == (Partition(topic, 0, 0), 0)
        producer.send_many(topic, [b"two", OutgoingMessage(b"three", "third")])
        future = producer.send_nowait(topic, b"four")
        assert future.result(WAIT_SECONDS_MAX).partition == sent.partition
        assert [partition.topic for partition in producer.partitions(topic)] == [topic]
    report = session.fetch(sent.partition, 0)
    assert [(message.payload, message.attribute) for message in report.messages] == [
        (b"one", "first"),
        (b"two", None),
        (b"three", "third"),
        (b"four", None),
    ]


def test_threads_share_a_producer_and_each_keeps_its_order(session: Session, topic: str) -> None:
    threads, each = 8, 50
    with session.producer() as producer, ThreadPoolExecutor(threads) as pool:
        start = threading.Barrier(threads)

        def send(thread: int) -> list[Future[Sent]]:
            start.wait(WAIT_SECONDS_MAX)
            for number in range(each):
                producer.send(topic, b"%d send %d" % (thread, number))
            return [producer.send_nowait(topic, b"%d nowait %d" % (thread, n)) for n in range(each)]

        for futures in list(pool.map(send, range(threads))):
            for future in futures:
                future.result(WAIT_SECONDS_MAX)
    partition = Partition(topic, 0, 0)
    found = [message.payload for message in session.fetch(partition, 0).messages]
    assert len(found) == 2 * threads * each
    for thread in range(threads):
        own = [payload for payload in found if payload.startswith(b"%d " % thread)]
        expected = [b"%d send %d" % (thread, number) for number in range(each)]
        assert own == expected + [b"%d nowait %d" % (thread, number) for number in range(each)]


def test_the_end_of_the_block_waits_for_what_was_handed_over(session: Session, topic: str) -> None:
    with session.producer() as producer:
        # A topic nobody has looked for yet, and one of which there is a partition.
        futures = [producer.send_nowait(name, b"x") for name in (topic, "empty", topic)]
    assert all(future.done() for future in futures)
    assert [future.result().partition.topic for future in futures] == [topic, "empty", topic]


def test_a_message_nobody_takes(session: Session) -> None:
    with session.producer(ProducerOptions(timeout_seconds=0.5)) as producer:
        with pytest.raises(NoPartitionError):
            producer.send("nowhere", b"x")
        future = producer.send_nowait("nowhere", b"x")
        assert isinstance(future.exception(WAIT_SECONDS_MAX), NoPartitionError)
        with pytest.raises(SendManyError):
            producer.send_many("nowhere", [b"x"])
        assert producer.buffered == 0


def test_a_full_buffer(session: Session, topic: str) -> None:
    options = ProducerOptions(buffer_bytes_max=5_000, linger_seconds=WAIT_SECONDS_MAX)
    with session.producer(options) as producer:
        sent = [producer.send_nowait(topic, b"x" * 1000) for _ in range(3)]
        with pytest.raises(anyio.WouldBlock):
            producer.send_nowait(topic, b"x")
        assert producer.buffered == 3
        # Until there is room: another thread waits, and the loop's own flush sends what lingers.
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(producer.wait_for_room)
            session.call(producer.asynchronous.flush)
            waiting.result(WAIT_SECONDS_MAX)
        sent.append(producer.send_nowait(topic, b"x"))
    # What lingers is not waited for at the end of the block.
    assert [future.exception() for future in sent] == [None] * 4


def test_a_closed_producer(session: Session, topic: str) -> None:
    with session.producer() as producer:
        pass
    with pytest.raises(SendFailedError):
        producer.send(topic, b"x")
    assert isinstance(producer.send_nowait("test", b"x").exception(WAIT_SECONDS_MAX), SendFailedError)
    with pytest.raises(anyio.ClosedResourceError):
        producer.send_many(topic, [b"x"])


def test_a_call_from_the_loop_itself_would_wait_for_itself(session: Session, topic: str) -> None:
    with session.producer() as producer:

        async def calls() -> None:
            producer.send(topic, b"x")

        for call in (
            calls,
            _calling(session.topics),
            _calling(producer.flush),
            _calling(producer.wait_for_room),
        ):
            with pytest.raises(RuntimeError, match="own loop"):
                session.call(call)
        assert producer.buffered == 0


def _calling(function: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    async def calls() -> None:
        function()

    return calls


def test_an_asynchronous_context_on_the_session_s_loop(session: Session, tmp_path: Path) -> None:
    with (
        session.enter(LocalStore.open(tmp_path / "store")) as store,
        session.producer(store=store) as producer,
    ):
        assert session.call(store.count) == 0
        assert not producer.send("empty", b"x").is_local


# Consumers.


def test_a_group_goes_on_where_it_was(session: Session, group: str) -> None:
    with session.consumer(group, "test") as consumer:
        assert take(consumer, 4) == NUMBERS[:4]
    # 3 was handed out, and the next never asked for.
    with session.consumer(group, "test") as consumer:
        assert take(consumer, 7) == NUMBERS[3:]


def test_a_commit_in_the_middle_of_a_chunk(session: Session, group: str) -> None:
    offsets = MemoryOffsets()
    with session.consumer(group, "test", offsets=offsets) as consumer:
        messages = [next(consumer) for _ in range(4)]
        (lag,) = consumer.lag()
        assert lag.position == messages[3].offset
        consumer.commit(messages[0])
        # Whatever is named, what was asked past is dealt with; the one at hand is not.
        assert position(session, offsets, group) == messages[3].offset
        consumer.commit()
        assert position(session, offsets, group) == messages[3].next_offset


def test_commits_from_time_to_time_say_how_far_the_thread_has_come(session: Session, group: str) -> None:
    offsets = MemoryOffsets()
    options = ConsumerOptions(commit_interval_seconds=0.01)
    with session.consumer(group, "test", options, offsets=offsets) as consumer:
        messages = [next(consumer) for _ in range(4)]
        partition = messages[0].partition

        def committed() -> int | None:
            found = session.call(offsets.load, group, [partition]).get(partition)
            return None if found is None else found.offset

        eventually(lambda: committed() == messages[3].offset, "a commit of what was asked past")


def test_manual_commit(session: Session, group: str) -> None:
    offsets = MemoryOffsets()
    with session.consumer(group, "test", MANUAL, offsets=offsets) as consumer:
        messages = [next(consumer) for _ in range(10)]
        consumer.commit(messages[5])
        assert position(session, offsets, group) == messages[5].next_offset
    assert position(session, offsets, group) == messages[5].next_offset
    with session.consumer(group, "test", MANUAL, offsets=offsets) as consumer:
        assert take(consumer, 4) == NUMBERS[6:]
        consumer.commit()
    assert position(session, offsets, group) == messages[9].next_offset


def test_what_was_lent_and_not_taken_goes_to_the_next_owner(session: Session, group: str) -> None:
    members: list[str] = []
    moving: list[Partition] = []

    def strategy(member: str, present: Sequence[str], partitions: Sequence[Partition]) -> list[Partition]:
        """All are the first member's; what moves is the second's."""
        members.append(member)
        is_first = member == members[0]
        return [p for p in partitions if len(present) == 1 or (p in moving) is not is_first]

    options, offsets = ConsumerOptions(strategy=strategy), MemoryOffsets()
    with session.consumer(group, "two", options, offsets=offsets) as first:
        begun = next(first)
        moving.append(begun.partition)
        with (
            session.consumer(group, "two", options, offsets=offsets) as second,
            ThreadPoolExecutor(1) as pool,
        ):
            waiting = pool.submit(next, second)
            eventually(lambda: first._chunk is not None and first._chunk.is_recalled, "the hand-over")
            # Nine more were lent, and the application is busy with the first: it is waited for.
            assert not waiting.done()
            others = [next(first) for _ in range(10)]
            assert {message.partition for message in others}.isdisjoint(moving)
            found = [waiting.result(WAIT_SECONDS_MAX), *(next(second) for _ in range(8))]
            assert {message.partition for message in found} == set(moving)
            assert [message.payload for message in found] == NUMBERS[1:]


def test_seek_pause_and_resume(session: Session, group: str) -> None:
    with session.consumer(group, "test") as consumer:
        first = next(consumer)
        assert take(consumer, 3) == NUMBERS[1:4]
        (partition,) = consumer.partitions
        consumer.seek(partition, first.offset)
        assert take(consumer, 2) == NUMBERS[:2]
        consumer.pause()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(next, consumer)
            # The thread cannot get one before this: what was lent is recalled.
            consumer.resume([partition])
            assert waiting.result(WAIT_SECONDS_MAX).payload == NUMBERS[2]
        assert take(consumer, 7) == NUMBERS[3:]
        with pytest.raises(KeyError):
            consumer.seek(Partition("test", 9, 9), 0)
        assert consumer.problems == []


def test_a_paused_partition_hands_nothing_out(session: Session, group: str) -> None:
    with session.consumer(group, "two") as consumer:
        paused = next(consumer).partition
        consumer.pause([paused])
        others = [next(consumer) for _ in range(10)]
        assert {message.partition for message in others} == set(consumer.partitions) - {paused}
        consumer.resume()
        assert [next(consumer).payload for _ in range(9)] == NUMBERS[1:]


def test_a_filter_runs_in_the_thread_and_its_error_loses_nothing(session: Session, group: str) -> None:
    offsets = MemoryOffsets()
    failures = [b"5"]
    threads = set()

    def wanted(message: ReceivedMessage) -> bool:
        threads.add(threading.get_ident())
        if message.payload in failures:
            failures.clear()
            raise LookupError
        return message.payload in b"3 5 9"

    with session.consumer(group, "test", offsets=offsets, message_filter=wanted) as consumer:
        three = next(consumer)
        with pytest.raises(LookupError):
            next(consumer)
        consumer.commit(three)
        # 4 was passed over behind 3.
        assert position(session, offsets, group) > three.next_offset
        assert take(consumer, 2) == [b"5", b"9"]
    assert threads == {threading.get_ident()}


def test_what_is_passed_over_commits_nothing_that_is_open(session: Session, group: str) -> None:
    offsets = MemoryOffsets()
    wanted = {b"3", b"9"}.__contains__
    with session.consumer(
        group, "test", MANUAL, offsets=offsets, message_filter=lambda m: wanted(m.payload)
    ) as consumer:
        three, nine = next(consumer), next(consumer)
    assert (three.payload, nine.payload) == (b"3", b"9")
    assert position(session, offsets, group) == three.offset


def test_an_error_in_the_block_comes_out_behind_the_commit(session: Session, group: str) -> None:
    offsets = MemoryOffsets()

    def work() -> None:
        with session.consumer(group, "test", offsets=offsets) as consumer:
            for message in consumer:
                if message.payload == b"3":
                    raise LookupError(message.offset)

    with pytest.raises(LookupError) as caught:
        work()
    assert position(session, offsets, group) == caught.value.args[0]


def test_stop_from_another_thread_ends_an_iteration_that_waits(session: Session, group: str) -> None:
    with session.consumer(group, "empty", ConsumerOptions(start="latest")) as consumer:
        consumer.wait_assigned()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(list, consumer)
            consumer.stop()
            assert waiting.result(WAIT_SECONDS_MAX) == []


def test_a_blank_group(session: Session) -> None:
    with pytest.raises(ConfigError), session.consumer(" ", "test"):
        pass


# Handlers.


def test_handlers_run_in_threads_side_by_side(session: Session, group: str) -> None:
    together = threading.Barrier(2)
    handled: list[ReceivedMessage] = []
    threads = set()

    def handler(message: ReceivedMessage) -> None:
        threads.add(threading.get_ident())
        # Nobody passes before the other partition's handler has come.
        together.wait(WAIT_SECONDS_MAX)
        handled.append(message)
        if len(handled) == 20:
            consumer.stop()

    with session.consumer(group, "two") as consumer:
        consumer.run(handler)
    assert threading.get_ident() not in threads
    for partition in (0, 1):
        own = [message.payload for message in handled if message.partition.number == partition]
        assert own == NUMBERS


def test_stopped_a_handler_ends_and_its_message_is_dealt_with(session: Session, group: str) -> None:
    offsets = MemoryOffsets()
    ended: list[ReceivedMessage] = []

    def handler(message: ReceivedMessage) -> None:
        if message.payload == b"3":
            consumer.stop()
            # The loop has come to the stop when this returns.
            session.topics()
        ended.append(message)

    with session.consumer(group, "test", offsets=offsets) as consumer:
        consumer.run(handler)
    assert [message.payload for message in ended] == NUMBERS[:4]
    assert position(session, offsets, group) == ended[-1].next_offset


def test_a_handler_that_keeps_failing(session: Session, group: str, tmp_path: Path) -> None:
    handled: list[bytes] = []

    def handler(message: ReceivedMessage) -> None:
        handled.append(message.payload)
        if message.payload == b"3":
            raise LookupError
        if message.payload == b"9":
            consumer.stop()

    with session.consumer(group, "test", QUICK) as consumer, pytest.raises(HandlerFailedError):
        consumer.run(handler)
    assert handled == [*NUMBERS[:3], b"3", b"3"]
    with session.enter(LocalStore.open(tmp_path / "dead")) as store:
        with session.consumer(group, "test", QUICK, dead_letters=LocalDeadLetters(store)) as consumer:
            consumer.run(handler)
        (dead,) = session.call(store.first, 10)
    assert (dead.payload, dead.group, dead.attempts) == (b"3", group, 2)
    assert handled[5:] == [b"3", b"3", *NUMBERS[4:]]


def test_a_handler_that_exits_ends_the_run_and_its_message_comes_again(session: Session, group: str) -> None:
    handled: list[bytes] = []

    def handler(message: ReceivedMessage) -> None:
        handled.append(message.payload)
        if message.payload == b"3":
            raise SystemExit(7)

    with session.consumer(group, "test") as consumer:
        with pytest.raises(SystemExit):
            consumer.run(handler)
        assert handled == NUMBERS[:4]
        assert take(consumer, 7) == NUMBERS[3:]


# Sessions.


def test_topics_and_browsing(session: Session) -> None:
    assert {"test", "two", "empty"} <= set(session.topics())
    assert [str(partition) for partition in session.partitions("two")] == ["two 0-0", "two 0-1"]
    assert stored(session, "two") == NUMBERS * 2
    assert stored(session, "nowhere") == []
    assert session.cluster.readable("two")
    (partition,) = session.partitions("test")
    last = session.fetch(partition, 0).messages[-1]
    assert session.offset_at(partition, last.wall_seconds + 1) == last.next_offset


def test_a_wrong_address(brokers: Brokers) -> None:
    with pytest.raises(ConfigError), open_session("nonsense"):
        pass


def test_what_a_closed_session_says(brokers: Brokers, backend: Backend, group: str) -> None:
    with open_session(brokers.servers, backend=backend) as session:
        manager = session.consumer(group, "test")
        consumer = manager.__enter__()
        assert next(consumer).payload == b"0"
    for call in (session.topics, lambda: session.partitions("test"), consumer.commit):
        with pytest.raises(anyio.ClosedResourceError):
            call()
    # It hands out nothing of what it had fetched: others have the partition now.
    assert list(consumer) == []
    manager.__exit__(None, None, None)


def test_an_end_from_inside_reaches_who_waits(session: Session) -> None:
    async def fails() -> None:
        raise DiscoveryError("here", "for the test")

    with pytest.raises(DiscoveryError):
        session.call(fails)
    assert session.topics()


def _others() -> set[threading.Thread]:
    """Without trio's idle worker threads, which it keeps for ten seconds."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


def test_nothing_is_left_of_what_was_abandoned(brokers: Brokers, backend: Backend, group: str) -> None:
    before = _others()

    def messages() -> Iterator[ReceivedMessage]:
        with (
            open_session(brokers.servers, backend=backend) as session,
            session.producer() as producer,
            session.consumer(group, "test") as consumer,
        ):
            producer.send_nowait("empty", b"x")
            yield from consumer

    found = messages()
    assert next(found).payload == b"0"
    assert len(_others()) > len(before)
    del found
    gc.collect()
    assert _others() <= before

    open_session(brokers.servers, backend=backend)
    assert _others() <= before


def test_an_abandoned_session_ends_also_where_the_loop_collects_it(
    brokers: Brokers, backend: Backend, group: str
) -> None:
    before = _others()
    manager = open_session(brokers.servers, backend=backend)
    session = manager.__enter__()
    inner = session.consumer(group, "test")
    inner.__enter__()
    (loop,) = (thread for thread in _others() - before if thread.name.endswith("-loop"))

    last = [inner, manager]
    del inner, manager

    async def forget() -> None:
        # The last references go here, on the loop.
        last.clear()

    session.call(forget)
    loop.join(WAIT_SECONDS_MAX)
    assert not loop.is_alive()


@pytest.mark.parametrize("work", ["for _ in consumer: handle(_)", "consumer.run(handle)"])
def test_ctrl_c_ends_it_in_order(
    brokers: Brokers, backend: Backend, group: str, work: str, tmp_path: Path
) -> None:
    program = f"""
        import signal

        from metaserver.client import FileOffsets
        from metaserver.client.blocking import open_session

        # A program that a shell began in the background ignores the signal otherwise.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def handle(message):
            if message.payload == b"9":
                print("at the end", flush=True)

        try:
            with open_session({brokers.servers!r}, backend={backend!r}) as session:
                with session.consumer({group!r}, "test", offsets=FileOffsets({str(tmp_path / "o")!r})) as consumer:
                    {work}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at the end\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=WAIT_SECONDS_MAX)
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
    with open_session(brokers.servers, backend=backend) as session:
        storage = FileOffsets(tmp_path / "o")
        (partition,) = session.partitions("test")
        found = session.call(storage.load, group, [partition])[partition].offset
        report = session.fetch(partition, 0)
        # Asked for the next, or returned from the handler, before the interruption: at least all but the last.
        assert found in {report.messages[-1].offset, report.next_offset}
