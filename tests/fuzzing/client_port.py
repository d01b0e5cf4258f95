"""Random bytes and mutated frames on the port of a real broker, while another client goes on working.

Each case is a connection of its own. What the broker must answer is known: the decoder, which has its own
tests, says which commands the bytes are, and every command but quit has one reply.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from metaserver.protocol import CommandDecoder, Get, Limits, Malformed, Puts, Quit, Replicated
from tests.protocol.frames import cut, frames, mutated_streams
from tests.support import NO_REGISTRY, BrokerProcess, ConnectionEndedError, get, put, record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import Reply, Wire

LIMITS = Limits(line_bytes_max=512, body_bytes_max=4096, record_bytes_max=2048)
TOPICS = "".join(f"[topic={name}]\nnumPartitions=2\n\n" for name in ("t", "test", "a", "b", "safe"))
SETTINGS: dict[str, object] = {
    "maxLineBytes": LIMITS.line_bytes_max,
    "maxRequestBytes": LIMITS.body_bytes_max,
    "maxTransferSize": LIMITS.record_bytes_max,
    "maxSegmentSize": 1024 * 1024,
    "maxLongPollInMills": 50,
    "idleTimeoutInMills": 10_000,
}
HANG_SECONDS = 10.0
"""Longer is a broker that hangs; shorter may be a busy machine."""
RSS_GROWTH_BYTES_MAX = 16 * 1024 * 1024
_BATCH_CASES = 2_000
_WARM_UP_CASES = 300
_SEND_PAUSE_PIECES_MAX = 3


def start_target(base: Path) -> BrokerProcess:
    """A broker with small limits, so that cases meet them."""
    node = BrokerProcess(base, settings=SETTINGS, topics=TOPICS, registry=NO_REGISTRY)
    node.start()
    return node


_sizes = st.sampled_from([0, 1, 2027, 2028, 2029, 4095, 4096, 4097])
_large_frames = st.one_of(
    st.builds(lambda size, opaque: put("a", b"\r" * size, opaque), _sizes, st.integers(0, 9)),
    st.builds(lambda size: b"putbatch a 0 %d 1\r\n" % size + b"\0" * size, _sizes),
    st.builds(lambda size: b"version 1 " + b"x" * size + b"\r\n", st.sampled_from([500, 501, 502, 503])),
    st.builds(
        lambda bodies: b"".join(map(record, bodies)),
        st.lists(st.binary(max_size=20), max_size=4),
    ).map(lambda records: b"putbatch b 1 %d 2\r\n%b" % (len(records), records)),
    st.builds(
        get,
        st.sampled_from(["a", "b"]),
        st.sampled_from([0, 0, 0, 0, 21, -1, 2**63 - 1]),
        st.sampled_from([1, 20, 5000, 2**31 - 1, 0]),
        st.integers(0, 9),
        st.integers(0, 2),
        st.sampled_from([None, None, 1, 20]),
    ),
)
streams = st.one_of(
    mutated_streams,
    mutated_streams,
    st.binary(max_size=1000),
    st.lists(st.one_of(frames, _large_frames, _large_frames), max_size=5).map(b"".join),
)
endings = st.sampled_from(["half close", "half close", "half close", "close", "reset"])


@attrs.define
class Figures:
    """What a run has come to."""

    cases: int = 0
    bytes_sent: int = 0
    replies: Counter[str] = attrs.Factory(Counter)
    """By status; ``value`` for values."""
    seconds: float = 0.0
    ping_seconds_max: float = 0.0
    pings: int = 0
    case_seconds_max: float = 0.0
    rss_before_bytes: int = 0
    rss_after_bytes: int = 0

    def __str__(self) -> str:
        replies = ", ".join(f"{count} {status}" for status, count in sorted(self.replies.items()))
        return (
            f"{self.cases} cases, {self.bytes_sent} bytes in {self.seconds:.0f} s; replies: {replies}; "
            f"{self.pings} pings, the slowest {self.ping_seconds_max * 1000:.0f} ms; the slowest case "
            f"{self.case_seconds_max * 1000:.0f} ms; resident {self.rss_before_bytes >> 20} MiB after the warm-up, "
            f"{self.rss_after_bytes >> 20} MiB at the end"
        )


class Neighbour:
    """Another client: it asks for the version and puts messages, one after the other."""

    def __init__(self, node: BrokerProcess, figures: Figures) -> None:
        self._node, self._figures = node, figures
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def finish(self) -> None:
        """End it, and see that it was answered in time and that everything it put is there."""
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        slowest = self._figures.ping_seconds_max
        assert slowest < HANG_SECONDS, f"a neighbour waited {slowest:.3f} s: {self._figures}"
        stored = [int(found.data) for found in self._node.read_all("safe")]
        assert stored == list(range(self._figures.pings)), "a neighbour's messages are not what it has put"

    def _run(self) -> None:
        figures = self._figures
        try:
            with self._node.connect() as wire:
                while not self._stopping.wait(0.005):
                    began = time.monotonic()
                    assert wire.ask(b"version %d\r\n" % figures.pings).opaque == figures.pings
                    figures.ping_seconds_max = max(figures.ping_seconds_max, time.monotonic() - began)
                    assert wire.ask(put("safe", b"%d" % figures.pings, 1)).status == 200
                    figures.pings += 1
        except BaseException as failure:  # noqa: BLE001 - raised again in finish()
            self._failure = failure


def fuzz(
    node: BrokerProcess, cases: int, first_seed: int, progress: Callable[[Figures], None] = lambda _: None
) -> Figures:
    """Run the cases; raises AssertionError, with the case in its notes, where anything is wrong."""
    figures = Figures()
    began = time.monotonic()
    neighbour = Neighbour(node, figures)
    try:
        batch = 0
        while figures.cases < cases:
            # The first batch is small: what a broker keeps for good is there after it.
            size = min(_BATCH_CASES, cases - figures.cases) if batch else _WARM_UP_CASES
            _run_batch(node, size, first_seed + batch, figures)
            node.assert_alive()
            if batch == 0:
                figures.rss_before_bytes = node.rss_bytes()
            batch += 1
            figures.seconds = time.monotonic() - began
            figures.rss_after_bytes = node.rss_bytes()
            progress(figures)
    finally:
        neighbour.finish()
    assert figures.rss_after_bytes - figures.rss_before_bytes < RSS_GROWTH_BYTES_MAX, str(figures)
    return figures


def _run_batch(node: BrokerProcess, size: int, batch_seed: int, figures: Figures) -> None:
    @seed(batch_seed)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(streams, st.lists(st.integers(0, 1000), max_size=3), endings)
    def one_case(data: bytes, positions: list[int], ending: str) -> None:
        began = time.monotonic()
        with node.connect() as wire:
            _run_case(wire, data, positions, ending, figures)
        figures.case_seconds_max = max(figures.case_seconds_max, time.monotonic() - began)
        figures.cases += 1
        figures.bytes_sent += len(data)

    before = figures.cases
    one_case()
    # Hypothesis may find that there is nothing new before it has made as many; that is rare and small.
    assert figures.cases - before >= size * 0.9


def _run_case(wire: Wire, data: bytes, positions: list[int], ending: str, figures: Figures) -> None:
    try:
        for piece in cut(data, positions):
            wire.send(piece)
    except OSError:
        pass  # It has been told off already; the reply is still to be read.
    if ending == "reset":
        wire.reset()
        return
    if ending == "close":
        return
    with suppress(OSError):
        wire.end_sending()
    replies: list[Reply] = []
    try:
        while True:
            reply = wire.reply()
            replies.append(reply)
            figures.replies["value" if reply.status is None else str(reply.status)] += 1
    except ConnectionEndedError as ended:
        left = ended.held
    assert not left, f"a reply was cut: {left!r}"
    _check(data, replies)


def _check(data: bytes, replies: list[Reply]) -> None:
    due: Counter[int] = Counter()
    unsure: Counter[int] = Counter()
    """What may or may not be answered."""
    is_sure = True
    for command in CommandDecoder(LIMITS).feed(data):
        expected = due if is_sure else unsure
        match command:
            case Quit():
                break
            case Puts():
                expected.update(map(int, command.opaques))
            case Get(wait_ms=wait_ms) if wait_ms > 0:
                unsure[command.opaque] += 1  # A peer that ends its side while it waits may get no answer.
            case Malformed():
                expected[command.opaque] += 1
                if is_sure:
                    assert (400, command.opaque) in [(reply.status, reply.opaque) for reply in replies]
            case Replicated() if command.positions:
                # It may be refused, and the connection ends with it.
                expected[command.opaque] += 1
                is_sure = False
            case _:
                expected[command.opaque] += 1
    found = Counter(reply.opaque for reply in replies)
    assert not due - found, f"not answered: {due - found}"
    assert not found - due - unsure, f"not asked for: {found - due - unsure}"
