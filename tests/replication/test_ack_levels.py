"""Puts that wait for slaves, with real masters and slaves that are killed, stopped and held."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from metaserver.control.client import call
from tests.support import (
    NO_REGISTRY,
    BrokerProcess,
    ConnectionEndedError,
    eventually,
    parse_records,
    put,
    record,
)
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KILLS = 20
PIPELINE = 20
LONG_MS = 20_000
"""Where slaves answer: a busy machine must not make a failure of it."""
SHORT_MS = 4000
"""Where they do not, and the test waits for it."""


class StartNode(Protocol):
    def __call__(
        self, name: str, topics: str, *, slave_of: int | None = ..., slave_id: int = ..., **settings: object
    ) -> BrokerProcess: ...


@pytest.fixture
def start_node(tmp_path: Path) -> Iterator[StartNode]:
    started: list[BrokerProcess] = []

    def start(
        name: str, topics: str, *, slave_of: int | None = None, slave_id: int = 0, **settings: object
    ) -> BrokerProcess:
        node = BrokerProcess(
            tmp_path / name,
            settings=settings,
            topics=topics,
            registry=NO_REGISTRY,
            slave_of=slave_of,
            slave_id=slave_id,
        )
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.make_sure_it_is_gone()
    for node in started:
        assert "Traceback" not in node.log


def topic(level: str, *more: str, timeout_ms: int = LONG_MS) -> str:
    return "\n".join(["[topic=test]", f"ackLevel={level}", f"slaveAckTimeoutInMills={timeout_ms}", *more, ""])


def slaves_of(master: BrokerProcess) -> list[dict[str, Any]]:
    status: dict[str, Any] = call(master.control_socket, "status", 10)
    found: list[dict[str, Any]] = status.get("slaves", [])
    return found


def wait_for_slaves(master: BrokerProcess, count: int = 1) -> None:
    eventually(
        lambda: sum(slave["connected"] for slave in slaves_of(master)) == count,
        f"{count} slaves report to the master",
    )


def on_disk(node: BrokerProcess) -> dict[int, bytes]:
    """The messages in the files of test-0, by offset."""
    data = b"".join(path.read_bytes() for path in sorted((node.data / "test-0").glob("*.meta")))
    return {found.offset: found.data for found in parse_records(data)}


def test_what_is_answered_is_on_the_slave_when_the_master_dies(start_node: StartNode) -> None:
    # So that it comes back where the slave looks for it.
    master = start_node("master", topic("slave_disk"), serverPort=free_port())
    slave = start_node("slave", "[topic=test]\n", slave_of=master.port)
    answered: dict[int, bytes] = {}
    for kill in range(KILLS):
        wait_for_slaves(master)
        with master.connect() as wire:
            # The first ones are answered one by one, so that the death comes at another moment each time.
            for n in range(kill % 4):
                reply = wire.ask(put("test", b"%d alone %d" % (kill, n), n))
                answered[int(reply.text.split(" ")[2])] = b"%d alone %d" % (kill, n)
            wire.send(b"".join(put("test", b"%d-%d" % (kill, n), n) for n in range(PIPELINE)))
            reply = wire.reply()
            master.kill()
            assert reply.status == 200, reply.text
            answered[int(reply.text.split(" ")[2])] = b"%d-%d" % (kill, reply.opaque)
        stored = on_disk(slave)
        assert {offset: stored.get(offset) for offset in answered} == answered
        master.start()
    assert len(answered) >= KILLS


def test_a_slave_that_is_held_and_let_go(start_node: StartNode) -> None:
    master = start_node("master", topic("slave", timeout_ms=SHORT_MS))
    slave = start_node("slave", "[topic=test]\n", slave_of=master.port)
    wait_for_slaves(master)
    with master.connect() as wire:
        assert wire.ask(put("test", b"first", 1)).status == 200
        os.kill(slave.pid, signal.SIGSTOP)
        try:
            reply = wire.ask(put("test", b"held", 2))
            assert reply.status == 503
            assert "ackLevel=slave asks for 1 slave,and 0 have answered in time" in reply.text
            assert (
                "(slaveAckTimeoutInMills=4000). The message is on this master's disk at offset 25"
                in reply.text
            )

            def is_refused_at_once() -> bool:
                return "The message is not stored" in wire.ask(put("test", b"more", 3)).text

            eventually(is_refused_at_once, "a silent slave is not counted on")
        finally:
            os.kill(slave.pid, signal.SIGCONT)
        eventually(lambda: wire.ask(put("test", b"back", 4)).status == 200, "puts are taken again")
    stored = list(on_disk(slave).values())
    assert stored[:2] == [b"first", b"held"], "what the 503 promised"
    assert stored[-1] == b"back"
    eventually(lambda: on_disk(slave) == on_disk(master), "the slave has everything")


def test_two_slaves_are_two(start_node: StartNode) -> None:
    master = start_node("master", topic("slave_disk", "minSlaves=2", timeout_ms=SHORT_MS))
    one = start_node("one", "[topic=test]\n", slave_of=master.port, slave_id=1)
    wait_for_slaves(master)
    with master.connect() as wire:
        reply = wire.ask(put("test", b"early", 1))
        assert reply.status == 503
        assert "asks for 2 slaves,and 1 has reported within 4 s. The message is not stored" in reply.text
        two = start_node("two", "[topic=test]\n", slave_of=master.port, slave_id=2)
        wait_for_slaves(master, 2)
        assert wire.ask(put("test", b"both", 2)).status == 200
        assert on_disk(one) == on_disk(two) == {0: b"both"}
        two.kill()
        reply = wire.ask(put("test", b"missed", 3))
        assert reply.status == 503
        assert "asks for 2 slaves,and 1 has answered in time" in reply.text
    assert on_disk(one)[24] == b"missed"


def test_a_slave_that_syncs_seldom_syncs_what_its_master_needs(start_node: StartNode) -> None:
    master = start_node("master", topic("slave_disk"))
    start_node(
        "slave",
        "[topic=test]\n",
        slave_of=master.port,
        unflushThreshold=1_000_000,
        unflushInterval=3_600_000,
    )
    wait_for_slaves(master)
    with master.connect() as wire:
        wire.send(b"".join(put("test", b"%d" % n, n) for n in range(100)))
        assert {reply.status for reply in wire.replies(100)} == {200}


def test_a_reload_begins_and_ends_the_wait(start_node: StartNode) -> None:
    master = start_node("master", "[topic=test]\n")
    with master.connect() as wire:
        assert wire.ask(put("test", b"alone", 1)).status == 200
        master.configure({}, topic("slave"))
        call(master.control_socket, "reload", 10)
        assert wire.ask(put("test", b"refused", 2)).status == 503
        slave = start_node("slave", "[topic=test]\n", slave_of=master.port)
        wait_for_slaves(master)
        assert wire.ask(put("test", b"copied", 3)).status == 200
        assert list(on_disk(slave).values()) == [b"alone", b"copied"]
        slave.stop()
        master.configure({}, "[topic=test]\n")
        call(master.control_socket, "reload", 10)
        assert wire.ask(put("test", b"alone again", 4)).status == 200


def test_a_stop_answers_what_slaves_have_yet_to_confirm(start_node: StartNode) -> None:
    """The slave is heard to the end: a planned stop makes no second copies."""
    master = start_node("master", topic("slave_disk"), stopTimeoutInMills=40_000)
    start_node("slave", "[topic=test]\n", slave_of=master.port)
    wait_for_slaves(master)
    with master.connect() as wire:
        assert wire.ask(put("test", b"first", 0)).status == 200
        wire.send(b"".join(put("test", b"x" * 1000, n) for n in range(1, 2001)))
        assert wire.reply().status == 200
        master.ask_to_stop()
        statuses = []
        with suppress(ConnectionEndedError):
            while True:
                statuses.append(wire.reply().status)
    assert set(statuses) == {200}
    assert master.wait_for_end() == 0


def test_the_master_tells_how_far_its_slaves_are(start_node: StartNode) -> None:
    master = start_node("master", topic("slave_disk", timeout_ms=SHORT_MS) + "\n[topic=other]\n")
    slave = start_node("slave", "[topic=test]\n[topic=other]\n", slave_of=master.port)
    wait_for_slaves(master)
    assert master.ask(put("test", record(b"x"), 1)).status == 200

    def is_caught_up() -> bool:
        (found,) = slaves_of(master)
        return bool(found["partitions"] == 1 and found["lag_bytes"] == 0)

    eventually(is_caught_up, "the slave has reported the partition")
    (found,) = slaves_of(master)
    assert (found["slave_group"], found["slave_id"], found["lag_seconds"]) == ("meta-slave-group_0", 0, 0)
    os.kill(slave.pid, signal.SIGSTOP)
    try:
        assert master.ask(put("other", b"unseen", 1)).status == 200
        assert master.ask(put("test", b"unseen", 1)).status == 503
        (found,) = slaves_of(master)
        assert found["lag_bytes"] == 26
        assert found["lag_seconds"] >= SHORT_MS / 1000
    finally:
        os.kill(slave.pid, signal.SIGCONT)

    def is_level() -> bool:
        (found,) = slaves_of(master)
        return bool(found["partitions"] == 2 and found["lag_bytes"] == 0)

    eventually(is_level, "the slave has the new partition too")
    slave.kill()
    eventually(lambda: not slaves_of(master)[0]["connected"], "the master notices that it is gone")
