"""One connection to each broker, shared by all of a session; kept alive, and made anew when it breaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.client.backoff import Backoff
from metaserver.client.connection import BrokerConnection, connect
from metaserver.client.servers import format_address
from metaserver.errors import BrokerUnreachableError, ClientError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from metaserver.client.cluster import Address
    from metaserver.client.scope import BackgroundTasks

_log = get_logger(__name__)

RECONNECT_SECONDS_MIN = 0.05
RECONNECT_SECONDS_MAX = 2.0
HEARTBEAT_SECONDS = 10.0
"""So often a broker is asked for a sign of life; it is given up when nothing at all comes for so long."""
_FIRST_CONNECT_SECONDS = 10.0
NOT_YET = "not connected yet"
"""What is told of a broker that is being connected to for the first time: nothing has failed so far."""


@attrs.define(eq=False)
class BrokerLink:
    """One broker: a connection, or the attempt to have one."""

    address: Address
    connection: BrokerConnection | None = None
    """None while there is none."""
    problem: str = NOT_YET
    """Why not; the last reason where there is a connection again."""
    _listeners: dict[Callable[[], None], None] = attrs.Factory(dict)
    _change: anyio.Event = attrs.Factory(anyio.Event)
    _scope: anyio.CancelScope = attrs.Factory(anyio.CancelScope)

    @property
    def usable(self) -> BrokerConnection | None:
        """The connection, unless it has just broken."""
        connection = self.connection
        return None if connection is None or connection.is_broken else connection

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have it called whenever the connection comes or goes; it must not raise."""
        self._listeners[on_change] = None

    def ignore(self, on_change: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.pop(on_change, None)

    async def wait_connected(self, timeout_seconds: float = _FIRST_CONNECT_SECONDS) -> BrokerConnection:
        """The connection, as soon as there is one; raises BrokerUnreachableError."""
        with anyio.move_on_after(timeout_seconds):
            while self.connection is None:
                await self._change.wait()
            return self.connection
        raise BrokerUnreachableError(format_address(*self.address), self.problem, was_sent=False)

    async def run(self) -> None:
        """Connect, keep alive and connect again, until cancelled or closed."""
        backoff = Backoff(RECONNECT_SECONDS_MIN, RECONNECT_SECONDS_MAX)
        with self._scope:
            while True:
                try:
                    async with connect(*self.address) as connection:
                        backoff.reset()
                        self._set(connection)
                        raise await connection.wait_lost(HEARTBEAT_SECONDS, HEARTBEAT_SECONDS)
                except ClientError as error:
                    reason = error.reason if isinstance(error, BrokerUnreachableError) else str(error)
                    if reason != self.problem:
                        _log.info(
                            "Broker cannot be reached", address=format_address(*self.address), reason=reason
                        )
                    self.problem = reason
                finally:
                    self._set(None)
                await anyio.sleep(backoff.next_seconds())

    def close(self) -> None:
        """Stop running; requests under way are settled with BrokerUnreachableError."""
        self._scope.cancel()

    def _set(self, connection: BrokerConnection | None) -> None:
        if connection is self.connection:
            return
        previous, self.connection = self.connection, connection
        if previous is not None:
            previous.break_off("the connection was closed")
        change, self._change = self._change, anyio.Event()
        change.set()
        for on_change in list(self._listeners):
            on_change()


@attrs.define(eq=False)
class BrokerPool:
    """Links by address, each in a task of its own."""

    _tasks: BackgroundTasks
    _links: dict[Address, BrokerLink] = attrs.Factory(dict)

    def link(self, address: Address) -> BrokerLink:
        """The link to a broker; the first to ask begins to connect."""
        found = self._links.get(address)
        if found is None:
            found = self._links[address] = BrokerLink(address)
            self._tasks.start_soon(found.run)
        return found

    def retain(self, addresses: Collection[Address]) -> None:
        """Close the links to all other brokers, as far as nobody waits for a reply of theirs."""
        for address, link in list(self._links.items()):
            if address not in addresses and (link.connection is None or not link.connection.outstanding):
                del self._links[address]
                link.close()
