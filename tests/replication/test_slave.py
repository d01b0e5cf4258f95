"""A master and a slave as processes: what the slave copies, serves, refuses, reports, and where it stops."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack, aclosing, contextmanager
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio

from metaserver.client import Batch, Fetched, Moved, NothingThere, connect
from metaserver.errors import ReplyError
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.node.clock import SystemClock
from metaserver.storage import MessageStore, RealFileSystem, StoreOptions
from tools.torture import logfiles
from tools.torture.faults import PLAIN_SYNCS, injected
from tools.torture.filesystems import MIB, UnavailableError, fill, tmpfs
from tools.torture.nodes import place_at, wait_until
from tools.torture.verifier import PrefixCheck

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from metaserver.client import BrokerConnection, Message
    from tools.torture.nodes import Node, Place

KIB = 1024
TOPICS = ("[topic=orders]\nnumPartitions=2", "[topic=events]")
SMALL_SEGMENTS = {"maxSegmentSize": 64 * KIB}
FOLLOWS_SECONDS_MAX = 10.0
NOTICES_SECONDS_MAX = 5.0
"""For a new topic or a change of state."""


@attrs.define
class Pair:
    """A master and its slave, and the few things every test does with them."""

    place: Place

    @property
    def master(self) -> Node:
        return self.place.master

    @property
    def slave(self) -> Node:
        return self.place.slave

    def start(self) -> None:
        self.master.start()
        self.slave.start()

    async def put(self, name: tuple[str, int], payloads: Sequence[bytes]) -> None:
        """Batches of a hundred, so that a record can be found in the middle of one."""
        async with connect("127.0.0.1", self.master.port) as link:
            for start in range(0, len(payloads), 100):
                batch = Batch()
                for payload in payloads[start : start + 100]:
                    batch.add(payload)
                await link.put_batch(*name, batch)

    def replica(self, name: tuple[str, int]) -> dict[str, Any]:
        return self.slave.replicas()[name]

    def wait_until_equal(self, seconds: float = FOLLOWS_SECONDS_MAX) -> None:
        prefix = PrefixCheck(self.place.master_data, self.place.slave_data)
        wait_until(
            lambda: not prefix.is_behind(), seconds, f"the slave has everything\n{self.slave.log_tail()}"
        )
        prefix.look()
        assert prefix.differences() == []
        # The files are equal before the slave's own sync lets readers see the end of them.
        wait_until(
            lambda: self.readable_ends(self.slave) == self.readable_ends(self.master), seconds, "readable"
        )

    def readable_ends(self, node: Node) -> dict[tuple[str, int], int]:
        return {(one["topic"], one["partition"]): one["end_offset"] for one in node.ask("topics")["topics"]}

    def wait_for_stop(self, name: tuple[str, int], text: str) -> None:
        wait_until(
            lambda: self.slave.replicas().get(name, {}).get("state") == "stopped",
            NOTICES_SECONDS_MAX,
            "a stop",
        )
        assert text in self.replica(name)["reason"]
        assert any(text in problem for problem in self.slave.problems())

    def bytes_of(self, data: Path, name: tuple[str, int]) -> bytes:
        return logfiles.joined(data / f"{name[0]}-{name[1]}", 0, 2**63)


@contextmanager
def pair_at(base: Path, settings: Mapping[str, object] | None = None) -> Iterator[Pair]:
    with place_at(base, TOPICS, settings=settings) as place:
        yield Pair(place)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with pair_at(tmp_path / "place", SMALL_SEGMENTS) as pair:
        yield pair


async def read_all(node: Node, name: tuple[str, int], start: int = 0) -> list[bytes]:
    async with connect("127.0.0.1", node.port) as link:
        return [payload async for payload in messages(link, name, start)]


async def messages(link: BrokerConnection, name: tuple[str, int], offset: int) -> AsyncIterator[bytes]:
    while isinstance(got := await link.get(*name, offset), Fetched):
        for message in got.messages():
            offset = message.next_offset
            yield message.payload


def texts(count: int, size: int = 200, first: int = 0) -> list[bytes]:
    return [(b"message %d " % number).ljust(size, b".") for number in range(first, first + count)]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


# What it copies.


async def test_files_are_equal_over_many_segments(pair: Pair) -> None:
    pair.master.start()
    await pair.put(("orders", 0), texts(3000))
    await pair.put(("events", 0), texts(10))
    pair.slave.start()
    pair.wait_until_equal()
    await pair.put(("orders", 0), texts(1000, first=3000))
    await pair.put(("orders", 1), texts(500))
    pair.wait_until_equal()
    assert len(logfiles.segments(pair.place.slave_data / "orders-0")) > 10
    assert await read_all(pair.slave, ("orders", 0)) == texts(4000)


async def test_it_begins_at_the_first_offset_the_master_still_has(pair: Pair) -> None:
    pair.master.start()
    await pair.put(("orders", 0), texts(2000))
    pair.master.stop()
    start = apply_retention(pair.place.master_data)
    assert start > 0

    pair.start()
    await pair.put(("orders", 0), texts(300, first=2000))
    pair.wait_until_equal()
    assert logfiles.segments(pair.place.slave_data / "orders-0")[0].start_offset == start
    assert pair.replica(("orders", 0))["start_offset"] == start
    assert (await read_all(pair.slave, ("orders", 0), start))[-300:] == texts(300, first=2000)
    pair.slave.stop()
    await pair.put(("orders", 0), texts(300, first=2300))
    pair.slave.start()
    pair.wait_until_equal()


def apply_retention(data: Path) -> int:
    """Delete every segment of orders-0 but the last, as a master does; returns the new start."""
    options = StoreOptions(segment_bytes_max=64 * KIB, checkpoint_bytes=MIB)
    store = MessageStore.open(RealFileSystem(), SystemClock(), options, [data], "a test")
    log = store.partitions[TopicPartition(Topic("orders"), PartitionId(0))]
    assert len(log.delete_expired("delete", 0, False, SystemClock().wall_seconds() + 60)) > 4
    store.close()
    return log.start_offset


async def test_records_as_large_as_they_may_be(tmp_path: Path) -> None:
    transfer_bytes = 3 * MIB
    settings = {"maxTransferSize": transfer_bytes, "maxSegmentSize": 8 * MIB}
    with pair_at(tmp_path / "place", settings) as pair:
        pair.start()
        sizes = [transfer_bytes - 20, 1, MIB - 20, MIB, 0, transfer_bytes - 21, 2 * MIB]
        payloads = [bytes([number]) * size for number, size in enumerate(sizes, 1)]
        async with connect("127.0.0.1", pair.master.port) as link:
            for payload in payloads:
                await link.put("orders", 0, payload)
        pair.wait_until_equal()
        async with connect("127.0.0.1", pair.slave.port) as link:
            with trio.fail_after(10):
                async with aclosing(
                    cast("AsyncGenerator[Message]", link.follow("orders", 0, 0))
                ) as following:
                    got = [(await anext(following)).payload for _ in payloads]
        assert got == payloads


async def test_new_topics_and_partitions_are_followed_without_a_command(pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(10))
    pair.wait_until_equal()
    edit(
        pair.place.server_file,
        "[topic=orders]\nnumPartitions=2",
        "[topic=orders]\nnumPartitions=3\n\n[topic=added]",
    )
    assert pair.master.ask("reload")["topics_added"] == ["added"]
    await pair.put(("added", 0), texts(20))
    await pair.put(("orders", 2), texts(20))
    pair.wait_until_equal(NOTICES_SECONDS_MAX)
    assert await read_all(pair.slave, ("added", 0)) == texts(20)


# Restarts.


@pytest.mark.parametrize("end", ["stop", "kill"])
@pytest.mark.parametrize("who", ["slave", "master"])
async def test_it_goes_on_after_a_restart(who: str, end: str, pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(700))
    pair.wait_until_equal()
    node = pair.slave if who == "slave" else pair.master
    if end == "stop":
        node.stop()
    else:
        node.kill()
    if who == "slave":
        await pair.put(("orders", 0), texts(700, first=700))
    node.start()
    if who == "master":
        await pair.put(("orders", 0), texts(700, first=700))
    pair.wait_until_equal()
    assert await read_all(pair.slave, ("orders", 0)) == texts(1400)
    assert pair.slave.problems() == []


async def test_a_master_that_is_not_there_yet(pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(50))
    pair.wait_until_equal()
    pair.slave.stop()
    pair.master.stop()

    pair.slave.start()
    assert await read_all(pair.slave, ("orders", 0)) == texts(50)
    wait_until(lambda: "cannot be reached" in str(pair.slave.problems()), NOTICES_SECONDS_MAX, "it says so")
    assert not pair.slave.ask("slave-status")["connected"]
    pair.master.start()
    await pair.put(("orders", 0), texts(50, first=50))
    pair.wait_until_equal()
    assert pair.slave.problems() == []


async def test_a_connection_lost_while_bytes_wait_for_the_disk_is_no_divergence(
    tmp_path: Path,
) -> None:
    """Not everything that was fetched is in the log when the master is back, so nothing can be compared."""
    with pair_at(tmp_path / "place") as pair:
        pair.start()
        await pair.put(("orders", 0), texts(10))
        pair.wait_until_equal()
        with slowed(pair.slave, tmp_path / "trace", PLAIN_SYNCS, "fdatasync:delay_enter=2000000"):
            await pair.put(("orders", 0), texts(10, first=10))
            wait_until(lambda: pair.replica(("orders", 0))["lag_bytes"] > 0, 5, "a sync is under way")
            await pair.put(("orders", 0), texts(10, first=20))
            pair.master.kill()
            pair.master.start()
            wait_until(lambda: pair.slave.ask("slave-status")["connected"], 5, "it is connected again")
        pair.wait_until_equal()
        assert pair.slave.problems() == []


# What it serves, refuses and reports.


async def test_it_serves_gets_and_long_polls_and_refuses_puts(pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(5))
    pair.wait_until_equal()
    async with connect("127.0.0.1", pair.slave.port) as link:
        with pytest.raises(ReplyError, match=rf"is a slave.*send to its master 127.0.0.1:{pair.master.port}"):
            await link.put("orders", 0, b"no")
        batch = Batch()
        batch.add(b"no")
        with pytest.raises(ReplyError, match="is a slave"):
            await link.put_batch("orders", 0, batch)
        end = await link.end_offset("orders", 0)
        assert isinstance(await link.get("orders", 0, end), NothingThere)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def wait_for_data() -> None:
                    got = await link.get("orders", 0, end, wait_ms=9000)
                    assert isinstance(got, Fetched)
                    assert [message.payload for message in got.messages()] == [b"news"]

                nursery.start_soon(wait_for_data)
                await pair.put(("orders", 0), [b"news"])
    assert pair.slave.ask("status")["role"] == "slave"


async def test_it_reports_its_lag_while_there_is_one(tmp_path: Path) -> None:
    with pair_at(tmp_path / "place") as pair:
        pair.start()
        await pair.put(("orders", 0), texts(10, size=100))
        pair.wait_until_equal()
        wait_until(lambda: pair.slave.ask("slave-status")["lag_bytes"] == 0, 5, "no lag")
        assert pair.replica(("orders", 0))["state"] == "caught up"
        with slowed(pair.slave, tmp_path / "trace", PLAIN_SYNCS, "fdatasync:delay_enter=1000000"):
            await pair.put(("orders", 0), texts(10, size=100, first=10))
            wait_until(lambda: pair.slave.ask("slave-status")["lag_bytes"] > 0, 5, "a lag")
            report = pair.slave.ask("slave-status")
            assert report["lag_bytes"] == 10 * 120
            assert report["lag_messages"] == 10
            assert 0 < report["lag_seconds"] < 60
        wait_until(lambda: pair.slave.ask("slave-status")["lag_bytes"] == 0, 5, "no lag again")
        assert pair.slave.ask("slave-status")["lag_seconds"] == 0


@contextmanager
def slowed(node: Node, trace: Path, *rules: str) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(injected(node, trace, *rules))
        except UnavailableError as error:
            pytest.skip(f"system calls cannot be delayed: {error}")
        yield


# Where it stops rather than append at a wrong offset.


async def expect_untouched(pair: Pair, name: tuple[str, int], before: bytes, payloads: list[bytes]) -> None:
    """More messages come, and the slave takes none of them; what it has it serves."""
    await pair.put(name, texts(20, first=5000))
    await pair.put(("events", 0), texts(20))
    replicas = pair.slave.replicas()
    wait_until(lambda: pair.slave.replicas().get(("events", 0), {}).get("end_offset"), 5, "the others go on")
    assert replicas[name]["state"] == "stopped"
    assert pair.bytes_of(pair.place.slave_data, name) == before
    assert await read_all(pair.slave, name) == payloads
    pair.slave.kill()
    pair.slave.start()
    wait_until(lambda: pair.slave.replicas().get(name, {}).get("state") == "stopped", 5, "it stops again")
    assert pair.bytes_of(pair.place.slave_data, name) == before


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        pytest.param(20, "no message is common to both", id="shorter"),
        pytest.param(100, "no message is common to both", id="as long, other content"),
        pytest.param(400, "no message is common to both", id="longer, other content"),
    ],
)
async def test_a_master_that_was_replaced(count: int, reason: str, pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(100))
    pair.wait_until_equal()
    before = pair.bytes_of(pair.place.slave_data, ("orders", 0))
    pair.master.stop()
    shutil.rmtree(pair.place.master_data)
    pair.slave.stop()
    pair.master.start()
    await pair.put(("orders", 0), [text.replace(b"message", b"another") for text in texts(count)])
    pair.slave.start()
    pair.wait_for_stop(("orders", 0), reason)
    await expect_untouched(pair, ("orders", 0), before, texts(100))


async def test_a_master_that_came_back_empty_while_the_slave_ran(pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(100))
    pair.wait_until_equal()
    before = pair.bytes_of(pair.place.slave_data, ("orders", 0))
    pair.master.kill()
    shutil.rmtree(pair.place.master_data)
    pair.master.start()
    await pair.put(("orders", 0), texts(1))
    pair.wait_for_stop(("orders", 0), "the master is another one, or has lost its disk")
    await expect_untouched(pair, ("orders", 0), before, texts(100))


async def test_a_slave_behind_its_masters_retention_goes_on_behind_a_gap(pair: Pair) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(50))
    pair.wait_until_equal()
    before = pair.bytes_of(pair.place.slave_data, ("orders", 0))
    pair.slave.stop()
    await pair.put(("orders", 0), texts(2000, first=50))
    pair.master.stop()
    start = apply_retention(pair.place.master_data)
    assert start > len(before)
    pair.slave.start()
    received: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            async with connect("127.0.0.1", pair.slave.port) as link:
                following = cast("AsyncGenerator[Message]", link.follow("orders", 0, 0))
                async with aclosing(following):
                    async for message in following:
                        received.append(message.payload)  # noqa: PERF401 - it is looked at meanwhile

        nursery.start_soon(read)
        with trio.fail_after(10):
            while len(received) < 50:
                await trio.sleep(0.01)
        pair.master.start()
        await pair.put(("orders", 0), texts(50, first=2050))
        with trio.fail_after(20):
            while not received or received[-1] != texts(1, first=2099)[0]:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    first_behind = texts(2100).index(received[50])
    assert received == texts(50) + texts(2100)[first_behind:], "nothing else, and nothing in another order"
    await expect_gap(pair, before, start)
    # It outlives a crash, and the end goes on.
    pair.slave.kill()
    pair.slave.start()
    await pair.put(("orders", 0), texts(50, first=2100))
    wait_until(
        lambda: pair.slave.replicas().get(("orders", 0), {}).get("end_offset") == end_of(pair),
        10,
        "it goes on",
    )
    await expect_gap(pair, before, start)


async def test_a_master_with_a_gap_hands_it_on_to_its_slaves(pair: Pair, tmp_path: Path) -> None:
    """What was a slave behind retention is master now."""
    pair.start()
    await pair.put(("orders", 0), texts(500))
    pair.wait_until_equal()
    pair.slave.stop()
    await pair.put(("orders", 0), texts(2000, first=500))
    pair.master.stop()
    start = apply_retention(pair.place.master_data)
    pair.start()
    wait_until(
        lambda: pair.slave.replicas().get(("orders", 0), {}).get("end_offset") == end_of(pair), 10, "a gap"
    )
    pair.slave.stop()
    with pair_at(tmp_path / "promoted", SMALL_SEGMENTS) as promoted:
        shutil.copytree(pair.place.slave_data, promoted.place.master_data)
        promoted.start()
        await promoted.put(("orders", 0), texts(100, first=2500))
        wait_until(
            lambda: promoted.slave.replicas().get(("orders", 0), {}).get("end_offset") == end_of(promoted),
            10,
            "the new slave has everything",
        )
        (gap,) = promoted.replica(("orders", 0))["gaps"]
        assert gap[1] == start
        master, slave = (node.data / "orders-0" for node in (promoted.master, promoted.slave))
        for first, last in ((0, gap[0]), (start, 2**63)):
            assert logfiles.joined(master, first, last) == logfiles.joined(slave, first, last)
        assert promoted.slave.problems() == []
        compared = metaserver(
            "compare", *(f"127.0.0.1:{node.port}" for node in (promoted.master, promoted.slave))
        )
        assert compared.returncode == 0, compared.stdout
        assert metaserver("verify", str(promoted.place.slave_data)).returncode == 0


async def expect_gap(pair: Pair, before: bytes, start: int) -> None:
    """What the slave had, then a gap, then what the master has; nobody calls it damage."""
    wait_until(lambda: pair.replica(("orders", 0))["lag_bytes"] == 0, 10, "the slave has everything")
    directory = pair.place.slave_data / "orders-0"
    assert logfiles.joined(directory, 0, len(before)) == before
    assert logfiles.segments(directory)[1].start_offset == start
    master = pair.bytes_of(pair.place.master_data, ("orders", 0))
    assert logfiles.joined(directory, start, 2**63) == master
    replica = pair.replica(("orders", 0))
    assert (replica["start_offset"], replica["gaps"]) == (0, [[len(before), start]])
    assert replica["state"] == "caught up"
    assert pair.slave.problems() == []
    async with connect("127.0.0.1", pair.slave.port) as link:
        for offset in (len(before), len(before) + 7, start - 1):
            assert await link.get("orders", 0, offset) == Moved(start)
        assert isinstance(await link.get("orders", 0, start), Fetched)
    found = metaserver("verify", str(pair.place.slave_data))
    assert (found.returncode, "missing knowingly" in found.stdout) == (0, True), found.stdout
    addresses = [f"127.0.0.1:{node.port}" for node in (pair.master, pair.slave)]
    compared = metaserver("compare", *addresses)
    assert compared.returncode == 0, compared.stdout


def metaserver(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metaserver", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def end_of(pair: Pair) -> int:
    topics = pair.master.ask("topics")["topics"]
    return next(int(one["end_offset"]) for one in topics if (one["topic"], one["partition"]) == ("orders", 0))


async def test_a_slave_whose_disk_fails(pair: Pair, tmp_path: Path) -> None:
    pair.start()
    await pair.put(("orders", 0), texts(50))
    pair.wait_until_equal()
    before = pair.bytes_of(pair.place.slave_data, ("orders", 0))
    with slowed(pair.slave, tmp_path / "trace", PLAIN_SYNCS, "fdatasync:error=EIO"):
        await pair.put(("orders", 0), texts(50, first=50))
        pair.wait_for_stop(("orders", 0), "takes no more messages after a disk error")
    assert pair.bytes_of(pair.place.slave_data, ("orders", 0)) == before
    assert await read_all(pair.slave, ("orders", 0)) == texts(50)
    # A new start looks at the disk anew, and catches up.
    pair.slave.kill()
    pair.slave.start()
    pair.wait_until_equal()
    assert pair.slave.problems() == []


async def test_a_slave_whose_disk_is_full_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(tmpfs(tmp_path / "place" / "data" / "slave", 24 * MIB))
        except UnavailableError as error:
            pytest.skip(f"no tmpfs of our own: {error}")
        pair = stack.enter_context(
            pair_at(tmp_path / "place", {"minFreeDiskBytes": 4 * MIB, **SMALL_SEGMENTS})
        )
        pair.start()
        await pair.put(("orders", 0), texts(50))
        pair.wait_until_equal()
        ballast = fill(disk, 2 * MIB)
        wait_until(
            lambda: "the disk is full" in str(pair.slave.problems()), NOTICES_SECONDS_MAX, "it says so"
        )
        await pair.put(("orders", 0), texts(500, first=50))
        wait_until(lambda: pair.replica(("orders", 0))["lag_bytes"] > 0, 5, "a lag")
        assert await read_all(pair.slave, ("orders", 0)) == texts(50)
        ballast.unlink()
        pair.wait_until_equal(2 * FOLLOWS_SECONDS_MAX)
        assert pair.slave.problems() == []
        pair.slave.kill()
