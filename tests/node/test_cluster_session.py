"""The node's own session with its cluster: opened for who asks, gone with its registry, never the broker's end."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from metaserver.errors import DiscoveryError
from metaserver.node.cluster_session import ClusterSession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@attrs.define
class Sessions:
    """Stands for ``open_session``."""

    opened: list[str] = attrs.Factory(list)
    closed: int = 0
    failure: Exception | None = None

    @asynccontextmanager
    async def open(self, servers: str, _options: object) -> AsyncIterator[str]:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.opened.append(servers)
        try:
            yield f"session with {servers}"
        finally:
            self.closed += 1


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Sessions:
    found = Sessions()
    monkeypatch.setattr("metaserver.client.open_session", found.open)
    return found


async def test_it_is_opened_once_and_for_who_asks(
    sessions: Sessions, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = ClusterSession(lambda: "a:1", "/meta")
    nursery.start_soon(cluster.run)
    await trio.sleep(10)
    assert not sessions.opened
    found: list[Any] = [await cluster.get(), await cluster.get()]
    assert found == ["session with zookeeper://a:1"] * 2
    assert sessions.opened == ["zookeeper://a:1"]
    await cluster.stop()
    assert sessions.closed == 1


async def test_it_follows_the_registry(
    sessions: Sessions, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    servers = ["a:1"]
    cluster = ClusterSession(lambda: servers[0], "/meta")
    nursery.start_soon(cluster.run)
    await cluster.get()
    servers[0] = "b:1"
    await trio.sleep(5)
    found: Any = await cluster.get()
    assert (found, sessions.closed) == ("session with zookeeper://b:1", 1)


async def test_no_registry(
    sessions: Sessions, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = ClusterSession(lambda: None, "/meta")
    nursery.start_soon(cluster.run)
    for _ in range(2):
        with pytest.raises(DiscoveryError, match="it is in no registry"):
            await cluster.get()


async def test_a_failure_is_told_and_the_next_question_tries_again(
    sessions: Sessions,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    cluster = ClusterSession(lambda: "a:1", "/meta")
    nursery.start_soon(cluster.run)
    sessions.failure = DiscoveryError("a:1", "no answer from there")
    with pytest.raises(DiscoveryError, match="no answer from there"):
        await cluster.get()
    assert not caplog.records
    sessions.failure = ZeroDivisionError("a mistake of ours")
    with pytest.raises(DiscoveryError, match="a mistake of ours"):
        await cluster.get()
    assert len(caplog.records) == 1
    sessions.failure = None
    await cluster.get()
    assert len(sessions.opened) == 1
