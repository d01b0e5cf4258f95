"""One life of a broker: the parts of :mod:`metaserver.node.node`, on a simulated machine.

What is left out has no simulated counterpart: HTTP, the control socket, signals, the registry that a master
hosts over TCP (all nodes register in the one of the cluster instead), and the copying of configuration files.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import attrs
import trio

from metaserver.broker import Broker, Committer, DiskGuard, Server
from metaserver.broker.executor import wait_done
from metaserver.client.servers import format_address
from metaserver.config import SlaveConfig, apply_slave
from metaserver.config.server import parse_server_config
from metaserver.errors import MetaServerError
from metaserver.names import INTERNAL_TOPICS
from metaserver.node.lost_offsets import lost_offset
from metaserver.registry.paths import Layout, Replica
from metaserver.registry.registrar import Registrar
from metaserver.registry.registration import Registration, topics_to_register
from metaserver.replication import RegisteredPlace, Slave, Succession
from metaserver.replication.repairing import Repairer, RunningLogs
from metaserver.replication.scrubbing import Scrub
from metaserver.storage import MessageStore, StoreOptions
from metaserver.timers import Timers
from metaserver.transactions import State
from tests.simulation.disk import SimExecutor, SimPageCache, SimSyncer
from tests.simulation.network import SimListener, SimPoller, SimTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from random import Random

    from metaserver.config import ServerConfig
    from metaserver.names import TopicPartition
    from metaserver.replication import Successor
    from metaserver.replication.master import Address
    from tests.simulation.disk import SimDisk
    from tests.simulation.history import History
    from tests.simulation.network import Network
    from tests.simulation.registry import SimRegistry
    from tests.simulation.world import Process, SimClock, World

_Result = TypeVar("_Result")

DATA = Path("/data")
PORT = 8123
BROKER_ID = 0
_SEGMENT_BYTES = 4096
_SCRUB_INTERVAL_MS = 3000
_CHECKPOINT_BYTES = 1500
"""Less than a file may say, so that a short run writes many."""
_SLAVE_SEGMENT_BYTES = 2**63
"""As in metaserver.node.node: a slave ends a segment where its master does."""
_SERVER_INI = f"""\
[system]
brokerId={BROKER_ID}
serverPort={PORT}
dataPath={DATA}
numPartitions=1
unflushThreshold=0
unflushInterval=1000
maxSegmentSize={_SEGMENT_BYTES}
maxTransferSize=2048
minFreeDiskBytes=512
stopTimeoutInMills=3000
deletePolicy=delete,168
deleteWhen=0 0 6,18 * * ?
"""


@attrs.frozen
class Machine:
    """What outlives a node's lives."""

    name: str
    address: str
    number: int
    """Also its number as a slave."""
    disk: SimDisk
    clock: SimClock


@attrs.frozen
class Promotion:
    """What the operator has decided of a machine's data: it is the master's."""

    time: str
    """ISO 8601."""
    predecessor: Address | None
    """In whose place; None: in that of a master it had not found."""


def server_config(topics: str) -> ServerConfig:
    """Of every node, as read from a file."""
    config = parse_server_config(_SERVER_INI + topics, source="/conf/server.ini", base_directory=Path("/"))
    return attrs.evolve(config, checkpoint_bytes=_CHECKPOINT_BYTES, scrub_interval_ms=_SCRUB_INTERVAL_MS)


@attrs.frozen
class SimLogs(RunningLogs):
    """Those of a node, read in virtual time."""

    _executor: SimExecutor = attrs.field(kw_only=True)
    _history: History = attrs.field(kw_only=True)
    _has_journal: bool = attrs.field(kw_only=True)

    def names(self) -> list[TopicPartition]:
        """See :class:`metaserver.replication.repairing.Logs`."""
        return [name for name in super().names() if self._has_journal or name.topic not in INTERNAL_TOPICS]

    async def look(self, job: Callable[[], _Result]) -> _Result:
        """See :class:`metaserver.replication.repairing.Logs`."""
        return cast("_Result", await wait_done(partial(self._executor.submit, job)))

    async def own(self, name: TopicPartition, job: Callable[[], _Result]) -> _Result:
        """See :class:`metaserver.replication.repairing.Logs`."""
        log = self.log(name)

        def watched() -> _Result:
            before = log.unreadable
            result = job()
            self._history.skipped |= {(name, gap) for gap in log.unreadable if gap not in before}
            return result

        return await super().own(name, watched)


@attrs.define(eq=False)
class Node:
    """Runs until it is stopped, or its process dies."""

    world: World
    network: Network
    registry: SimRegistry
    machine: Machine
    process: Process
    random: Random
    topics: str
    is_slave: bool
    promotion: Promotion | None
    """Of a master that has another's place."""
    history: History
    has_scrub: bool = False
    scrubs_journal: bool = False
    scrub: Scrub | None = None
    broker: Broker = attrs.field(init=False)
    slave: Slave | None = None
    followed: Address | None = None
    """Of a slave: where its master was last."""
    committer: Committer = attrs.field(init=False)
    is_ready: bool = False
    _server: Server = attrs.field(init=False)
    _registrar: Registrar = attrs.field(init=False)
    _registering: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _stopping: trio.Event = attrs.Factory(trio.Event)
    _taken_max: int | None = None
    """Messages, from when it has learnt that it is master no more: what it had taken, or had decided."""

    def stop(self) -> None:
        """In order: leave the registry, answer what was taken, close the log."""
        self._stopping.set()

    async def run(self) -> None:
        """Raises StorageError where the store cannot be opened."""
        machine, process, disk = self.machine, self.process, self.machine.disk
        config, slave_config = server_config(self.topics), None
        if self.is_slave:
            slave_config = SlaveConfig(
                path=Path("/conf/async_slave.properties"),
                slave_id=machine.number,
                slave_group=f"meta-slave-group_{machine.number}",
            )
            config = apply_slave(config, slave_config)
        # A slave follows its master's offsets, so only a master's own writes begin an epoch.
        options = StoreOptions(
            segment_bytes_max=_SLAVE_SEGMENT_BYTES if self.is_slave else config.max_segment_size_bytes,
            checkpoint_bytes=config.checkpoint_bytes,
            epoch_origin=None if self.is_slave else self.random.getrandbits(64),
        )
        store = MessageStore.open(disk, machine.clock, options, config.data_paths, machine.name)
        self._say_what_was_found(store)
        poller, timers = SimPoller(self.network, process), Timers()
        executor, syncer = SimExecutor(self.world, process, disk), SimSyncer(self.world, process, disk)
        guard = DiskGuard(disk, config.data_paths, config.min_free_disk_bytes)
        guard.check()
        self.committer = Committer(executor, syncer, timers, machine.clock, guard)
        instance = self.world.random(f"instance of {machine.name} at {trio.current_time()}").getrandbits(64)
        broker = self.broker = Broker(
            config=config,
            store=store,
            committer=self.committer,
            clock=machine.clock,
            timers=timers,
            executor=executor,
            random=self.random,
            page_cache=SimPageCache(self.random),
            address=f"{machine.address}:{PORT}",
            master_address="nobody yet" if self.is_slave else None,
            instance=f"{instance:016x}",
        )
        listener = SimListener(self.network, process, PORT)
        poller.introduce(listener)
        self._server = Server(broker, cast("socket.socket", listener), poller, SimTransport)
        layout = Layout("/meta")
        self._registrar = Registrar(
            self._wanted, self.random, layout, 0.1, "the registry", self.registry.open_tree
        )
        broker.on_new_partition = self._registrar.wake
        async with trio.open_nursery() as nursery:
            for run in (poller.run, timers.run, guard.run, self._register):
                nursery.start_soon(run)
            if slave_config is not None:
                place = RegisteredPlace(
                    BROKER_ID, frozenset([(machine.address, PORT)]), layout, self.registry.open_nodes
                )
                self.slave = Slave(broker, slave_config, machine.clock, timers, place, filesystem=disk)
                place.on_change = lambda: self._look(place)
                nursery.start_soon(place.run)
                nursery.start_soon(self.slave.run)
            else:
                self._registrar.on_rival = self._fence
                self._registrar.judge = partial(lost_offset, broker)
                nursery.start_soon(self._make_succession(broker).run)
                await broker.transactions.load()
                self._check_journal(broker)
                if broker.gate.fenced is not None:
                    self._taken_max = self._taken_and_decided()  # What a start finds was decided before.
            if self.has_scrub:
                nursery.start_soon(self._make_scrub(broker, executor).run)
            nursery.start_soon(self._stop_when_asked)
            self.is_ready = True
            await self._server.serve()
            broker.transactions.stop()
            await self.committer.wait_until_idle()
            nursery.cancel_scope.cancel()
        if process.is_alive:
            store.close()

    async def _stop_when_asked(self) -> None:
        await self._stopping.wait()
        await self._registrar.stop()
        self._server.stop()

    async def _register(self) -> None:
        with self._registering:
            await self._registrar.run()

    def _make_scrub(self, broker: Broker, executor: SimExecutor) -> Scrub:
        """As metaserver.node.checking does."""
        logs = SimLogs(broker, executor=executor, history=self.history, has_journal=self.scrubs_journal)
        self.scrub = Scrub(broker, logs, Repairer(logs, self.machine.disk, self._other_replicas))
        broker.on_suspect = self.scrub.suspect
        broker.on_cut = self.scrub.repairer.forget
        return self.scrub

    async def _other_replicas(self) -> list[Address] | None:
        if self.is_slave:
            return None if self.followed is None else [self.followed]
        try:
            slaves = await self._registrar.slaves(BROKER_ID)
        except MetaServerError:
            return None
        return [one.address for one in slaves if one.address is not None] or None

    def _make_succession(self, broker: Broker) -> Succession:
        """As metaserver.node.succeeding does."""
        predecessor = None
        if self.promotion is not None:
            broker.promoted = self.promotion.time
            predecessor = self.promotion.predecessor
        succession = Succession(broker, predecessor, self._give_way)
        broker.on_successor = self._registrar.on_holder = succession.call
        return succession

    def _give_way(self, successor: Successor) -> None:
        self._fence(str(successor))
        self._registering.cancel()

    def _fence(self, rival: str) -> None:
        if self._taken_max is None:
            self.world.log(self.machine.name, f"is fenced: {rival}")
            self._taken_max = self._taken_and_decided()
        self.broker.gate.fence(rival)

    def _taken(self) -> int:
        return sum(traffic.messages for traffic in self.broker.traffic.values())

    def _taken_and_decided(self) -> int:
        """Commits under way go on, and are counted with each partition that has its part."""
        transactions = self.broker.transactions
        deciding = sum(one.message_count for one in transactions.table if one.state is State.COMMITTING)
        missing = [
            batch.count for one in transactions.commits.unapplied.values() for batch in one.missing.values()
        ]
        return self._taken() + deciding + sum(missing)

    def check(self) -> None:
        """Before its end: what it must not have done."""
        if self._taken_max is not None and self._taken() > self._taken_max:
            text = f"{self.machine.name} has taken puts after it knew that its place is another's"
            self.world.violations.append(text)

    def _check_journal(self, broker: Broker) -> None:
        """With a gap it may lack what was prepared: it is not taken for a whole one."""
        partition = broker.transactions.journal.partition
        if partition is not None and partition.log.unreadable and not broker.transactions.problem:
            text = f"{self.machine.name} takes transactions with gaps in the journal of those before"
            self.world.violations.append(text)

    def _look(self, place: RegisteredPlace) -> None:
        if place.address is not None:
            self.followed = place.address
            self.broker.master_address = format_address(*place.address)
        if self.slave is not None:
            self.slave.wake()

    def _wanted(self) -> Registration:
        config = self.broker.config
        names = [partition.name for partition in self.broker.partitions.values() if not partition.is_internal]
        replica = Replica(BROKER_ID, self.machine.number if self.is_slave else None)
        return Registration(
            replica, self.machine.address, PORT, config.checksum, topics_to_register(config, names)
        )

    def _say_what_was_found(self, store: MessageStore) -> None:
        for report in store.reports:
            if report.bytes_cut or report.damaged_ranges or report.holes or report.bytes_missing:
                self.world.log(
                    self.machine.name,
                    f"recovery of {report.topic_partition}: {report.bytes_cut} bytes cut, "
                    f"{report.bytes_missing} missing, damaged {list(report.damaged_ranges)}, "
                    f"holes {list(report.holes)}",
                )
        for name, error in store.failed.items():
            self.world.log(self.machine.name, f"cannot open {name}: {error}")
