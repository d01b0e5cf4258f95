"""What a node has because it is a slave: it finds its master, and copies it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.client import announced_registry_port
from metaserver.node.listening import NodeError, bracketed, own_host
from metaserver.replication import FixedPlace, RegisteredPlace, Slave

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.config import ServerConfig, SlaveConfig
    from metaserver.node.registry import Membership
    from metaserver.replication.master import Address
    from metaserver.timers import Timers

UNKNOWN_MASTER = "(its address is not known yet)"
"""In the text of refused puts."""


def check_slave(config: ServerConfig, slave_config: SlaveConfig) -> None:
    """Raises NodeError where nothing says who the master is."""
    if slave_config.master_address is None and config.zookeeper.connect is None:
        raise NodeError(
            f"{slave_config.path}: masterAddress is missing; write masterAddress=HOST:PORT of the master, or "
            "registryAddress=HOST:PORT of the registry that knows it"
        )


@attrs.define(eq=False)
class Following:
    """Run :meth:`run` as long as the node is a slave."""

    slave: Slave
    _broker: Broker
    _place: FixedPlace | RegisteredPlace
    _membership: Membership

    @classmethod
    def of(
        cls, broker: Broker, slave_config: SlaveConfig, host: str, membership: Membership, timers: Timers
    ) -> Following:
        """Of a broker whose ports are known; ``host`` is what others are told. Raises NodeError."""
        config, own = broker.config, _own_addresses(broker.config, host)
        place: FixedPlace | RegisteredPlace
        if slave_config.master_address is None:
            place = RegisteredPlace.of(config.broker_id, own, config.zookeeper)
        elif slave_config.master_address in own:
            raise NodeError(
                f"{slave_config.path}: masterAddress is the slave's own address; "
                "write that of its master, or give the slave another serverPort"
            )
        else:
            place = FixedPlace(slave_config.master_address)
        slave = Slave(broker, slave_config, broker.clock, timers, place)
        following = cls(slave, broker, place, membership)
        if isinstance(place, RegisteredPlace):
            place.on_change = following._look
        if config.zookeeper.is_embedded:
            slave.on_connected = following._follow_registry
        return following

    async def run(self, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED) -> None:
        """Until the scope that it reports is cancelled."""
        with trio.CancelScope() as scope:
            task_status.started(scope)
            async with trio.open_nursery() as nursery:
                if isinstance(self._place, RegisteredPlace):
                    nursery.start_soon(self._place.run)
                nursery.start_soon(self.slave.run)

    def _look(self) -> None:
        address = self._place.address
        if address is not None:
            self._broker.master_address = f"{bracketed(address[0])}:{address[1]}"
        self.slave.wake()

    def _follow_registry(self, version: str) -> None:
        """Register in the registry that the master hosts, wherever that is this time."""
        port, address = announced_registry_port(version), self._place.address
        if port is None or address is None:
            self._membership.follow(None)
        else:
            self._membership.follow(f"{bracketed(address[0])}:{port}")


def _own_addresses(config: ServerConfig, host: str) -> frozenset[Address]:
    names = {host, own_host(config)}
    if not names.isdisjoint(("127.0.0.1", "[::1]")):
        names.add("localhost")
    return frozenset((name.strip("[]"), config.server_port) for name in names)
