"""Peers that mean no good beside an ordinary client: rows A1, A2, A4, A5 and A6.

The broker, the abusers and the ordinary client are a process each; the abusers at the lowest priority, for
they would have machines of their own. The client puts one message after the other, before the abuse, while it
comes up and while it stays: its p99 and the broker's memory are the figures. What must hold is a
violation where it does not: the broker lives, the client is answered, memory stays below the ceiling, nothing
lies outside of the data directory, the log holds no traceback, and once the abusers are gone so are their
descriptors, a new client is served, and the broker tells no problem. Times are told and not judged.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Self

import attrs

from metaserver.errors import ControlError
from tests.support import BrokerProcess, ConnectionEndedError, Wire, put
from tools.torture import abusers
from tools.torture.abusers import Abuser, Findings, Target
from tools.torture.nodes import NodeError, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

RSS_BYTES_MAX = 256 * 1024 * 1024
"""The ceiling of the fault matrix."""
_CLIENT_PAUSE_SECONDS = 0.002
_ABUSE_SECONDS_MAX = 300.0
_WELL_SECONDS_MAX = 10.0
_STOP_SECONDS_MAX = 120.0
"""Ten thousand partitions write a checkpoint each."""


@attrs.frozen
class Abuse:
    """One of them, and what the broker is told for it."""

    row: str
    """Of the fault matrix."""
    act: Callable[[Target, int, ExitStack], Findings]
    count: int
    """How many in the long form."""
    settings: dict[str, object] = attrs.Factory(dict)
    descriptors: int = 0
    """The limit of the broker's process; 0: as it is."""


ABUSES: dict[str, Abuse] = {
    "slow-loris": Abuse("A1", abusers.slow_loris, 2000),
    "never-reading": Abuse("A1", abusers.never_reading, 200),
    "time-outs": Abuse(
        "A1",
        abusers.time_outs,
        900,
        {"requestTimeoutInMills": 5000, "idleTimeoutInMills": 8000, "writeTimeoutInMills": 5000},
    ),
    "huge-sizes": Abuse("A2", abusers.huge_sizes, 40),
    "unfinished": Abuse("A2", abusers.unfinished, 1000),
    "no-descriptors": Abuse(
        "A4", abusers.no_descriptors, 1000, {"maxSegmentSize": 16 * 1024}, descriptors=256
    ),
    "storm": Abuse("A5", abusers.storm, 5000),
    "idle": Abuse("A5", abusers.idle, 5000),
    "many-topics": Abuse("A5", abusers.many_topics, 10_000),
    "evil-names": Abuse("A6", abusers.evil_names, 1),
}


@attrs.frozen
class Abused:
    """What one abuse came to."""

    name: str
    connections: int
    p99_before_ms: float
    p99_coming_ms: float
    """While the abusers connect and do what they do, as fast as they can."""
    p99_staying_ms: float
    """While they keep their connections and wait; 0 where nothing of that time was measured."""
    rss_megabytes: float
    seen: Findings
    violations: tuple[str, ...]


@attrs.define(eq=False)
class Client:
    """Puts one message after the other until told to stop."""

    node: BrokerProcess
    seconds: list[float] = attrs.Factory(list)
    problem: str = ""
    _stopping: threading.Event = attrs.Factory(threading.Event)
    _thread: threading.Thread = attrs.field(init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def p99_ms(self, begin: int = 0, end: int | None = None) -> float:
        """Of all puts so far, or of those between two numbers."""
        ordered = sorted(self.seconds[begin:end])
        return round(ordered[int(len(ordered) * 0.99)] * 1000, 2) if ordered else 0.0

    def _run(self) -> None:
        try:
            with self.node.connect() as wire:
                while not self._stopping.wait(_CLIENT_PAUSE_SECONDS):
                    began = time.monotonic()
                    reply = wire.ask(put("safe", b"x" * 100, 1))
                    self.seconds.append(time.monotonic() - began)
                    assert reply.status == 200, reply
        except (OSError, AssertionError, ConnectionEndedError) as error:
            self.problem = f"an ordinary client: {error!r}"


def run_abuse(base: Path, name: str, count: int | None = None, seconds: float = 5.0) -> Abused:
    """One abuse at a broker of its own; the ordinary client is measured for so long before, and beside it."""
    abuse = ABUSES[name]
    count = abuse.count if count is None else count
    node = BrokerProcess(
        base / "node",
        topics="[topic=t*]\n\n[topic=safe]\n",
        settings={"dashboardHttpPort": 0, **abuse.settings},
        command=("prlimit", f"--nofile={abuse.descriptors}") if abuse.descriptors else (),
    )
    violations: list[str] = []
    seen: Findings = {}
    try:
        node.start()
        node.wait_registered()
        target = Target(node.port, node.registry_port, int(node.status()["http_port"]), node.control_socket)
        outside = {path for path in base.rglob("*") if node.data not in path.parents}
        with Client(node) as before:
            time.sleep(seconds)
        descriptors = _connections_of(node)
        segments = _segments_of(node)
        with Client(node) as beside, Abuser(abuse.act, target, count).at_work() as findings:
            try:
                seen = findings(_ABUSE_SECONDS_MAX)
            except (AssertionError, TimeoutError) as error:
                violations.append(str(error))
            come = len(beside.seconds)
            time.sleep(seconds)
            rss_bytes = node.rss_bytes()
        violations += [client.problem for client in (before, beside) if client.problem]
        if abuse.descriptors:
            seen["segments begun meanwhile"] = f"{_segments_of(node) - segments:,}"
        violations += _aftermath(node, descriptors)
        if rss_bytes > RSS_BYTES_MAX:
            violations.append(f"{rss_bytes >> 20} MiB of memory, where {RSS_BYTES_MAX >> 20} are the ceiling")
        new = {path for path in base.rglob("*") if node.data not in path.parents} - outside
        if new:
            violations.append(f"made outside of the data directory: {sorted(map(str, new))}")
        node.ask_to_stop()
        code = node.wait_for_end(_STOP_SECONDS_MAX)
        if code or "Traceback" in node.log:
            violations.append(f"the broker's end, with exit code {code}: {node.log[-2000:]}")
    finally:
        node.make_sure_it_is_gone()
    return Abused(
        name,
        count,
        before.p99_ms(),
        beside.p99_ms(0, come),
        beside.p99_ms(come),
        round(rss_bytes / 2**20, 1),
        seen,
        tuple(violations),
    )


def _aftermath(node: BrokerProcess, connections: int) -> list[str]:
    """What is wrong although the abusers are gone."""

    def is_served() -> bool:
        try:
            with Wire(node.port, seconds=1.0) as wire:
                return wire.ask(put("safe", b"x", 1)).status == 200
        except (OSError, ConnectionEndedError):
            return False

    found = []
    for condition, what in (
        (is_served, "a new client is served"),
        (lambda: _connections_of(node) <= connections, "the abusers' connections are closed"),
    ):
        try:
            wait_until(condition, _WELL_SECONDS_MAX, what)
        except NodeError as error:
            found.append(str(error))
    try:
        node.assert_alive()
        return found + [str(problem) for problem in node.status()["problems"]]
    except (AssertionError, ControlError) as error:
        return [*found, str(error)]


def _connections_of(node: BrokerProcess) -> int:
    """Sockets that the broker has open."""
    count = 0
    for entry in os.scandir(f"/proc/{node.pid}/fd"):
        try:
            count += os.readlink(entry.path).startswith("socket:")  # noqa: PTH115 - no path
        except OSError:
            continue
    return count


def _segments_of(node: BrokerProcess) -> int:
    return len(list(node.data.rglob("*.meta")))
