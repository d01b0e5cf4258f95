"""The synchronous pair: the master's connection to its slave, and where the slave finds its master.

The master (*samsa*) calls its slave (*gregor*), whose address is in its file. A slave of ours is told to
follow, and is a slave like any other from then on. One of MetaQ's is sent every put
(:mod:`metaserver.broker.pair_master`).

Source: reference replication, part B.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker.pair_slave import STATUS_TEST_TOPIC
from metaserver.client import connect
from metaserver.client.connection import expect_text
from metaserver.client.servers import format_address
from metaserver.config.values import host_and_port
from metaserver.errors import ClientError, ConfigError
from metaserver.logs import get_logger
from metaserver.message import checksum
from metaserver.protocol import Result, Status, encode_pair, encode_sync

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.broker import Broker
    from metaserver.broker.pair_master import PairMaster
    from metaserver.client import BrokerConnection
    from metaserver.client.connection import Reply
    from metaserver.config import PairConfig
    from metaserver.replication.master import Address

PAIR_EXTENSION = "pair"
"""What a slave announces that follows who calls."""

_RECONNECT_SECONDS = 2.0
_HEARTBEAT_SECONDS = 1.0
_SILENCE_SECONDS = 5.0
_TEST_DATA = b"test"

_log = get_logger(__name__)


@attrs.define(eq=False)
class CalledPlace:
    """Where the slave's master is: wherever the one is that has called last. A MasterPlace."""

    _own_addresses: frozenset[Address]
    on_change: Callable[[], None] = lambda: None
    is_following: Callable[[], bool] = lambda: False
    """Whether the slave has a connection to the master it follows."""
    address: Address | None = None
    problem: str = "the master of the pair has not called yet"

    def followed(self) -> str | None:
        """The ``HOST:PORT`` of the master that is copied at the moment."""
        return format_address(*self.address) if self.address is not None and self.is_following() else None

    def call(self, text: str) -> str | None:
        """A master says where it is; why it is not followed, or None where it is."""
        try:
            address = host_and_port(text)
        except ConfigError as error:
            return str(error)
        if address in self._own_addresses:
            return f"{text} is the slave's own address"
        if address == self.address:
            return None
        if (followed := self.followed()) is not None:
            return f"This slave follows {followed} already"
        self.address, self.problem = address, ""
        _log.info("The master of the pair has called", master=text)
        self.on_change()
        return None


@attrs.define(eq=False)
class PairLink:
    """Keeps a master connected to its slave; run :meth:`run`."""

    _broker: Broker
    _master: PairMaster
    _config: PairConfig
    leave: Callable[[], None]
    """Called when too many puts in a row have failed at the slave: out of the registry."""
    join: Callable[[], None]
    """Called when the slave is well again: back into it."""
    problem: str = "there is no connection yet"
    """Why the slave does not copy; blank while it does, as far as is known."""
    _failures: int = 0
    _has_left: bool = False
    _unwell: trio.Event = attrs.Factory(trio.Event)

    async def run(self) -> None:
        """Connect, and connect again, until cancelled."""
        self._master.on_outcome = self._count
        while True:
            try:
                async with connect(*self._config.slave_address) as link:
                    await self._use(link)
            except ClientError as error:
                self._lost(str(error))
            await trio.sleep(_RECONNECT_SECONDS)

    @property
    def slave_address(self) -> str:
        """``HOST:PORT``."""
        return format_address(*self._config.slave_address)

    async def _use(self, link: BrokerConnection) -> None:
        try:
            if PAIR_EXTENSION in link.extensions:
                expect_text(await link.request(partial(encode_pair, self._broker.address), _SILENCE_SECONDS))
                self._master.is_copied = True
                self._found("it copies this broker")
            else:
                self._master.is_copied = False
                self._master.link = _Adapter(link)
                self._found("every put is sent on to it")
            async with trio.open_nursery() as nursery:
                if not self._master.is_copied:
                    nursery.start_soon(self._heal, link)
                reason = await link.wait_lost(_HEARTBEAT_SECONDS, _SILENCE_SECONDS)
                nursery.cancel_scope.cancel()
            raise reason
        finally:
            self._master.link = None

    async def _heal(self, link: BrokerConnection) -> None:
        """Whenever the slave is unwell: leave the registry, and come back when it is well."""
        while True:
            if not self._has_left:
                await self._unwell.wait()
                self._unwell = trio.Event()
                self._leave()
            while not await self._is_well(link):  # noqa: ASYNC110 - only the slave knows
                await trio.sleep(self._config.check_interval_ms / 1000)
            self._return()

    async def _is_well(self, link: BrokerConnection) -> bool:
        message_id = self._broker.message_ids.take(1)

        def encode(opaque: int) -> bytes:
            crc = checksum(_TEST_DATA)
            return encode_sync(STATUS_TEST_TOPIC, 0, _TEST_DATA, 0, message_id, crc, opaque)

        try:
            return _is_success(await link.request(encode, self._master.timeout_seconds))
        except ClientError:
            return False

    def _count(self, is_stored: bool) -> None:  # noqa: FBT001 - an outcome
        if is_stored:
            self._failures = 0
            return
        self._failures += 1
        if self._failures >= self._config.failures_max:
            self._failures = 0
            self._unwell.set()

    def _found(self, how: str) -> None:
        _log.info("Connected to the slave of the pair", slave=self.slave_address, how=how)
        self.problem = ""
        if self._has_left and self._master.is_copied:
            self._return()

    def _lost(self, reason: str) -> None:
        if self.problem != reason:
            _log.warning("The slave of the pair cannot be reached", slave=self.slave_address, reason=reason)
        self.problem = reason

    def _leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self.problem = f"{self._config.failures_max} puts in a row have failed at the slave"
            _log.error(
                "Put message to slave failed: out of the registry until it is well", slave=self.slave_address
            )
            self.leave()

    def _return(self) -> None:
        self._failures = 0
        if self._has_left:
            self._has_left = False
            self.problem = ""
            _log.warning("Slave URL is back.", slave=self.slave_address)
            self.join()


@attrs.frozen
class _Adapter:
    """A SyncLink of a connection."""

    _link: BrokerConnection

    def submit(self, encode: Callable[[int], bytes], settle: Callable[[bool], None]) -> None:
        self._link.submit(encode, lambda outcome: settle(_is_success(outcome)))


def _is_success(outcome: Reply | ClientError) -> bool:
    return isinstance(outcome, Result) and outcome.status == Status.SUCCESS
