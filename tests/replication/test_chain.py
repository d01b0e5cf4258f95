"""Slaves of slaves, as processes: what reaches the last, who is told what, and circles."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.control.client import call
from metaserver.errors import ControlError
from metaserver.replication.chain import (
    CircleError,
    Hop,
    chain_problem,
    check_circle,
    format_chain,
    parse_chain,
)
from tests.support import NO_REGISTRY, WAIT_SECONDS_MAX, BrokerProcess, eventually, put
from tools.ports import free_port
from tools.torture import logfiles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

TOPIC = "[topic=test]\nnumPartitions=1\n"
A, B, C = (Hop(f"{name}:1", name * 16, name != "a", True, 0) for name in "abc")


# What nodes tell each other.


def test_a_chain_is_told_in_a_line() -> None:
    hops = (Hop("b:1", "b" * 16, True, True, 0), Hop("[::1]:2", "a" * 16, False, False, 77))
    assert parse_chain(format_chain(hops)) == hops
    assert parse_chain("") == ()
    assert len(parse_chain(format_chain([A] * 99))) == 16


@pytest.mark.parametrize(
    "word", ["x", "x:1,i,slave,up", "x:1,i,king,up,0", "x:1,i,slave,on,0", "x:1,i,slave,up,-1"]
)
def test_what_is_no_chain_ends_it(word: str) -> None:
    assert parse_chain(f"{format_chain([B])} {word} {format_chain([A])}") == (B,)


def test_whoever_is_above_its_own_master_is_in_a_circle() -> None:
    check_circle("me", [B, A])
    with pytest.raises(CircleError, match=r"this slave -> b:1 -> c:1 -> this slave"):
        check_circle(A.instance, [B, C, A, B])
    with pytest.raises(CircleError, match="this slave itself, under another name"):
        check_circle(B.instance, [B])


def test_what_is_wrong_above_is_said() -> None:
    assert chain_problem([]) == chain_problem([A]) == chain_problem([B, A]) == ""
    cut = Hop("a:1", "a", False, False, 0)
    assert chain_problem([C, B, cut]).startswith("b:1 is not connected to its master a:1")
    assert "c:1 is a slave and has found no master" in chain_problem([C])


# Real ones.


class Chain:
    """A master and so many slaves, each of the one before."""

    def __init__(
        self, base: Path, length: int, settings: dict[str, object], topics: str, registry: str
    ) -> None:
        self.nodes = [
            BrokerProcess(
                base / f"node{number}",
                settings={"serverPort": free_port(), **settings},
                topics=topics,
                registry=registry,
                slave_id=number,
            )
            for number in range(length)
        ]
        self.master, *self.slaves = self.nodes

    def start(self) -> None:
        self.master.start()
        for above, slave in zip(self.nodes, self.slaves, strict=False):
            slave.slave_of = above.port
            slave.start()

    def put(self, *payloads: bytes, to: BrokerProcess | None = None) -> None:
        for payload in payloads:
            reply = (to or self.master).ask(put("test", payload, 1))
            assert reply.status == 200, reply.text

    def wait_until_equal(self, of: BrokerProcess, *slaves: BrokerProcess) -> None:
        def differences() -> list[str]:
            masters = logfiles.partitions(of.data)
            return [
                text
                for slave in slaves
                for name, directory in logfiles.partitions(slave.data).items()
                for text in logfiles.file_differences(masters[name], directory)
            ]

        wanted = [one.data for one in of.read_all("test")]
        for slave in slaves:
            eventually(partial(has, slave, wanted), f"{slave.base.name} has everything")
        assert differences() == []

    def end(self) -> None:
        for node in self.nodes:
            node.make_sure_it_is_gone()


@pytest.fixture
def chain_of(tmp_path: Path) -> Iterator[Callable[..., Chain]]:
    made: list[Chain] = []

    def make(
        length: int = 3, *, topics: str = TOPIC, registry: str = NO_REGISTRY, **settings: object
    ) -> Chain:
        made.append(Chain(tmp_path, length, settings, topics, registry))
        return made[-1]

    yield make
    for chain in made:
        chain.end()


def payloads(node: BrokerProcess) -> list[bytes]:
    return [one.data for one in node.read_all("test")] if logfiles.partitions(node.data) else []


def has(node: BrokerProcess, wanted: list[bytes]) -> bool:
    return payloads(node) == wanted


def slave_status(node: BrokerProcess) -> dict[str, Any]:
    return call(node.control_socket, "slave-status", WAIT_SECONDS_MAX)


def upstream(node: BrokerProcess) -> list[tuple[str, str]]:
    return [(hop["address"], hop["role"]) for hop in slave_status(node)["upstream"]]


def address(node: BrokerProcess) -> str:
    return f"127.0.0.1:{node.port}"


def quarantined(nodes: Sequence[BrokerProcess]) -> list[int]:
    return [slave_status(node)["quarantine"]["folders"] for node in nodes]


def texts(count: int, first: int = 0) -> list[bytes]:
    return [b"message %d" % number for number in range(first, first + count)]


def test_everything_reaches_the_last_and_each_knows_its_place(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of(length=4, maxSegmentSize=1024)
    chain.start()
    chain.put(*texts(100))
    chain.wait_until_equal(chain.master, *chain.slaves)
    first, second, third = chain.slaves
    expected = [(address(second), "slave"), (address(first), "slave"), (address(chain.master), "master")]
    eventually(lambda: upstream(third) == expected, "the last knows the whole chain")
    assert third.status()["problems"] == []
    assert quarantined(chain.slaves) == [0, 0, 0]
    # Only who copies from it reports to the master.
    assert [slave["slave_id"] for slave in chain.master.status()["slaves"]] == [1]


def test_the_last_says_when_the_middle_has_lost_the_master(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    chain.start()
    chain.put(*texts(3))
    chain.wait_until_equal(chain.master, *chain.slaves)
    chain.master.stop()
    text = f"{address(chain.slaves[0])} is not connected to its master {address(chain.master)}"
    eventually(lambda: any(text in one for one in chain.slaves[1].status()["problems"]), "the last says so")
    chain.master.start()
    eventually(lambda: chain.slaves[1].status()["problems"] == [], "it is over")


def test_epochs_go_down_the_chain_while_it_copies(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    chain.start()
    for life in range(3):
        chain.put(*texts(20, 20 * life))
        chain.wait_until_equal(chain.master, *chain.slaves)
        chain.master.kill()
        chain.master.start()
    chain.put(b"last")
    chain.wait_until_equal(chain.master, *chain.slaves)
    assert quarantined(chain.slaves) == [0, 0]
    epochs = [(node.data / "test-0" / "epochs").read_bytes() for node in chain.nodes]
    assert epochs[0] == epochs[1] == epochs[2]


def lose_end(segment: Path, size: int) -> None:
    """As an operating system does that dies with what it had not written: no checkpoint vouches for that."""
    os.truncate(segment, size)
    (segment.parent / "recovery.checkpoint").unlink()


def test_what_the_master_lost_goes_to_quarantine_at_each_slave(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    chain.start()
    chain.put(*texts(20))
    chain.wait_until_equal(chain.master, *chain.slaves)
    for node in chain.nodes:
        node.stop()
    segment = chain.master.data / "test-0" / f"{0:020d}.meta"
    kept = segment.stat().st_size // 2 // (20 + len(b"message 0")) * (20 + len(b"message 0"))
    lose_end(segment, kept)
    # The last is the first to start: it has more than the one it follows will ever say it had.
    for node in reversed(chain.nodes):
        node.start()
    chain.put(*texts(5, 100))
    chain.wait_until_equal(chain.master, *chain.slaves)
    assert quarantined(chain.slaves) == [1, 1]


def test_a_slave_that_has_more_than_the_slave_it_follows_waits(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    chain.start()
    chain.put(*texts(20))
    chain.wait_until_equal(chain.master, *chain.slaves)
    middle, last = chain.slaves
    chain.master.stop()
    middle.stop()
    segment = middle.data / "test-0" / f"{0:020d}.meta"
    lose_end(segment, 29 * 7)
    middle.start()

    def reason() -> str:
        (details,) = slave_status(last)["details"]
        return str(details["reason"])

    eventually(lambda: "waits until that one has as much" in reason(), "it waits")
    assert payloads(last) == texts(20)
    chain.master.start()
    chain.put(*texts(5, 20))
    chain.wait_until_equal(chain.master, middle, last)
    assert (quarantined(chain.slaves), reason()) == ([0, 0], "")


def test_puts_wait_for_direct_slaves_only(chain_of: Callable[..., Chain]) -> None:
    topics = f"{TOPIC}ackLevel=slave_disk\nminSlaves={{}}\nslaveAckTimeoutInMills=60000\n"
    chain = chain_of(topics=topics.format(1))
    chain.start()
    eventually(
        lambda: chain.master.ask(put("test", b"first", 1)).status == 200, "one slave is enough for one"
    )
    chain.wait_until_equal(chain.master, *chain.slaves)
    chain.master.stop()
    chain.master.configure(chain.master.settings, topics.format(2))
    chain.master.start()
    eventually(lambda: len(chain.master.status().get("slaves", [])) == 1, "the first slave reports")
    reply = chain.master.ask(put("test", b"second", 1))
    assert (reply.status, "asks for 2 slaves,and 1 has reported" in reply.text) == (503, True), reply.text


def test_the_configuration_goes_through_the_middle(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    for slave in chain.slaves:
        slave.slave_settings = {"autoSyncMasterConfig": "true", "serverPort": slave.settings["serverPort"]}
    chain.start()
    chain.master.configure(chain.master.settings, TOPIC + "[topic=more]\nnumPartitions=3\n")
    call(chain.master.control_socket, "reload", WAIT_SECONDS_MAX)
    checksum = chain.master.status()["config_checksum"]

    def is_in_step(node: BrokerProcess) -> bool:
        sync = slave_status(node)["config_sync"]
        return bool(sync["merged_checksum"] == sync["master_checksum"] == checksum and sync["drift"] is False)

    for slave in chain.slaves:
        eventually(partial(is_in_step, slave), f"{slave.base.name} has merged the master's")
        assert "[topic=more]" in slave.server_file.read_text(encoding="utf-8")
        assert f"serverPort={slave.port}" in slave.server_file.read_text(encoding="utf-8")


def test_the_middle_becomes_master_and_the_last_follows_it(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    chain.start()
    chain.put(*texts(10))
    chain.wait_until_equal(chain.master, *chain.slaves)
    middle, last = chain.slaves
    chain.master.kill()
    middle.stop()
    middle.slave_of = None
    middle.start()
    chain.put(*texts(10, 10), to=middle)
    chain.wait_until_equal(middle, last)
    assert quarantined([last]) == [0]
    eventually(lambda: upstream(last) == [(address(middle), "master")], "it knows its place")
    # The old master comes back behind the last.
    chain.master.slave_of = last.port
    chain.master.slave_id = 9
    chain.master.start()
    chain.wait_until_equal(middle, last, chain.master)


def test_the_last_becomes_master_and_the_others_follow_it(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of()
    chain.start()
    chain.put(*texts(10))
    chain.wait_until_equal(chain.master, *chain.slaves)
    middle, last = chain.slaves
    chain.master.kill()
    last.stop()
    last.slave_of = None
    last.start()
    chain.put(*texts(10, 10), to=last)
    middle.stop()
    middle.slave_of = last.port
    middle.start()
    chain.master.slave_of, chain.master.slave_id = middle.port, 9
    chain.master.start()
    chain.put(*texts(10, 20), to=last)
    chain.wait_until_equal(last, middle, chain.master)
    assert upstream(chain.master)[-1] == (address(last), "master")


def is_told_of_the_circle(node: BrokerProcess) -> bool:
    return "follows this slave itself" in slave_status(node)["problem"]


@pytest.mark.parametrize("length", [2, 3])
def test_a_circle_copies_nothing_and_says_so(length: int, chain_of: Callable[..., Chain]) -> None:
    chain = chain_of(length=length)
    chain.start()
    chain.put(*texts(3))
    chain.wait_until_equal(chain.master, *chain.slaves)
    chain.master.stop()
    chain.master.slave_of, chain.master.slave_id = chain.slaves[-1].port, 9
    chain.master.start()
    for node in chain.nodes:
        eventually(partial(is_told_of_the_circle, node), "it says so")
        assert any("follows this slave itself" in problem for problem in node.status()["problems"])
        assert payloads(node) == texts(3)
    # Made master again, it ends the circle.
    chain.master.stop()
    chain.master.slave_of = None
    chain.master.start()
    chain.put(b"again")
    chain.wait_until_equal(chain.master, *chain.slaves)
    assert quarantined(chain.slaves) == [0] * (length - 1)


def test_the_last_registers_where_the_master_hosts_the_registry(chain_of: Callable[..., Chain]) -> None:
    chain = chain_of(registry="[zookeeper]\nregistryPort=0\nzk.zkSyncTimeMs=0\n")
    # The last starts before the middle knows of any registry.
    chain.slaves[0].slave_of, chain.slaves[1].slave_of = (
        int(str(chain.master.settings["serverPort"])),
        int(str(chain.slaves[0].settings["serverPort"])),
    )
    for node in reversed(chain.nodes):
        node.start()

    def registered() -> set[int]:
        try:
            found = chain.master.status().get("registered_slaves", [])
        except ControlError:
            return set()
        return {slave["slave_id"] for slave in found}

    eventually(lambda: registered() == {1, 2}, "both slaves stand in the master's registry")
