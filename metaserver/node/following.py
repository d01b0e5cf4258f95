"""What a node has because it is a slave: it finds its master, copies it, and keeps to its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.broker import GREGOR_VERSION_TEXT, PairSlave, version_text
from metaserver.client import connect
from metaserver.client.connection import announced_registry
from metaserver.client.servers import format_address
from metaserver.errors import ClientError
from metaserver.logs import get_logger
from metaserver.node.listening import NodeError, advertised_host, own_addresses
from metaserver.node.own_config import LoadedConfig, OwnConfig
from metaserver.replication import CalledPlace, ConfigSync, FixedPlace, RegisteredPlace, Slave
from metaserver.replication.chain import format_chain
from metaserver.replication.master import meet

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.config import ServerConfig, SlaveConfig
    from metaserver.node.paths import NodePaths
    from metaserver.node.registry import Membership
    from metaserver.replication.config_sync import LocalConfig
    from metaserver.replication.master import Address
    from metaserver.timers import Timers

_log = get_logger(__name__)

_FIRST_SYNC_SECONDS = 3.0
"""A start waits so long for the master's configuration; without it the node starts with its own."""

UNKNOWN_MASTER = "(its address is not known yet)"
"""In the text of refused puts."""


def check_slave(config: ServerConfig, slave_config: SlaveConfig) -> None:
    """Raises NodeError where nothing says who the master is."""
    if slave_config.is_gregor:
        return
    if slave_config.master_address is None and config.zookeeper.connect is None:
        raise NodeError(
            f"{slave_config.path}: masterAddress is missing; write masterAddress=HOST:PORT of the master, or "
            "registryAddress=HOST:PORT of the registry that knows it"
        )


async def sync_before_start(
    config: ServerConfig, slave_config: SlaveConfig, paths: NodePaths, *, is_lenient: bool
) -> ServerConfig:
    """Take the master's configuration while all of it counts: in a running node [system] does not change.

    Returns the configuration to start with; it is the one given where the master does not answer in time.
    """
    loaded = LoadedConfig(config, slave_config, is_lenient)
    local = OwnConfig(slave_config, paths, is_lenient, lambda: loaded.config, loaded.reload)
    sync = ConfigSync(local, is_enabled=True)
    place = _place_of(config, slave_config, advertised_host(config))
    with trio.move_on_after(_FIRST_SYNC_SECONDS) as scope:
        async with trio.open_nursery() as nursery:
            if isinstance(place, RegisteredPlace):
                nursery.start_soon(place.run)
            try:
                address = place.address if isinstance(place, FixedPlace) else await _wait_found(place)
                async with connect(*address) as link:
                    await sync.look(link, await meet(link, config.broker_id, _FIRST_SYNC_SECONDS))
            except ClientError as error:
                _log.warning("The master's configuration cannot be had at the start", reason=str(error))
            nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        _log.warning("The master's configuration cannot be had at the start", reason="no answer in time")
    return loaded.config


@attrs.define(eq=False)
class Following:
    """Run :meth:`run` as long as the node is a slave."""

    slave: Slave
    config_sync: ConfigSync
    _broker: Broker
    _place: FixedPlace | RegisteredPlace | CalledPlace
    _membership: Membership

    @classmethod
    def of(
        cls,
        broker: Broker,
        slave_config: SlaveConfig,
        local: LocalConfig,
        host: str,
        membership: Membership,
        timers: Timers,
    ) -> Following:
        """Of a broker whose ports are known; ``host`` is what others are told. Raises NodeError."""
        config = broker.config
        place = _place_of(config, slave_config, host)
        slave = Slave(broker, slave_config, broker.clock, timers, place)
        config_sync = ConfigSync(local, slave_config.auto_sync_master_config)
        slave.on_facts = config_sync.told
        broker.describe_upstream = lambda: format_chain(slave.upstream)
        membership.merged_checksum = lambda: config_sync.report().merged_checksum
        config_sync.on_change = membership.wake
        following = cls(slave, config_sync, broker, place, membership)
        if isinstance(place, RegisteredPlace | CalledPlace):
            place.on_change = following._look
        if isinstance(place, CalledPlace):
            place.is_following = slave.is_connected
            broker.pair_slave = PairSlave(broker, place.call, place.followed)
            broker.version_text = GREGOR_VERSION_TEXT
        elif config.zookeeper.is_embedded:
            slave.on_connected = following._follow_registry
        return following

    @property
    def master_address(self) -> Address | None:
        """Where the master is, as far as is known."""
        return self._place.address

    async def run(self, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the scope that it reports is cancelled."""
        with trio.CancelScope() as scope:
            task_status.started(scope)
            async with trio.open_nursery() as nursery:
                if isinstance(self._place, RegisteredPlace):
                    nursery.start_soon(self._place.run)
                nursery.start_soon(self.config_sync.run)
                nursery.start_soon(self.slave.run)

    def _look(self) -> None:
        address = self._place.address
        if address is not None:
            self._broker.master_address = format_address(*address)
        self.slave.wake()

    def _follow_registry(self, version: str) -> None:
        """Register in the registry that the master hosts, wherever that is this time, and tell who asks."""
        address = self._place.address
        registry = None if address is None else announced_registry(version, address[0])
        self._membership.follow(registry)
        text = version_text(registry_elsewhere=registry)
        if text != self._broker.version_text:
            self._broker.version_text = text
            self._broker.acknowledgements.disconnect_slaves()


def _place_of(
    config: ServerConfig, slave_config: SlaveConfig, host: str
) -> FixedPlace | RegisteredPlace | CalledPlace:
    own = own_addresses(config, host)
    if slave_config.is_gregor:
        return CalledPlace(own)
    if slave_config.master_address is None:
        return RegisteredPlace.of(config.broker_id, own, config.zookeeper)
    if slave_config.master_address in own:
        raise NodeError(
            f"{slave_config.path}: masterAddress is the slave's own address; "
            "write that of its master, or give the slave another serverPort"
        )
    return FixedPlace(slave_config.master_address)


async def _wait_found(place: RegisteredPlace | CalledPlace) -> Address:
    while (address := place.address) is None:
        changed = trio.Event()
        place.on_change = changed.set
        await changed.wait()
    return address
