"""The registry of a node: the one a master hosts, and the one, here or elsewhere, where it registers."""

from __future__ import annotations

import os
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import CorruptLogError, MetaServerError, OffsetInHoleError
from metaserver.logs import get_logger
from metaserver.names import REGISTRY_LOG
from metaserver.node.lost_offsets import lost_offset
from metaserver.node.recovered_offsets import recovered_offset
from metaserver.registry.embedded import LogJournal, RegistryServer, ServerOptions
from metaserver.registry.paths import Layout, Replica, format_uri
from metaserver.registry.registration import Registration, RegistrationReport, topics_to_register

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from metaserver.broker import Broker, Executor, Poller, Syncer
    from metaserver.config import SlaveConfig
    from metaserver.registry.embedded import RegistryStatistics
    from metaserver.registry.registrar import Registrar
    from metaserver.registry.registration import RegisteredSlave

_log = get_logger(__name__)

_DAMAGED = (
    "repair it from a slave (`metaServer repair --from HOST:PORT`) and start again, or promote one; without "
    "a slave stop the broker, move the directory __registry-0 away, with it the offsets of groups, and start"
)
_STOP_SECONDS_MAX = 5.0
"""For the append under way."""
_ASK_SECONDS = 1.0
"""For the registry to say which slaves there are."""


@attrs.define(eq=False)
class EmbeddedRegistry:
    """The registry that a master hosts. It may fail; the broker goes on without it, and says so."""

    _broker: Broker
    _host: str
    """As clients are told."""
    _listener: socket.socket
    _poller: Poller
    _executor: Executor
    _syncer: Syncer
    port: int = attrs.field(init=False)
    _server: RegistryServer | None = None
    _failure: str = ""
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _opened: trio.Event = attrs.Factory(trio.Event)
    """Set when it answers, or never will."""
    _finished: trio.Event = attrs.Factory(trio.Event)

    def __attrs_post_init__(self) -> None:
        """Listening, but not yet answering."""
        self.port = self._listener.getsockname()[1]

    async def run(self) -> None:
        """Serve until :meth:`stop` or cancelled. Does not raise."""
        try:
            with self._scope:
                await self._serve()
        except MetaServerError as error:
            is_damaged = isinstance(error, CorruptLogError | OffsetInHoleError)
            self._failure = f"{error}; {_DAMAGED}" if is_damaged else str(error)
            _log.error("The embedded registry does not serve", reason=self._failure)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the broker does its work
            _log.exception("The embedded registry does not serve")
            self._failure = repr(error)
        finally:
            self._listener.close()
            self._opened.set()
            self._finished.set()

    async def wait_opened(self) -> None:
        """Returns when it answers, or never will."""
        await self._opened.wait()

    def close(self) -> None:
        """Close the port, and do not wait."""
        self._scope.cancel()

    async def stop(self) -> None:
        """Close the port; returns when its log is at rest. :meth:`run` and the poller must be running."""
        self.close()
        await self._finished.wait()
        if self._server is not None:
            with trio.move_on_after(_STOP_SECONDS_MAX):
                await self._server.wait_until_idle()

    @property
    def failure(self) -> str:
        """Why it does not serve; blank while it does."""
        statistics = self.statistics
        return self._failure or (statistics.failure if statistics is not None else None) or ""

    @property
    def statistics(self) -> RegistryStatistics | None:
        """In figures; None before it answers, and where it never did."""
        return self._server.statistics() if self._server is not None and self._opened.is_set() else None

    def renew(self) -> bool:
        """See :class:`metaserver.replication.repairing.HostedRegistry`."""
        if self._finished.is_set():
            return False
        if self._server is not None and self._opened.is_set():
            self._server.renew()
        return True

    def has_sessions(self) -> bool:
        """Whether anybody is there who could notice something."""
        statistics = self.statistics
        return not self.failure and statistics is not None and statistics.sessions > 0

    async def _serve(self) -> None:
        broker, config = self._broker, self._broker.config
        partition = broker.open_partition(REGISTRY_LOG, config.defaults)
        journal = LogJournal(
            partition.log, broker.message_ids, self._executor, self._syncer, partition.publish
        )
        own_node = Layout(config.zookeeper.root).replica(Replica(config.broker_id))
        server = RegistryServer(
            journal,
            self._listener,
            self._poller,
            broker.clock,
            os.urandom,
            ServerOptions(own_node=own_node, own_address=format_uri(self._host, config.server_port)),
        )
        await server.load()
        self._server = server
        self._opened.set()
        await server.serve()


@attrs.define(eq=False)
class Membership:
    """Keeps the node registered, in the registry it is told of with :meth:`follow`."""

    _broker: Broker
    _replica: Replica
    _host: str
    """As clients are told."""
    _is_noticed: Callable[[], bool]
    """Whether there is somebody to notice that the node leaves."""
    merged_checksum: Callable[[], int | None] = lambda: None
    """Of a slave: what it announces of its configuration."""
    recovers_offsets: bool = False
    """Whether groups are moved to where their messages are, as ``recoverOffset`` says."""
    on_rival: Callable[[str], None] | None = None
    """Told of another broker in the place of this one, which it has held."""
    on_holder: Callable[[str], object] | None = None
    """Told who has the place that this one waits for, ``HOST:PORT``."""
    _servers: str | None = None
    """``HOST:PORT,HOST:PORT/PATH``; None: not known, or there is none."""
    _registrar: Registrar | None = None
    _begun: trio.Event = attrs.Factory(trio.Event)
    _change: trio.Event = attrs.Factory(trio.Event)
    _is_stopping: bool = False

    @classmethod
    def of(
        cls, broker: Broker, slave_config: SlaveConfig | None, host: str, is_noticed: Callable[[], bool]
    ) -> Membership:
        """Of a broker in its role."""
        replica = Replica(broker.config.broker_id, None if slave_config is None else slave_config.slave_id)
        return cls(broker, replica, host, is_noticed)

    def follow(self, servers: str | None) -> None:
        """Register there from now on, and nowhere else."""
        if servers != self._servers:
            # The one before may take a moment to close its session; what it reports is of the past.
            self._servers, self._registrar = servers, None
            self._change.set()

    async def run(self) -> None:
        """Register, and stay registered, until :meth:`stop` or cancelled."""
        while not self._is_stopping:
            self._change = trio.Event()
            servers = self._servers
            if servers is None:
                await self._change.wait()
                continue
            registrar = await self._make_registrar(servers)
            if not self._is_wanted(servers):
                continue
            self._registrar = registrar
            self._begun.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._cancel_on_change, nursery.cancel_scope)
                await registrar.run()
                nursery.cancel_scope.cancel()

    def wake(self) -> None:
        """Look again: the broker has something else to announce."""
        if self._registrar is not None:
            self._registrar.wake()

    async def wait_registered(self) -> None:
        """Returns when everything has been registered once."""
        await self._begun.wait()
        if self._registrar is not None:
            await self._registrar.wait_registered()

    async def stop(self) -> None:
        """Deregister, and give others time to notice. :meth:`run` must be running, and returns."""
        self._is_stopping = True
        if self._registrar is None:
            self._change.set()
        else:
            await self._registrar.stop()

    def report(self) -> RegistrationReport | None:
        """How things stand; None while there is no registry to register in."""
        if self._registrar is not None:
            return self._registrar.report()
        if self._servers is None:
            return None
        return RegistrationReport(self._servers, problem="registration has not begun", is_beginning=True)

    async def slaves(self) -> list[RegisteredSlave]:
        """Those of this broker that stand in the registry; none while it does not answer soon."""
        return await self.known_slaves() or []

    async def known_slaves(self) -> list[RegisteredSlave] | None:
        """The same; None while it cannot be known, for no registry answers soon."""
        if self._registrar is None:
            return None
        with trio.move_on_after(_ASK_SECONDS):
            try:
                return await self._registrar.slaves(self._replica.broker_id)
            except MetaServerError:
                pass
        return None

    def _is_wanted(self, servers: str) -> bool:
        return not self._is_stopping and servers == self._servers

    async def _cancel_on_change(self, scope: trio.CancelScope) -> None:
        await self._change.wait()
        scope.cancel()

    async def _make_registrar(self, servers: str) -> Registrar:
        # kazoo takes a while to import: not before the node is ready, and not on the loop.
        make = await trio.to_thread.run_sync(_registrar_factory)
        config = attrs.evolve(self._broker.config.zookeeper, connect=servers)
        registrar = make(config, self._wanted, SystemRandom(), self._is_noticed)
        registrar.on_rival, registrar.on_holder = self.on_rival, self.on_holder
        if self._replica.slave_id is None:
            registrar.judge = partial(lost_offset, self._broker)
        if self.recovers_offsets:
            registrar.relocate = partial(recovered_offset, self._broker)
        return registrar

    def _wanted(self) -> Registration:
        config, partitions = self._broker.config, self._broker.partitions.values()
        names = [partition.name for partition in partitions if not partition.is_internal]
        topics = topics_to_register(config, names)
        merged_checksum = None if self._replica.slave_id is None else self.merged_checksum()
        return Registration(
            self._replica, self._host, config.server_port, config.checksum, topics, merged_checksum
        )


def _registrar_factory() -> Callable[..., Registrar]:
    from metaserver.registry.registrar import Registrar  # noqa: PLC0415

    return Registrar.for_zookeeper
