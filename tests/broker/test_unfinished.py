"""What all peers together have begun to send and not ended costs no more than a configured ceiling."""

from __future__ import annotations

import resource
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import given
from hypothesis import strategies as st

from metaserver.broker.connection import Connection
from metaserver.broker.statistics import Counters
from metaserver.broker.unfinished import UnfinishedRequests
from metaserver.protocol import Limits, Puts
from tests.support import put

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.protocol import Command
    from tests.broker.conftest import StartBroker

KIB = 1024
MIB = 1024 * KIB


@attrs.define(eq=False)
class Peer:
    """Remembers why it was refused."""

    peer: str = "somebody"
    reasons: list[str] = attrs.Factory(list)

    def refuse_unfinished(self, reason: str) -> None:
        self.reasons.append(reason)


def test_the_largest_is_refused() -> None:
    held = UnfinishedRequests()
    small, large, growing = Peer(), Peer(), Peer()
    held.hold(small, 10, 100)
    held.hold(large, 60, 100)
    held.hold(growing, 20, 100)
    assert held.total_bytes == 90
    held.hold(growing, 40, 100)
    assert (small.reasons, growing.reasons) == ([], [])
    (reason,) = large.reasons
    assert reason == (
        "100 bytes of requests that are not complete are held already, "
        "and this one of 60 is the largest (maxUnfinishedRequestBytes)"
    )
    assert held.total_bytes == 50


def test_as_many_are_refused_as_it_takes() -> None:
    held = UnfinishedRequests()
    peers = [Peer() for _ in range(4)]
    for size, peer in zip((10, 20, 30, 39), peers, strict=True):
        held.hold(peer, size, 100)
    held.hold(peers[0], 10, 40)
    assert [len(peer.reasons) for peer in peers] == [0, 0, 1, 1]
    assert held.total_bytes == 30


def test_one_alone_has_its_own_limit() -> None:
    held = UnfinishedRequests()
    alone = Peer()
    held.hold(alone, 1000, 100)
    assert (held.total_bytes, alone.reasons) == (1000, [])
    held.forget(alone)
    held.forget(alone)
    assert held.total_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=60))
def test_the_sum_is_that_of_those_who_are_left(steps: list[tuple[int, int]]) -> None:
    held = UnfinishedRequests()
    peers = [Peer() for _ in range(6)]
    model = dict.fromkeys(peers, 0)
    for number, size in steps:
        peer = peers[number]
        held.hold(peer, size, 100)
        model[peer] = size
        for other in peers:
            if other.reasons:
                other.reasons.clear()
                model[other] = 0
        assert held.total_bytes == sum(model.values())
        assert held.total_bytes <= 100


class HandTransport:
    """What the peer sends is put in ``arrived``; remembers whether reading is wanted."""

    peer = "somebody"

    def __init__(self, arrived: bytes) -> None:
        self.arrived = arrived
        self.is_reading = True
        self.on_readable: Callable[[], None]

    def start(self, on_readable: Callable[[], None], _on_writable: object) -> None:
        self.on_readable = on_readable

    def want(self, *, read: bool, write: bool) -> None:
        assert not write
        self.is_reading = read

    def receive_nowait(self, size_max: int) -> bytes:
        data, self.arrived = self.arrived[:size_max], self.arrived[size_max:]
        return data

    def close(self) -> None:
        self.is_reading = False


async def test_nobody_ends_a_request_while_too_much_waits_for_the_disk() -> None:
    handled: list[Command] = []
    config = SimpleNamespace(
        max_inflight_bytes=100,
        max_connection_inflight_bytes=100,
        max_pending_reply_bytes=100,
        max_pending_replies=100,
        max_unfinished_request_bytes=1000,
    )
    broker: Any = SimpleNamespace(
        config=config,
        inflight_bytes=0,
        paused={},
        counters=Counters(),
        unfinished=UnfinishedRequests(),
        handle=lambda command, _: handled.append(command),
        disconnected=lambda _: None,
    )
    transport: Any = HandTransport(b"put test 0 10 0 7\r\nabcde")
    connection = Connection(broker, transport, Limits(), lambda _: None)
    transport.on_readable()
    assert broker.unfinished.total_bytes > 0
    broker.inflight_bytes = 101
    transport.arrived = b"fghij"
    transport.on_readable()
    assert (transport.is_reading, transport.arrived, handled) == (False, b"fghij", [])
    assert list(broker.paused) == [connection]
    broker.inflight_bytes = 0
    connection.resume()
    assert transport.is_reading
    transport.on_readable()
    (command,) = handled
    assert isinstance(command, Puts)
    assert broker.unfinished.total_bytes == 0
    connection.close()


def test_a_thousand_announced_large_requests(start_broker: StartBroker) -> None:
    """All of them would be 250 MiB; those who stay below the ceiling are served in the end."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    node = start_broker("announced", maxUnfinishedRequestBytes=4 * MIB, maxTransferSize=4 * MIB)
    before = node.rss_bytes()
    with ExitStack() as held:
        small, *large = (held.enter_context(node.connect()) for _ in range(1001))
        small.send(b"put test 0 10 0 7\r\nabcde")
        for _ in range(4):
            for wire in large:
                with suppress(OSError):  # Refused, and gone.
                    wire.send_some(b"put test 0 3000000 0 1\r\n" + b"x" * 64 * KIB)
            assert node.rss_bytes() - before < 20 * MIB
        assert node.ask(put("test", b"x", 1)).status == 200
        assert small.ask(b"fghij").status == 200
        refused = node.log.count("(maxUnfinishedRequestBytes)")
        assert 900 < refused <= 1000


def test_a_refused_peer_is_told_why(start_broker: StartBroker) -> None:
    node = start_broker("told", maxUnfinishedRequestBytes=64 * KIB)
    with node.connect() as first, node.connect() as second:
        assert first.ask(b"version 1\r\n").status == 200
        first.send(b"put test 0 100000 0 1\r\n" + b"x" * 50 * KIB)
        second.send(b"put test 0 20000 0 1\r\n" + b"x" * 19_000)
        reply = first.reply()
        assert (reply.status, reply.opaque) == (503, 2147483647)
        assert reply.text.endswith("is the largest (maxUnfinishedRequestBytes)")
        first.expect_end()
        assert second.ask(b"x" * 1_000).status == 200
        # Nothing is held any more: the room is there again, also beside another.
        with node.connect() as third:
            second.send(b"put test 0 1000 0 2\r\n")
            third.send(b"put test 0 60000 0 3\r\n" + b"x" * 59_000)
            assert third.ask(b"x" * 1_000).status == 200
