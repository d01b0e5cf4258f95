"""What a peer may ask for, hold and leave undone; and that it troubles nobody else."""

from __future__ import annotations

import time
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import pytest

from tests.support import (
    NO_REGISTRY,
    BrokerProcess,
    ConnectionEndedError,
    eventually,
    get,
    put,
    put_batch,
    record,
    serving,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.broker.conftest import StartBroker
    from tests.support import Wire

MIB = 1024 * 1024
RSS_GROWTH_BYTES_MAX = 16 * MIB


def bad_request(wire: Wire, request: bytes, opaque: int = 2147483647) -> str:
    """One 400, then the end; its text."""
    wire.send(request)
    reply = wire.reply()
    assert (reply.status, reply.opaque) == (400, opaque)
    wire.expect_end()
    return reply.text


def test_longest_line(broker: BrokerProcess) -> None:
    with broker.connect() as wire:
        assert wire.ask(b"version 1 " + b"x" * (512 - 10) + b"\r\n").status == 200
        text = bad_request(wire, b"version 1 " + b"x" * (513 - 10) + b"\r\n")
    assert text == "Bad request,line longer than 512 bytes (maxLineBytes)"


def test_longest_line_of_a_put(broker: BrokerProcess) -> None:
    longest = "t" * (512 - len("put  0 0 0 0 1"))
    with broker.connect() as wire:
        assert wire.ask(put(longest, b"", 1)).text.endswith(f"The server do not accept topic {longest}")
        assert "(maxLineBytes)" in bad_request(wire, put(longest + "t", b"", 1))


def test_a_line_that_never_ends(broker: BrokerProcess) -> None:
    with broker.connect() as wire:
        assert "(maxLineBytes)" in bad_request(wire, b"x" * 600)


def test_longest_body(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        batch = record(b"x" * 1000) * 64
        assert 65000 < len(batch) <= 65536
        assert wire.ask(put_batch(topic, batch, 1)).status == 200
        assert wire.ask(put(topic, b"x" * 65536, 2)).status == 500  # Read, and too long for a record.
        text = bad_request(wire, b"putbatch %b 0 65537 3\r\n" % topic.encode(), 3)
    assert text == "Bad request,body of 65537 bytes is longer than 65536 bytes (maxRequestBytes)"


@pytest.mark.parametrize(
    "line",
    [
        b"put t 0 2147483647 0 -9\r\n",
        b"put t 0 -1 0 -9\r\n",
        b"putbatch t 0 2147483647 -9\r\n",
        b"sync t 0 2147483647 0 1 -9\r\n",
        b"put t 0 4294967296 0 -9\r\n",
        b"put t 0 2147483647 0 -1 TX:s:1 -9\r\n",
    ],
)
def test_impossible_lengths_cost_nothing(broker: BrokerProcess, line: bytes) -> None:
    before = broker.rss_bytes()
    for _ in range(20):
        with broker.connect() as wire:
            bad_request(wire, line, -9)
    assert broker.rss_bytes() - before < RSS_GROWTH_BYTES_MAX


def test_a_get_of_two_gibibytes_costs_nothing(broker: BrokerProcess, topic: str) -> None:
    with broker.connect() as wire:
        assert wire.ask(put(topic, b"hello", 1)).status == 200
        before = broker.rss_bytes()
        for n in range(100):
            assert len(wire.ask(get(topic, 0, 2**31 - 1, n)).body) == 25
    assert broker.rss_bytes() - before < RSS_GROWTH_BYTES_MAX


def test_a_peer_that_is_told_off_still_gets_its_answer(broker: BrokerProcess) -> None:
    """It goes on sending for a while: the 400 must not be lost in a reset."""
    with broker.connect() as wire:
        try:
            for _ in range(20):
                wire.send(b"nonsense\r\n" * 1000)
        except OSError:
            pass
        assert wire.reply().status == 400
        wire.expect_end()


def test_most_connections(start_broker: StartBroker) -> None:
    node = start_broker("crowded", maxConnections=3)
    wires = [node.connect()]
    try:
        # Who looked whether the port answers has gone again.
        eventually(lambda: b"curr_connections 1\r\n" in wires[0].ask(b"stats\r\n").body, "a quiet broker")
        wires += [node.connect() for _ in range(2)]
        for wire in wires:
            assert wire.ask(b"version 1\r\n").status == 200
        with node.connect() as refused:
            reply = refused.reply()
            assert (reply.status, reply.opaque) == (503, 2147483647)
            assert "3 connections" in reply.text
            assert "maxConnections" in reply.text
            refused.expect_end()
        for wire in wires:
            assert wire.ask(b"version 2\r\n").status == 200
        wires.pop().close()

        def has_room() -> bool:
            with node.connect() as wire:
                try:
                    return wire.ask(b"version 3\r\n").status == 200
                except (ConnectionEndedError, BrokenPipeError):
                    return False

        eventually(has_room, "a place for another connection")
    finally:
        for wire in wires:
            wire.close()


def test_descriptors_are_kept_for_files(tmp_path: Path) -> None:
    """A quarter of few: logs that are there go on and begin segments, whoever else wants descriptors."""
    node = BrokerProcess(
        tmp_path,
        topics="[topic=t*]\n",
        settings={"maxSegmentSize": 4096},
        registry=NO_REGISTRY,
        command=("prlimit", "--nofile=64"),
    )
    with serving(node), node.connect() as wire, ExitStack() as held:
        assert {wire.ask(put("t", b"x" * 1000, n)).status for n in range(200)} == {200}
        others = [held.enter_context(node.connect()) for _ in range(40)]
        reply = others[-1].reply()
        assert (reply.status, reply.opaque) == (503, 2147483647)
        assert reply.text == "This broker has no descriptor left for connections (of 64)"
        others[-1].expect_end()
        text = wire.ask(put("new", b"x", 1)).text
        assert text.endswith("The server do not accept topic new")
        topics = (f"t{number}" for number in count())

        def is_refused() -> bool:
            # What a worker has had meanwhile may be free again, for a connection or for one partition more.
            held.enter_context(node.connect())
            text = wire.ask(put(next(topics), b"x", 1)).text
            return text.endswith("Detail:no descriptor is left for another partition (of 64)")

        eventually(is_refused, "a partition that no descriptor is left for")
        assert {wire.ask(put("t", b"x" * 1000, n)).status for n in range(200)} == {200}
        assert len(list((node.data / "t-0").glob("*.meta"))) > 64
        held.close()
        eventually(lambda: wire.ask(put("tt", b"x", 1)).status == 200, "a descriptor for a partition")
        assert node.ask(b"version 1\r\n").status == 200
        assert len(list(node.read_all("t"))) == 400


# Time.


def ends_after(wire: Wire) -> float:
    began = time.monotonic()
    with pytest.raises(ConnectionEndedError):
        wire.reply()
    return time.monotonic() - began


def test_timeouts(start_broker: StartBroker) -> None:
    """Three peers at once, to wait only once: one idle, one inside a line, one inside a body."""
    node = start_broker("impatient", idleTimeoutInMills=1500, requestTimeoutInMills=700)
    with (
        node.connect() as idle,
        node.connect() as in_line,
        node.connect() as in_body,
        node.connect() as dripping,
        node.connect() as lively,
    ):
        for wire in (idle, in_line, in_body, lively):
            assert wire.ask(b"version 1\r\n").status == 200
        began = time.monotonic()
        in_line.send(b"versi")
        in_body.send(b"put test 0 10 0 1\r\nxxx")
        ended: dict[str, float] = {}

        def look() -> bool:
            """A byte now and then keeps nobody's unfinished request alive; commands keep a connection."""
            for name, wire in (("line", in_line), ("body", in_body), ("dripping", dripping), ("idle", idle)):
                if name not in ended and has_ended(wire):
                    ended[name] = time.monotonic() - began
            if "dripping" not in ended:
                dripping.send_some(b"x")
            assert lively.ask(b"version 2\r\n").status == 200
            return len(ended) == 4

        eventually(look, "the end of four connections", seconds=10)
        assert min(ended["line"], ended["body"], ended["dripping"]) >= 0.7
        assert ended["idle"] >= 1.5
        assert max(ended["line"], ended["body"], ended["dripping"]) < 1.5 + 1.5
        assert lively.ask(b"version 3\r\n").status == 200


def has_ended(wire: Wire) -> bool:
    wire.set_patience(0.005)
    try:
        wire.reply()
    except ConnectionEndedError:
        return True
    except TimeoutError:
        return False
    raise AssertionError("a reply to nothing")


def test_a_long_poll_is_no_idleness(start_broker: StartBroker) -> None:
    node = start_broker("waiting", idleTimeoutInMills=500)
    with node.connect() as wire:
        assert wire.ask(put("test", b"x", 1)).status == 200
        assert wire.ask(get("test", 21, 100, 2, wait_ms=2500)).status == 404


def test_a_peer_that_takes_no_replies_is_cut_off(start_broker: StartBroker) -> None:
    node = start_broker("stuck", writeTimeoutInMills=500, maxPendingReplyBytes=65536)
    with node.connect(receive_buffer=4096) as wire:
        fill(wire, b"stats config 1\r\n" * 1000)
        eventually(lambda: "takes no replies" in node.log, "the connection is cut off")
    assert node.ask(b"version 1\r\n").status == 200


# Slow readers.


def fill(wire: Wire, requests: bytes) -> int:
    """Send until the broker reads no more for a while; how many bytes it took."""
    sent, quiet_since = 0, time.monotonic()
    while time.monotonic() - quiet_since < 0.5 and sent < 200 * MIB:
        count = wire.send_some(requests)
        if count:
            sent, quiet_since = sent + count, time.monotonic()
        else:
            time.sleep(0.001)
    return sent


@pytest.fixture
def narrow(start_broker: StartBroker) -> BrokerProcess:
    """A broker whose clients may have 256 KiB of replies waiting, with 64 MiB to read."""
    node = start_broker(
        "narrow",
        topics="; a long comment\n" * 3000 + "[topic=test]\n",
        maxPendingReplyBytes=256 * 1024,
        maxPendingReplies=64,
        maxConnectionInflightBytes=MIB,
        maxTransferSize=MIB,
    )
    with node.connect() as wire:
        for n in range(64):
            assert wire.ask(put("test", b"x" * (MIB - 20), n)).status == 200
    return node


@pytest.mark.parametrize(
    "request_of",
    [
        lambda n: get("test", n % 64 * MIB, MIB, n),
        lambda n: b"stats config %d\r\n" % n,
        lambda n: b"stats offsets %d\r\n" % n,
        lambda n: b"version %d\r\n" % n,
        lambda n: get("nobody", 0, 1, n),
        lambda n: put("nobody", b"", n),
        lambda n: put("test", b"", n),
        lambda n: b"put test 0 2147483 0 %d\r\n" % n + b"x" * 2147483,
    ],
    ids=["get", "stats config", "stats offsets", "version", "failed get", "failed put", "put", "oversized"],
)
def test_a_peer_that_never_reads(narrow: BrokerProcess, request_of: Callable[[int], bytes]) -> None:
    requests = request_of(1)
    # The first byte of the next request follows the last of this one: a broker that reads by halves copes.
    requests *= max(1, 256 * 1024 // len(requests))
    before = narrow.rss_bytes()
    with narrow.connect() as other, narrow.connect(receive_buffer=4096) as silent:
        fill(silent, requests)
        assert narrow.rss_bytes() - before < RSS_GROWTH_BYTES_MAX
        for n in range(20):
            assert other.ask(b"version %d\r\n" % n).opaque == n
            assert len(other.ask(get("test", 0, 1000, n)).body) == 1000
    narrow.assert_alive()


def test_a_slow_reader_gets_everything_in_the_end(narrow: BrokerProcess) -> None:
    with narrow.connect(receive_buffer=4096) as wire:
        wire.send(
            b"".join(
                get("test", n % 64 * MIB, 200_000, n) + b"stats config %d\r\n" % -n for n in range(1, 200)
            )
        )
        seen = {reply.opaque: len(reply.body) for reply in wire.replies(398)}
    config = len(narrow.server_file.read_bytes())
    assert seen == dict.fromkeys(range(1, 200), 200_000) | dict.fromkeys(range(-199, 0), config)


def test_a_flood_of_puts_is_taken_in_portions(start_broker: StartBroker) -> None:
    """Far more than may be in flight, from several peers at once: slower, not larger."""
    node = start_broker(
        "flood",
        maxInflightBytes=MIB,
        maxConnectionInflightBytes=256 * 1024,
        topics="[topic=test]\nnumPartitions=4\n",
    )
    before = node.rss_bytes()
    wires = [node.connect() for _ in range(4)]
    try:
        requests = [
            b"".join(put("test", b"%d %d " % (p, n) + b"x" * 10_000, n, partition=p) for n in range(400))
            for p in range(4)
        ]
        left = list(requests)
        while any(left):
            for p, wire in enumerate(wires):
                left[p] = left[p][wire.send_some(left[p][:65536]) :]
        for wire in wires:
            assert {reply.status for reply in wire.replies(400)} == {200}
    finally:
        for wire in wires:
            wire.close()
    assert node.rss_bytes() - before < RSS_GROWTH_BYTES_MAX + 4 * MIB
    for p in range(4):
        assert [int(found.data.split(b" ")[1]) for found in node.read_all("test", p)] == list(range(400))


def test_many_unfinished_requests(narrow: BrokerProcess) -> None:
    """What peers have begun to send and not ended is theirs to wait for, not the others'."""
    wires = [narrow.connect() for _ in range(50)]
    try:
        for wire in wires:
            wire.send(b"put test 0 1000 0 1\r\n" + b"x" * 500)
        with narrow.connect() as other:
            assert other.ask(put("test", b"x", 1)).status == 200
        for wire in wires:
            wire.send(b"x" * 500)
            assert wire.reply().status == 200
    finally:
        for wire in wires:
            wire.close()
