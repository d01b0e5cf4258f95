"""Disks that change bytes: found by the scrub, by readers and by an operator; repaired from the other replica."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import attrs
import pytest
import trio

from metaserver.client import Batch, Fetched, Moved, connect
from metaserver.message import iterate_records
from tools.torture import logfiles
from tools.torture.nodes import Node, Place, place_at, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
    from pathlib import Path

    from metaserver.client import Message

KIB = 1024
SECONDS_MAX = 20.0
AT_ONCE = {"scrubBytesPerSecond": 1_000_000_000, "scrubIntervalInMills": 100}
NEVER = {"scrubBytesPerSecond": 0}


def texts(count: int) -> list[bytes]:
    return [b"message %d " % number + b"." * 180 for number in range(count)]


@attrs.define
class Damaged:
    """A record of a sealed segment, and where its bytes lie."""

    path: Path
    offset: int
    size: int
    following: int
    good: bytes

    def flip(self) -> None:
        """One byte of the data."""
        with self.path.open("r+b") as file:
            file.seek(self.offset - int(self.path.stem) + 30)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0x10]))

    def zero(self) -> None:
        """A block, aligned as disks do it: several records, the first and the last in part."""
        with self.path.open("r+b") as file:
            file.seek((self.offset - int(self.path.stem)) // 4096 * 4096)
            file.write(bytes(4096))


def record_of(node: Node, number: int, segment: int = 1) -> Damaged:
    """The numbered record of a sealed segment of orders-0."""
    found = logfiles.segments(node.data / "orders-0")
    assert len(found) > segment + 1, "the segment is not sealed"
    data = found[segment].path.read_bytes()
    records = list(iterate_records(data))
    record = records[number]
    start, end = record.position, record.position + record.size
    base = found[segment].start_offset
    return Damaged(found[segment].path, base + start, record.size, base + end, data[start:end])


@attrs.define
class Pair:
    place: Place

    def start(self, *, count: int = 2000) -> None:
        self.place.master.start()
        self.place.slave.start()
        trio.run(self.put, texts(count))
        self.wait_equal()

    async def put(self, payloads: Sequence[bytes]) -> None:
        async with connect("127.0.0.1", self.place.master.port) as link:
            for start in range(0, len(payloads), 100):
                batch = Batch()
                for payload in payloads[start : start + 100]:
                    batch.add(payload)
                await link.put_batch("orders", 0, batch)

    def wait_equal(self) -> None:
        wait_until(self.are_equal, SECONDS_MAX, f"equal files\n{self.place.slave.log_tail()}")

    def are_equal(self) -> bool:
        return contents(self.place.master) == contents(self.place.slave) != {}

    def expect_all_is_well(self) -> None:
        """What an operator would type, and what the files say."""
        assert self.are_equal()
        for node in (self.place.master, self.place.slave):
            verified = metaserver("verify", str(node.data))
            assert verified.returncode == 0, verified.stdout
            wait_until(lambda node=node: node.problems() == [], SECONDS_MAX, "the node is well")  # type: ignore[misc]
        compared = metaserver(
            "compare", *(f"127.0.0.1:{node.port}" for node in (self.place.master, self.place.slave))
        )
        assert compared.returncode == 0, compared.stdout


def contents(node: Node) -> dict[str, bytes]:
    """Without the segment that a master may have begun already, and a slave has not."""
    return logfiles.contents(node.data / "orders-0", "*.meta")


def scrub_of(node: Node) -> dict[str, Any]:
    return cast("dict[str, Any]", node.ask("status")["scrub"])


def has_open_damage(node: Node) -> bool:
    return bool(scrub_of(node)["open"] == 1)


def kept_copies(node: Node) -> list[bytes]:
    return [path.read_bytes() for path in node.data.glob("quarantine/orders-0/*/*.damaged")]


def metaserver(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "metaserver", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def make_pair(base: Path, settings: Mapping[str, object]) -> Iterator[Pair]:
    """With the embedded registry, so that a master knows where its slaves are."""
    given = {"maxSegmentSize": 64 * KIB, **settings}
    with place_at(base, ["[topic=orders]"], settings=given) as place:
        text = place.server_file.read_text().replace("zk.zkEnable=false", "registryPort=0\nzk.zkSyncTimeMs=0")
        place.server_file.write_text(text)
        yield Pair(place)


@pytest.fixture
def scrubbed(tmp_path: Path) -> Iterator[Pair]:
    yield from make_pair(tmp_path / "place", AT_ONCE)


@pytest.fixture
def unscrubbed(tmp_path: Path) -> Iterator[Pair]:
    yield from make_pair(tmp_path / "place", NEVER)


@pytest.mark.parametrize("who", ["master", "slave"])
@pytest.mark.parametrize("kind", ["flip", "zero"])
def test_the_scrub_finds_damage_and_the_other_replica_repairs_it(who: str, kind: str, scrubbed: Pair) -> None:
    scrubbed.start()
    node: Node = getattr(scrubbed.place, who)
    record = record_of(node, 100)
    before = record.path.read_bytes()
    getattr(record, kind)()
    wait_until(lambda: scrub_of(node)["repaired"] == 1, SECONDS_MAX, f"a repair\n{node.log_tail()}")
    assert record.path.read_bytes() == before
    (kept,) = kept_copies(node)
    assert kept not in before
    assert {key: scrub_of(node)[key] for key in ("found", "open")} == {"found": 1, "open": 0}
    scrubbed.expect_all_is_well()
    # It is good for ever: a crash brings nothing back.
    node.kill()
    node.start()
    wait_until(lambda: scrub_of(node)["passes"] > 0, SECONDS_MAX, "everything is read once more")
    assert scrub_of(node)["found"] == 0
    scrubbed.expect_all_is_well()


@pytest.mark.parametrize("who", ["master", "slave"])
def test_a_reader_that_comes_upon_damage_has_it_repaired(who: str, unscrubbed: Pair) -> None:
    unscrubbed.start()
    node: Node = getattr(unscrubbed.place, who)
    record_of(node, 0, segment=2).flip()
    received = trio.run(read_stubbornly, node.port, 2000)
    assert received == texts(2000)
    assert scrub_of(node)["repaired"] == 1
    unscrubbed.expect_all_is_well()


async def read_stubbornly(port: int, count: int) -> list[bytes]:
    """As a consumer that asks again for what it cannot decode."""
    received: list[bytes] = []
    offset = 0
    async with connect("127.0.0.1", port) as link:
        with trio.fail_after(SECONDS_MAX):
            while len(received) < count:
                got = await link.get("orders", 0, offset)
                assert isinstance(got, Fetched)
                for record in iterate_records(got.data):
                    received.append(record.data)
                    offset += record.size
                await trio.sleep(0.01)
    return received


def test_without_another_replica_damage_is_told_and_skipped(scrubbed: Pair) -> None:
    master = scrubbed.place.master
    master.start()
    trio.run(scrubbed.put, texts(2000))
    record = record_of(master, 100)
    record.flip()
    # It is told at first before anybody has been asked.
    wait_until(
        lambda: any("no other replica is known" in problem for problem in master.problems()),
        SECONDS_MAX,
        "it is told",
    )
    received = trio.run(read_around, master.port, record)
    (missing,) = set(texts(2000)) - set(received)
    assert (len(received), record.good.endswith(missing)) == (1999, True)
    found = json.loads(metaserver("verify", str(master.data), "--json").stdout)
    assert [bool(one["damage"]) for one in found if one["path"].endswith("orders-0")] == [True]
    # A restart knows it too.
    master.kill()
    master.start()
    assert len(trio.run(read_around, master.port, record)) == 1999
    wait_until(master.problems, SECONDS_MAX, "it is told again")


async def read_around(port: int, record: Damaged) -> list[bytes]:
    """Everything but what is damaged."""
    received: list[bytes] = []
    async with connect("127.0.0.1", port) as link:
        with trio.fail_after(SECONDS_MAX):
            while await link.get("orders", 0, record.offset) != Moved(record.following):
                await trio.sleep(0.01)
            async with aclosing(cast("AsyncGenerator[Message]", link.follow("orders", 0, 0))) as following:
                while len(received) < 1999:
                    received.append((await anext(following)).payload)
    return received


def has_repaired_one(node: Node) -> bool:
    return bool(scrub_of(node)["repaired"] == 1)


def test_damage_on_both_sides_stays_and_replication_goes_on(scrubbed: Pair) -> None:
    scrubbed.start()
    for node in (scrubbed.place.master, scrubbed.place.slave):
        node.stop()
    for node in (scrubbed.place.master, scrubbed.place.slave):
        record_of(node, 100).flip()
    scrubbed.place.master.start()
    scrubbed.place.slave.start()
    for node in (scrubbed.place.master, scrubbed.place.slave):
        wait_until(partial(has_open_damage, node), SECONDS_MAX, "it is found")
    trio.run(scrubbed.put, texts(100))
    scrubbed.wait_equal()
    assert all(scrub_of(node)["repaired"] == 0 for node in (scrubbed.place.master, scrubbed.place.slave))


def test_two_that_each_have_what_the_other_lacks_repair_each_other(scrubbed: Pair) -> None:
    """Side by side: neither can show what lies around its own damage."""
    scrubbed.start()
    for node in (scrubbed.place.master, scrubbed.place.slave):
        node.stop()
    before = contents(scrubbed.place.master)
    record_of(scrubbed.place.master, 100).flip()
    record_of(scrubbed.place.slave, 101).flip()
    scrubbed.place.master.start()
    scrubbed.place.slave.start()
    for node in (scrubbed.place.master, scrubbed.place.slave):
        wait_until(partial(has_repaired_one, node), SECONDS_MAX, "it is repaired")
        assert contents(node) == before
    scrubbed.expect_all_is_well()


@pytest.mark.parametrize("who", ["master", "slave"])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_a_file_that_was_cut_short_has_its_end_again(who: str, number: int, scrubbed: Pair) -> None:
    """Sealed or the last one: what a checkpoint vouches for, the other replica gives."""
    scrubbed.start()
    node: Node = getattr(scrubbed.place, who)
    before = contents(node)
    node.stop()
    segment = [one for one in logfiles.segments(node.data / "orders-0") if one.size_bytes][number]
    with segment.path.open("r+b") as file:
        file.truncate(segment.size_bytes // 3)
    node.start()
    wait_until(partial(has_repaired_one, node), SECONDS_MAX, f"a repair\n{node.log_tail()}")
    assert contents(node) == before
    trio.run(scrubbed.put, texts(100))
    scrubbed.wait_equal()
    scrubbed.expect_all_is_well()


@pytest.mark.parametrize("is_running", [True, False])
@pytest.mark.parametrize("who", ["master", "slave"])
def test_an_operator_has_a_node_checked_and_repaired(who: str, is_running: bool, unscrubbed: Pair) -> None:
    unscrubbed.start()
    node: Node = getattr(unscrubbed.place, who)
    other = unscrubbed.place.slave if who == "master" else unscrubbed.place.master
    words = ["repair", "slave" if who == "slave" else "local", "-f", str(unscrubbed.place.server_file)]
    if not is_running:
        node.stop()
        refused = metaserver(*words)
        assert (refused.returncode, "--from HOST:PORT" in refused.stderr) == (3, True)
    before = contents(node)
    records = [record_of(node, 0), record_of(node, 2), record_of(node, 50, segment=2)]
    for record in records[:2]:
        record.flip()
    records[2].zero()
    done = metaserver(*words, "--from", f"127.0.0.1:{other.port}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"repaired from 127.0.0.1:{other.port}" in done.stdout
    assert contents(node) == before
    again = metaserver(*words, "--from", f"127.0.0.1:{other.port}")
    assert (again.returncode, "clean" in again.stdout) == (0, True)
    if not is_running:
        node.start()
        wait_until(lambda: node.problems() == [], SECONDS_MAX, "all is well")
    unscrubbed.expect_all_is_well()


def test_a_broker_of_another_history_repairs_nothing(unscrubbed: Pair, tmp_path: Path) -> None:
    unscrubbed.start()
    unscrubbed.place.slave.stop()  # Which would repair it, the next time it is asked.
    for other in make_pair(tmp_path / "other", NEVER):
        other.place.master.start()
        trio.run(other.put, texts(2000))
        record = record_of(unscrubbed.place.master, 100)
        record.flip()
        before = contents(unscrubbed.place.master)
        words = ["repair", "-f", str(unscrubbed.place.server_file)]
        refused = metaserver(*words, "--from", f"127.0.0.1:{other.place.master.port}")
        assert (refused.returncode, "its history is another one there" in refused.stdout) == (6, True)
        assert contents(unscrubbed.place.master) == before
