"""A planned change of masters, seen from the one that goes: it takes no more, and tells where it ends.

Three steps, each a command of the control socket. ``seal`` refuses puts, for a bounded time, so that a
command that dies leaves a master that takes messages again. ``step-down`` ends the time limit and the
registry it hosts: from then on nothing of its data changes, and only a restart makes it a master again.
``stop`` is the third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from metaserver.errors import MetaServerError
from metaserver.names import REGISTRY_TOPIC

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.broker import Broker, Committer
    from metaserver.node.registry import EmbeddedRegistry
    from metaserver.timers import Timer, Timers

_SEAL_SECONDS_MAX = 300.0
_SEALED = "This broker hands its place over to another,try again in a moment"
HANDED_OVER = "handed-over"
"""A word of the version text of a master that has stepped down."""


@attrs.define
class HandoverError(MetaServerError):
    """The node cannot hand over its place now."""

    reason: str

    def __str__(self) -> str:
        """The reason."""
        return self.reason


@attrs.define(eq=False)
class Handover:
    """The commands."""

    _broker: Broker
    _committer: Committer
    _timers: Timers
    _embedded: EmbeddedRegistry | None
    _timer: Timer | None = None

    def handlers(self) -> dict[str, Callable[[dict[str, object]], Awaitable[dict[str, object]]]]:
        """For the control socket."""
        return {"seal": self.seal, "unseal": self.unseal, "step-down": self.step_down}

    async def seal(self, request: dict[str, Any]) -> dict[str, object]:
        """Refuse puts for ``seconds``; answers when those taken before are answered, with all ends."""
        if self._broker.is_slave:
            raise HandoverError("this node is a slave, and takes no puts anyway")
        if self._broker.gate.fenced is not None:
            raise HandoverError(str(self._broker.gate.fenced))
        self._cancel_timer()
        seconds = min(float(request.get("seconds", 30.0)), _SEAL_SECONDS_MAX)
        self._broker.gate.seal(_SEALED)
        if not self._broker.gate.is_given_up:
            self._timer = self._timers.schedule(seconds, self._expired)
        await self._committer.wait_until_idle()
        return {"ends": self._ends(with_registry=False)}

    async def unseal(self, _request: dict[str, Any]) -> dict[str, object]:
        """Take puts again."""
        if self._broker.gate.is_given_up:
            raise HandoverError("this master has stepped down: only a restart makes it one again")
        self._cancel_timer()
        self._broker.gate.unseal()
        return {}

    async def step_down(self, _request: dict[str, Any]) -> dict[str, object]:
        """Be sealed for good, and end the registry; answers with all ends, which are the last."""
        if not self._broker.gate.is_given_up:
            if self._timer is None:
                raise HandoverError("this master is not sealed, or no longer")
            self._cancel_timer()
            self._broker.gate.give_up()
            if self._embedded is not None:
                await self._embedded.stop()
            self._broker.version_text += f" {HANDED_OVER}"
        return {"ends": self._ends(with_registry=True)}

    def _ends(self, *, with_registry: bool) -> list[dict[str, object]]:
        return [
            {"topic": topic, "partition": number, "end_offset": partition.log.end_offset}
            for (topic, number), partition in self._broker.partitions.items()
            if with_registry or topic != REGISTRY_TOPIC
        ]

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timers.cancel(self._timer)
            self._timer = None

    def _expired(self) -> None:
        self._timer = None
        self._broker.gate.unseal()
