"""What a promoted master says of the one in whose place it is, without a network and in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

from metaserver.errors import BrokerUnreachableError
from metaserver.protocol import Result
from metaserver.replication import succession
from metaserver.replication.succession import Succession

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio.testing import MockClock

ADDRESS = ("10.0.0.1", 8123)


@attrs.define(eq=False)
class Predecessor:
    """A master that the broker took the place of."""

    answer: Result | None = None
    """To ``successor``; None: it closes the connection."""
    is_away: bool = False
    is_slave: bool = False
    asked: int = 0
    """How often it was told."""
    extensions: frozenset[str] = frozenset({"successor"})

    @asynccontextmanager
    async def connect(self, _host: str, _port: int) -> AsyncIterator[Predecessor]:
        if self.is_away:
            raise BrokerUnreachableError("10.0.0.1:8123", "refused")
        yield self

    async def ask_facts(self, _link: object, _limit_seconds: float) -> Any:  # noqa: ANN401
        if self.is_away:
            raise BrokerUnreachableError("10.0.0.1:8123", "closed")
        return SimpleNamespace(instance="old", broker_id=0, is_slave=self.is_slave, promoted="")

    async def request(self, _encode: object, _limit_seconds: float) -> Result:
        self.asked += 1
        if self.answer is None:
            raise BrokerUnreachableError("10.0.0.1:8123", "closed")
        return self.answer


@pytest.mark.parametrize(
    "answer", [Result(200, "", 1), Result(500, "out of order", 1), Result(400, "what?", 1), None]
)
async def test_a_second_master_is_told_of_once_whatever_it_answers(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, answer: Result | None
) -> None:
    old, said = Predecessor(answer), []
    monkeypatch.setattr(succession, "connect", old.connect)
    monkeypatch.setattr(succession, "ask_facts", old.ask_facts)
    log = SimpleNamespace(error=lambda _event, reason: said.append(reason))
    monkeypatch.setattr(succession, "_log", log)
    config = SimpleNamespace(broker_id=0)
    broker: Any = SimpleNamespace(
        instance="new", promoted="2026-11-30T10:00:00Z", config=config, address="10.0.0.2:8123"
    )
    found = Succession(broker, ADDRESS, lambda _successor: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.run)
        problems = set()
        for _ in range(200):
            await trio.sleep(0.1)
            problems.add(found.problem)
        assert len(said) == 1
        assert problems == {said[0]}
        assert old.asked > 3, "it is told again and again"

        for name, value, count in (("is_slave", True, 1), ("is_slave", False, 2), ("is_away", True, 2)):
            setattr(old, name, value)
            await trio.sleep(10.0)
            is_rival = not old.is_slave and not old.is_away
            assert (bool(found.problem), len(said)) == (is_rival, count)
        nursery.cancel_scope.cancel()
