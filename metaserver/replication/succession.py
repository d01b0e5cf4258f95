"""Two masters of one name, where no registry is above both: the one that was promoted later remains.

A promoted broker knows in whose place it is. It looks there as long as it lives, and where a broker answers
that is a master still, or again, tells it so (the extension ``successor``, docs/protocol.md). It may have
found no master before it was promoted; then a registry tells the one that waits there for the name. Nobody is
believed who only says so: a master that is told goes and asks. It gives way to a broker of its name that was
promoted, later than it was itself if it was, and whose log has an epoch in common with its own: the other
was its replica once.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import connect
from metaserver.client.connection import announced_registry, expect_text
from metaserver.client.servers import format_address
from metaserver.config.values import host_and_port
from metaserver.errors import ClientError, ConfigError
from metaserver.logs import get_logger
from metaserver.names import INTERNAL_TOPICS
from metaserver.protocol import encode_successor
from metaserver.replication.master import ask_epochs, ask_facts

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker import Broker
    from metaserver.client import BrokerConnection
    from metaserver.replication.master import Address, MasterFacts

SUCCESSOR_EXTENSION = "successor"

_LOOK_SECONDS = 2.0
_ANSWER_SECONDS = 5.0

_log = get_logger(__name__)


@attrs.frozen
class Successor:
    """The broker that has this one's place."""

    address: str
    promoted: str
    """When, ISO 8601."""
    registry: str | None
    """Where it hosts or uses one, ``HOST:PORT``."""

    def __str__(self) -> str:
        """For whoever is refused."""
        return f"{self.address} was promoted at {self.promoted} in its place"


@attrs.define(eq=False)
class Succession:
    """Of a master; run :meth:`run`."""

    _broker: Broker
    _predecessor: Address | None
    """In whose place the broker was promoted; None: in nobody's."""
    _on_successor: Callable[[Successor], None]
    """Told once."""
    problem: str = ""
    """What an operator must do about a second master; blank: there is none, as far as is known."""
    _caller: Address | None = None
    """Who said so last, and was not asked yet."""
    _refused: tuple[Address, str] | None = None
    """Who was asked last and has not this broker's place, and why."""
    _wake: trio.Event = attrs.Factory(trio.Event)

    def call(self, text: str) -> str | None:
        """Somebody is said to have this broker's place, ``HOST:PORT``; why it is not looked at, or None."""
        try:
            self._caller = host_and_port(text)
        except ConfigError as error:
            return str(error)
        self._wake.set()
        return None

    async def run(self) -> None:
        """Until cancelled. Does not raise."""
        async with trio.open_nursery() as nursery:
            if self._predecessor is not None:
                nursery.start_soon(self._watch, self._predecessor)
            await self._wait_succeeded()

    # The one that was promoted.

    async def _watch(self, predecessor: Address) -> None:
        name = format_address(*predecessor)
        while True:
            try:
                async with connect(*predecessor) as link:
                    facts = await ask_facts(link, _ANSWER_SECONDS)
                    # What goes wrong with one that has answered does not mean that it is away.
                    with suppress(ClientError):
                        await self._watch_over(link, name, facts)
            except ClientError:
                self._say("")  # It is away, as it should be.
            await trio.sleep(_LOOK_SECONDS)

    async def _watch_over(self, link: BrokerConnection, name: str, facts: MasterFacts) -> None:
        broker = self._broker
        while True:
            if self._no_rival(facts) or facts.promoted > broker.promoted:
                self._say("")  # It is no second master, or will tell this one.
            else:
                self._say(
                    f"{name}, whose place this master took at {broker.promoted}, runs as a master too: what "
                    f"it still takes is lost to this one. On its machine: metaServer follow {broker.address}"
                )
                if SUCCESSOR_EXTENSION in link.extensions:
                    encode = partial(encode_successor, broker.address)
                    expect_text(await link.request(encode, _ANSWER_SECONDS))
            await trio.sleep(_LOOK_SECONDS)
            facts = await ask_facts(link, _ANSWER_SECONDS)

    def _no_rival(self, facts: MasterFacts) -> str:
        """Why that is no other master of this broker's name; blank where it is one."""
        if facts.instance == self._broker.instance:
            return "it is this broker itself"
        if facts.broker_id != self._broker.config.broker_id:
            return f"it is broker {facts.broker_id}"
        return "it is a slave" if facts.is_slave else ""

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.error("There are two masters", reason=problem)
        self.problem = problem

    # The one that is told.

    async def _wait_succeeded(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            caller, self._caller = self._caller, None
            if caller is None:
                continue
            try:
                async with connect(*caller) as link:
                    successor = await self._judge(link, caller)
            except ClientError as error:
                self._refuse(caller, f"it cannot be asked: {error}")
                continue
            if successor is not None:
                self._on_successor(successor)
                await trio.sleep_forever()

    async def _judge(self, link: BrokerConnection, caller: Address) -> Successor | None:
        facts = await ask_facts(link, _ANSWER_SECONDS)
        refusal = self._refusal(facts)
        if not refusal and not await self._was_a_replica(link):
            refusal = "its log has nothing of this broker's"
        if refusal:
            self._refuse(caller, refusal)
            return None
        return Successor(format_address(*caller), facts.promoted, announced_registry(link.version, caller[0]))

    def _refuse(self, caller: Address, reason: str) -> None:
        """Say so once: it may be told of again and again."""
        if (caller, reason) != self._refused:
            _log.warning("Not succeeded", address=format_address(*caller), reason=reason)
        self._refused = caller, reason

    def _refusal(self, facts: MasterFacts) -> str:
        broker = self._broker
        if reason := self._no_rival(facts):
            return reason
        if not facts.promoted:
            return "it was never promoted"
        if facts.promoted <= broker.promoted:
            return f"it was promoted at {facts.promoted}, and this broker later, at {broker.promoted}"
        return ""

    async def _was_a_replica(self, link: BrokerConnection) -> bool:
        for name, epochs in list(self._broker.store.epochs.items()):
            own = {(epoch.number, epoch.origin) for epoch in epochs.chain.epochs}
            if name.topic in INTERNAL_TOPICS or not own:
                continue
            try:
                chain = await ask_epochs(link, name, 0, _ANSWER_SECONDS)
            except (ClientError, ValueError):
                continue
            if own & {(epoch.number, epoch.origin) for epoch in chain.epochs}:
                return True
        return False
