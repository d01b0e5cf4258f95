"""The synchronous pair, both nodes ours and real: puts wait for the slave, which copies byte for byte."""

from __future__ import annotations

import socketserver
import threading
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from kazoo.client import KazooClient

from metaserver.control.client import call
from tests.support import WAIT_SECONDS_MAX, BrokerProcess, eventually, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

TOPICS = "[topic=orders]\nnumPartitions=2\n\n[topic=fast]\nunflushThreshold=100\n"


@attrs.define(eq=False)
class Pair:
    master: BrokerProcess
    slave: BrokerProcess

    def slave_status(self) -> dict[str, Any]:
        return call(self.slave.base / "logs" / ".control-slave.sock", "status", WAIT_SECONDS_MAX)

    def is_taken(self, topic: str = "orders") -> bool:
        return self.master.ask(put(topic, b"is it there?", 1)).status == 200

    def assert_same(self) -> None:
        for topic, count in (("orders", 2), ("fast", 1)):
            for number in range(count):
                expected = self.master.read_all(topic, number)
                eventually(
                    lambda topic=topic, number=number, expected=expected: (  # type: ignore[misc]
                        self.slave.read_all(topic, number) == expected
                    ),
                    f"the copy of {topic}-{number}",
                )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """The slave runs, the master does not yet."""
    slave_base, master_base = tmp_path / "slave", tmp_path / "master"
    slave_base.mkdir()
    master_base.mkdir()
    gregor_file, samsa_file = tmp_path / "gregor_slave.properties", tmp_path / "samsa_master.properties"
    port = free_port()
    gregor_file.write_text(f"serverPort={port}\n", encoding="utf-8")
    samsa_file.write_text(f"slave=127.0.0.1:{port}\nsendToSlaveTimeoutInMills=1500\n", encoding="utf-8")
    slave = BrokerProcess(slave_base, topics=TOPICS, options=(f"-Fgregor={gregor_file}",))
    master = BrokerProcess(
        master_base,
        topics=TOPICS,
        settings={"serverPort": free_port()},
        options=(f"-Fsamsa={samsa_file}",),
    )
    slave.start()
    yield Pair(master, slave)
    for node in (master, slave):
        node.make_sure_it_is_gone()
        assert not (node.base / "output").exists() or "Traceback" not in node.log


def test_every_put_is_with_the_slave_when_it_is_answered(pair: Pair) -> None:
    # The slave waits for its master's call.
    assert pair.slave.ask(put("orders", b"x", 1)).status == 503
    assert "has not called yet" in pair.slave_status()["problems"][0]
    pair.master.start()
    eventually(pair.is_taken, "the master has called")
    eventually(lambda: pair.is_taken("fast"), "the master has called")
    with pair.master.connect() as wire:
        for number in range(200):
            wire.send(put("orders", b"message %d" % number, number, number % 2))
        assert {reply.status for reply in wire.replies(200)} == {200}
    before = pair.master.read_all("orders", 0)
    pair.master.kill()
    assert pair.slave.read_all("orders", 0) == before
    pair.master.start()
    eventually(pair.is_taken, "the pair is whole again")
    pair.assert_same()


def test_without_the_slave_no_put_is_acknowledged_and_with_it_the_offsets_are_the_same(pair: Pair) -> None:
    pair.master.start()
    eventually(pair.is_taken, "the master has called")
    assert pair.slave.stop() == 0
    reply = pair.master.ask(put("orders", b"alone", 2))
    assert reply.status == 503
    assert "is on this master's disk" in reply.text
    eventually(lambda: bool(pair.master.status()["pair"]["problem"]), "the master notices")
    pair.slave.start()
    eventually(pair.is_taken, "the pair is whole again")
    pair.assert_same()
    assert pair.master.status()["pair"]["problem"] == ""

    # A reload keeps what the pair waits for.
    pair.master.configure(pair.master.settings, TOPICS + "\n[topic=late]\n")
    call(pair.master.control_socket, "reload", WAIT_SECONDS_MAX)
    assert pair.slave.stop() == 0
    eventually(
        lambda: "ackLevel=slave_disk" in pair.master.ask(put("late", b"x", 3)).text, "late waits as well"
    )


def test_the_slave_follows_another_master_only_when_its_own_is_gone(pair: Pair) -> None:
    pair.master.start()
    eventually(pair.is_taken, "the master has called")
    reply = pair.slave.ask(b"pair 127.0.0.1:1 7\r\n")
    assert (reply.status, reply.text) == (503, f"This slave follows 127.0.0.1:{pair.master.port} already")
    assert pair.slave.ask(b"pair nonsense 8\r\n").status == 503
    own = pair.slave.ask(b"pair 127.0.0.1:%d 9\r\n" % pair.slave.port)
    assert "is the slave's own address" in own.text


# A slave of MetaQ's, played by the test: the original's pair is in no public repository.


class OldSlave:
    """Answers ``version`` as 1.4.6.2 does, and ``sync`` as it is told to."""

    def __init__(self) -> None:
        self.is_well = True
        self.stored: list[tuple[str, bytes]] = []
        """Topic and data, in the order they came."""
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                for line in self.rfile:
                    words = line.decode().split()
                    text, status = "", 200
                    if words[0] == "version":
                        text = "1.4.6.2"
                    elif words[0] == "sync":
                        data = self.rfile.read(int(words[3]))
                        if outer.is_well:
                            outer.stored.append((words[1], data))
                            text = f"{words[5]} {words[2]} 0"
                        else:
                            status, text = 500, "it is not well"
                    reply = f"result {status} {len(text)} {words[-1]}\r\n{text}"
                    self.wfile.write(reply.encode())

        socketserver.ThreadingTCPServer.daemon_threads = True
        self.server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def orders(self) -> list[bytes]:
        return [data for topic, data in self.stored if topic == "orders"]


def test_a_slave_of_metaq_is_sent_every_put_and_the_master_leaves_while_it_is_unwell(pair: Pair) -> None:
    master = pair.master
    with OldSlave() as slave:
        samsa_file = master.base.parent / "samsa_master.properties"
        samsa_file.write_text(
            f"slave=127.0.0.1:{slave.port}\nslaveContinuousFailureThreshold=3\n", encoding="utf-8"
        )
        master.start()
        eventually(pair.is_taken, "the master is connected")
        master.wait_registered()
        slave.stored.clear()
        with master.connect() as wire:
            for number in range(50):
                wire.send(put("orders", b"message %d" % number, number))
            assert {reply.status for reply in wire.replies(50)} == {200}
        assert slave.orders() == [b"message %d" % number for number in range(50)]

        slave.is_well = False
        text = f"Put message to [slave 'meta://127.0.0.1:{slave.port}'] [partition 'orders-0'] failed"
        for number in range(3):
            reply = master.ask(put("orders", b"unlucky", number))
            assert (reply.status, reply.text) == (500, text)
        eventually(lambda: "registry" not in master.status(), "it leaves the registry")
        assert "3 puts in a row have failed" in master.status()["pair"]["problem"]
        slave.is_well = True
        master.wait_registered()
        assert master.status()["pair"]["problem"] == ""
        assert master.ask(put("orders", b"lucky", 9)).status == 200
        assert ("_metaq_slave_status_test", b"test") in slave.stored
    assert master.stop() == 0


def test_our_slave_stores_what_a_master_of_metaq_sends(pair: Pair) -> None:
    with pair.slave.connect() as wire:
        for number in range(20):
            body = b"message %d" % number
            wire.send(b"sync orders 0 %d 0 %d %d\r\n%b" % (len(body), -1000 + number, number, body))
        replies = wire.replies(20)
    assert [reply.status for reply in replies] == [200] * 20
    stored = pair.slave.read_all("orders")
    assert [one.data for one in stored] == [b"message %d" % number for number in range(20)]
    assert [reply.text for reply in replies] == [f"{one.message_id} 0 {one.offset}" for one in stored]
    assert stored[0].message_id == -1000


def test_a_start_moves_groups_to_where_their_messages_are(pair: Pair) -> None:
    samsa_file = pair.master.base.parent / "samsa_master.properties"
    pair.master.start()
    eventually(pair.is_taken, "the master has called")
    with pair.master.connect() as wire:
        answers = [wire.ask(put("orders", b"message", number)).text.split(" ") for number in range(5)]
    stored, right = f"{answers[2][0]}-7", f"{answers[2][0]}-{answers[3][2]}"
    path = "/meta/consumers/g/offsets/orders/0-0"

    def node() -> str:
        client = KazooClient(f"127.0.0.1:{pair.master.registry_port}", timeout=10.0)
        client.start(10)
        try:
            if not client.exists(path):
                client.create(path, stored.encode(), makepath=True)
            return str(client.get(path)[0].decode())
        finally:
            client.stop()
            client.close()

    assert node() == stored
    for line, expected in (("", stored), ("recoverOffset=true\n", right)):
        assert pair.master.stop() == 0
        samsa_file.write_text(samsa_file.read_text() + line, encoding="utf-8")
        pair.master.start()
        pair.master.wait_registered()
        assert node() == expected
