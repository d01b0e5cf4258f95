"""Two histories: a master that lost its tail, a slave that became master; nothing is dropped without a copy."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.message import iterate_records
from tests.support import BrokerProcess, eventually, get, put
from tools.ports import free_port
from tools.torture.filesystems import MIB, UnavailableError, fill, tmpfs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOPICS = "[topic=orders]\n"


class Pair:
    """Two brokers that change places; each keeps its directory and its port."""

    def __init__(self, base: Path) -> None:
        self.one = BrokerProcess(base / "one", settings={"serverPort": free_port()}, topics=TOPICS)
        self.other = BrokerProcess(base / "other", settings={"serverPort": free_port()}, topics=TOPICS)
        for node in (self.one, self.other):
            node.port = int(str(node.settings["serverPort"]))

    def start(self, node: BrokerProcess, master: BrokerProcess | None = None) -> None:
        """As master, or as slave of another."""
        node.slave_of = None if master is None else master.port
        node.start()

    def wait_equal(self, master: BrokerProcess, slave: BrokerProcess) -> None:
        eventually(lambda: contents(master) == contents(slave) != b"", "the slave has what the master has")
        # Readers see the end of it a sync later.
        eventually(lambda: end_of(master) == end_of(slave), "the slave lets readers see it")


def end_of(node: BrokerProcess) -> str:
    return node.ask(b"offset orders group 0 %d 1\r\n" % (2**63 - 1)).text


def contents(node: BrokerProcess) -> bytes:
    files = sorted((node.data / "orders-0").glob("*.meta"))
    return b"".join(file.read_bytes() for file in files)


def send(node: BrokerProcess, *texts: str) -> None:
    with node.connect() as wire:
        for number, text in enumerate(texts):
            assert wire.ask(put("orders", text.encode(), number + 1)).status == 200


def payloads(data: bytes) -> list[str]:
    return [record.payload.decode() for record in iterate_records(data)]


def received(node: BrokerProcess) -> list[str]:
    return [stored.data.decode() for stored in node.read_all("orders")]


def quarantined(node: BrokerProcess) -> list[tuple[dict[str, Any], list[str]]]:
    """What lies there, with its report."""
    found = []
    for report in sorted((node.data / "quarantine").glob("orders-0/*/report.json")):
        data = b"".join(file.read_bytes() for file in sorted(report.parent.glob("*.meta")))
        found.append((json.loads(report.read_text(encoding="utf-8")), payloads(data)))
    return found


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix} {number}" for number in range(count)]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    found = Pair(tmp_path)
    yield found
    for node in (found.one, found.other):
        node.make_sure_it_is_gone()
        if (node.base / "output").exists():
            assert "Traceback" not in node.log


def test_an_old_master_rejoins_the_new_one_by_itself(pair: Pair) -> None:
    pair.start(pair.one)
    pair.start(pair.other, pair.one)
    send(pair.one, *names("common", 20))
    pair.wait_equal(pair.one, pair.other)
    # The slave is cut off, and the master takes five more before it dies.
    pair.other.kill()
    send(pair.one, *names("lost", 5))
    pair.one.kill()
    # The slave becomes master, and takes others at the same offsets.
    pair.start(pair.other)
    send(pair.other, *names("new", 30))
    pair.start(pair.one, pair.other)
    pair.wait_equal(pair.other, pair.one)
    assert received(pair.one) == received(pair.other) == [*names("common", 20), *names("new", 30)]
    ((report, kept),) = quarantined(pair.one)
    assert kept == names("lost", 5)
    assert (report["topic"], report["partition"], report["records"]) == ("orders", 0, 5)
    assert report["first_message_id"] < report["last_message_id"]
    assert "the master's history parts from this one" in report["reason"]
    # And back again, with nothing more to give up.
    pair.other.stop()
    pair.one.stop()
    pair.start(pair.one)
    send(pair.one, "again")
    pair.start(pair.other, pair.one)
    pair.wait_equal(pair.one, pair.other)
    assert quarantined(pair.other) == []
    assert len(quarantined(pair.one)) == 1


def test_a_master_that_lost_its_tail_is_followed_again(pair: Pair) -> None:
    pair.start(pair.one)
    pair.start(pair.other, pair.one)
    send(pair.one, *names("kept", 10))
    pair.wait_equal(pair.one, pair.other)
    image = pair.one.base / "image"
    shutil.copytree(pair.one.data, image)
    send(pair.one, *names("taken", 7))
    pair.wait_equal(pair.one, pair.other)
    # The power cut: what the disk has is what it had.
    pair.one.kill()
    shutil.rmtree(pair.one.data)
    image.rename(pair.one.data)
    pair.start(pair.one)
    eventually(lambda: len(quarantined(pair.other)) == 1, "the slave gives up what the master lost")
    ((_report, kept),) = quarantined(pair.other)
    assert kept == names("taken", 7)
    assert "A replica holds more than this broker: messages were lost here" in pair.one.log
    send(pair.one, *names("after", 9))
    pair.wait_equal(pair.one, pair.other)
    assert received(pair.other) == [*names("kept", 10), *names("after", 9)]


def test_readers_of_the_slave_see_the_end_step_back_and_go_on(pair: Pair) -> None:
    pair.start(pair.one)
    pair.start(pair.other, pair.one)
    send(pair.one, *names("kept", 3))
    pair.wait_equal(pair.one, pair.other)
    image = pair.one.base / "image"
    shutil.copytree(pair.one.data, image)
    send(pair.one, *names("taken", 3))
    pair.wait_equal(pair.one, pair.other)
    end = len(contents(pair.other))
    pair.one.kill()
    shutil.rmtree(pair.one.data)
    image.rename(pair.one.data)
    with pair.other.connect() as wire:
        wire.send(get("orders", end, 1000, 1, wait_ms=15_000))
        pair.start(pair.one)
        # Who waited at an end that is no more is told that there is nothing, not left waiting.
        assert wire.reply().status == 404
    eventually(lambda: received(pair.other) == names("kept", 3), "the slave ends where the master does")


def test_who_asked_a_slave_for_its_history_asks_again_when_it_has_another(pair: Pair) -> None:
    pair.start(pair.one)
    pair.start(pair.other, pair.one)
    send(pair.one, "first")
    pair.wait_equal(pair.one, pair.other)
    with pair.other.connect() as asked, pair.other.connect() as other:
        assert len(asked.ask(b"epochs orders 0 0 1\r\n").text.splitlines()) == 1
        asked.send(get("orders", 21 + 4, 1 << 20, 2, wait_ms=60_000))
        assert other.ask(b"version 1\r\n").status == 200
        pair.one.stop()
        pair.start(pair.one, None)
        # Before the slave gives it a byte of the new epoch.
        assert asked.reply().status == 404
        asked.expect_end()
        assert other.ask(b"version 2\r\n").status == 200
    with pair.other.connect() as wire:
        assert len(wire.ask(b"epochs orders 0 0 1\r\n").text.splitlines()) == 2


def test_a_disk_without_room_for_the_copy_is_waited_for(pair: Pair) -> None:
    with ExitStack() as stack:
        try:
            disk = stack.enter_context(tmpfs(pair.one.data, 24 * MIB))
        except UnavailableError as error:
            pytest.skip(f"no tmpfs of our own: {error}")
        stack.callback(pair.one.make_sure_it_is_gone)
        pair.one.settings["minFreeDiskBytes"] = 0
        pair.start(pair.one)
        pair.start(pair.other, pair.one)
        send(pair.one, *names("common", 5))
        pair.wait_equal(pair.one, pair.other)
        pair.other.kill()
        lost = [name * 10_000 for name in names("lost", 40)]
        send(pair.one, *lost)
        pair.one.kill()
        pair.start(pair.other)
        send(pair.other, "new")
        ballast = fill(disk, MIB)
        pair.start(pair.one, pair.other)
        eventually(lambda: "waits for room on the disk" in pair.one.log, "it says so")
        # What is not its master's is read no more, and it is all still there.
        assert len(received(pair.one)) == 5
        ballast.unlink()
        pair.wait_equal(pair.other, pair.one)
        ((_report, kept),) = quarantined(pair.one)
        assert kept == lost


def test_a_crash_while_giving_up_is_made_good(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.start(pair.one)
    pair.start(pair.other, pair.one)
    send(pair.one, *names("common", 5))
    pair.wait_equal(pair.one, pair.other)
    pair.other.kill()
    send(pair.one, *names("lost", 400))
    pair.one.kill()
    pair.start(pair.other)
    send(pair.other, "new")
    for _ in range(5):
        # Killed as soon as the folder is there: in the copying, the cutting, or behind it.
        pair.start(pair.one, pair.other)
        pair.one.kill()
    pair.start(pair.one, pair.other)
    pair.wait_equal(pair.other, pair.one)
    ((_report, kept),) = quarantined(pair.one)
    assert kept == names("lost", 400)
