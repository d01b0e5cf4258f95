"""One process is one node: store, broker, control socket, HTTP, and on a slave the replication.

Order of a start: the ports are opened, the data directory is locked and recovered, a master's own registry
is read, then come the control socket and HTTP; only then is the node ready. A failure of any step ends the
start, but for the registry's; nothing half-started stays.

Order of a stop: the broker leaves the registry and gives others time to notice, no more requests are read,
what was taken is answered, its own registry closes, logs are synced and marked clean, the lock is given back.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from contextlib import ExitStack
from functools import partial
from random import SystemRandom
from typing import TYPE_CHECKING

import attrs
import trio
from prometheus_client import CollectorRegistry

from metaserver import descriptors
from metaserver.broker import (
    Broker,
    Committer,
    DiskGuard,
    KernelPageCache,
    PairMaster,
    Poller,
    Retention,
    Server,
    Syncer,
    ThreadExecutor,
    make_syncer,
    version_text,
)
from metaserver.client.servers import format_address
from metaserver.config import adopt_topics, apply_slave, diff_configs, load_server_config
from metaserver.config.users import load_users
from metaserver.control.server import serve_control
from metaserver.errors import ConfigError
from metaserver.http import HttpSource, serve_http
from metaserver.logs import get_logger, keep_recent_lines
from metaserver.metrics import BrokerMetrics
from metaserver.node.checking import Checking
from metaserver.node.clock import SystemClock, utc_offset_seconds
from metaserver.node.cluster_session import ClusterSession
from metaserver.node.following import UNKNOWN_MASTER, Following, check_slave, sync_before_start
from metaserver.node.handover import Handover
from metaserver.node.http_door import HttpDoor
from metaserver.node.listening import advertised_host, listen, own_host
from metaserver.node.local_requests import LocalRequests
from metaserver.node.own_config import OwnConfig
from metaserver.node.registry import EmbeddedRegistry, Membership
from metaserver.node.reporting import Reporter
from metaserver.node.service_manager import ServiceManager, own_service_manager
from metaserver.node.succeeding import make_succession
from metaserver.node.topics import TopicChanges
from metaserver.node.transactions import load_transactions, transaction_handlers
from metaserver.replication import PairLink, Succession
from metaserver.storage import MessageStore, RealFileSystem, StoreOptions
from metaserver.timers import Timers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.config import ServerConfig, SlaveConfig
    from metaserver.config.users import Users
    from metaserver.logs import LogFormat, RecentLines
    from metaserver.node.paths import NodePaths
    from metaserver.node.role import Role

_log = get_logger(__name__)

_SWITCH_SECONDS = 0.001
"""A disk thread that is done waits no longer than this for a busy loop."""
_SEGMENT_BYTES_OF_A_SLAVE = 2**63
"""A slave ends a segment where its master does, never by itself."""
_REGISTRATION_SECONDS = 3.0
"""A start waits so long for ZooKeeper; a broker that is not registered by then is ready all the same."""
_RECENT_LINES = 1000
"""Of the log, for the console."""
_GARBAGE_THRESHOLD = 20_000
"""Requests make few objects that reference each other: the collector may look seldom."""


@attrs.frozen
class NodeAddresses:
    """Where a ready node answers."""

    address: str
    """``HOST:PORT`` of the broker, as advertised."""
    port: int
    http_port: int
    registry_port: int | None
    """Of the embedded registry; None where it hosts none."""


async def run_node(
    config: ServerConfig,
    slave_config: SlaveConfig | None,
    paths: NodePaths,
    on_ready: Callable[[NodeAddresses], None],
    *,
    is_lenient: bool = False,
    log_format: LogFormat = "text",
    role: Role | None = None,
) -> None:
    """Run until SIGTERM, SIGINT or the ``stop`` command; returns after a clean stop.

    ``is_lenient``: a reload passes over keys it does not know, as the start did. ``log_format`` is only
    told, like that, to whoever starts the node again. ``role``: where the two configurations come from.
    Raises NodeError, StorageError and others of :mod:`metaserver.errors` when the start fails.
    """
    if slave_config is not None:
        check_slave(config, slave_config)
        if slave_config.auto_sync_master_config:
            config = await sync_before_start(config, slave_config, paths, is_lenient=is_lenient)
    paths.logs_directory.mkdir(parents=True, exist_ok=True)
    sys.setswitchinterval(_SWITCH_SECONDS)
    node = _Node(config, slave_config, paths, on_ready, is_lenient, log_format, role)
    try:
        await node.run()
    except BaseExceptionGroup as group:
        raise _first(group) from group


@attrs.frozen(eq=False)
class _Ground:
    """What has to be given back, whatever becomes of the node."""

    store: MessageStore
    poller: Poller
    executor: ThreadExecutor
    syncer: Syncer
    listener: socket.socket
    registry_listener: socket.socket | None
    registry_port: int | None


@attrs.frozen(eq=False)
class _Parts:
    """The node, put together and not yet running."""

    broker: Broker
    committer: Committer
    timers: Timers
    disk: DiskGuard
    following: Following | None
    pair: PairLink | None
    succession: Succession | None
    embedded: EmbeddedRegistry | None
    membership: Membership
    checking: Checking
    reporter: Reporter
    requests: LocalRequests
    cluster: ClusterSession


@attrs.define(eq=False)
class _Node:
    _config: ServerConfig
    _slave_config: SlaveConfig | None
    _paths: NodePaths
    _on_ready: Callable[[NodeAddresses], None]
    _is_lenient: bool
    _log_format: LogFormat
    _role: Role | None = None
    _membership: Membership | None = None
    _door: HttpDoor | None = None
    _clock: SystemClock = attrs.Factory(SystemClock)
    _recent: RecentLines = attrs.Factory(lambda: keep_recent_lines(_RECENT_LINES))
    _service: ServiceManager = attrs.Factory(own_service_manager)

    async def run(self) -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(listen(self._config, self._config.server_port, "serverPort"))
            port: int = listener.getsockname()[1]
            config = self._config = attrs.evolve(self._config, server_port=port)
            registry_listener = registry_port = None
            if self._slave_config is None and config.zookeeper.is_embedded:
                wanted_port = config.zookeeper.registry_port
                registry_listener = stack.enter_context(listen(config, wanted_port, "registryPort"))
                registry_port = registry_listener.getsockname()[1]
            store = self._open_store()
            stack.callback(store.close)
            poller = Poller()
            stack.callback(poller.close)
            executor = ThreadExecutor(config.flush_thread_count, poller)
            stack.callback(executor.close)
            syncer = make_syncer(poller, executor)
            stack.callback(syncer.close)
            ground = _Ground(store, poller, executor, syncer, listener, registry_listener, registry_port)
            await self._serve(ground, self._build(ground))
        _log.info("Stop metamorphosis server successfully")

    def _build(self, ground: _Ground) -> _Parts:
        config, slave_config = self._config, self._slave_config
        store, executor, syncer = ground.store, ground.executor, ground.syncer
        timers = Timers()
        disk = DiskGuard(RealFileSystem(), config.data_paths, config.min_free_disk_bytes)
        disk.check()
        committer = Committer(executor, syncer, timers, self._clock, disk)
        host = advertised_host(config)
        master_address = None
        if slave_config is not None:
            master = slave_config.master_address
            master_address = UNKNOWN_MASTER if master is None else format_address(*master)
        broker = Broker(
            config=config,
            store=store,
            committer=committer,
            clock=self._clock,
            timers=timers,
            executor=executor,
            random=SystemRandom(),
            page_cache=KernelPageCache(),
            address=f"{host}:{config.server_port}",
            master_address=master_address,
            version_text=version_text(ground.registry_port),
        )
        pair_config = None if self._role is None else self._role.pair
        if pair_config is not None:
            uri = f"meta://{format_address(*pair_config.slave_address)}"
            broker.pair_master = PairMaster(uri, pair_config.send_timeout_ms / 1000, timers)
        embedded = None
        if ground.registry_listener is not None:
            embedded = EmbeddedRegistry(
                broker, host, ground.registry_listener, ground.poller, executor, syncer
            )
        is_noticed = _always if embedded is None else embedded.has_sessions
        membership = self._membership = Membership.of(broker, slave_config, host, is_noticed)
        broker.on_new_partition = membership.wake
        following = succession = None
        if slave_config is not None:
            reload = partial(self._reload_own, broker)
            own = OwnConfig(slave_config, self._paths, self._is_lenient, lambda: broker.config, reload)
            following = Following.of(broker, slave_config, own, host, membership, timers)
        else:
            membership.on_rival = broker.gate.fence
            succession = make_succession(broker, membership, embedded, self._role)
        registry = config.zookeeper.ensemble
        if embedded is not None:
            registry = f"{own_host(config)}:{embedded.port}"
        elif slave_config is not None and slave_config.is_gregor:
            registry = None
        membership.follow(registry)
        pair = None
        if pair_config is not None and broker.pair_master is not None:
            leave, join = partial(membership.follow, None), partial(membership.follow, registry)
            membership.recovers_offsets = pair_config.recover_offset
            pair = PairLink(broker, broker.pair_master, pair_config, leave, join)
        slave, sync = (None, None) if following is None else (following.slave, following.config_sync)
        checking = Checking.of(broker, membership, following, embedded)
        reporter = Reporter(broker, store, disk, slave, membership, checking, embedded, sync)
        reporter.is_lenient, reporter.log_format = self._is_lenient, self._log_format
        reporter.decision = None if self._role is None else self._role.decision
        reporter.pair, reporter.succession = pair, succession
        requests = LocalRequests(broker)
        cluster = ClusterSession(partial(_registry_servers, membership), config.zookeeper.root)
        self._door = HttpDoor(
            broker,
            reporter,
            requests,
            cluster,
            self._recent,
            partial(self._reload, broker),
            self._load_users(),
            self._clock.monotonic_seconds(),
        )
        return _Parts(
            broker,
            committer,
            timers,
            disk,
            following,
            pair,
            succession,
            embedded,
            membership,
            checking,
            reporter,
            requests,
            cluster,
        )

    def _topic_changes(self, broker: Broker, following: Following | None) -> TopicChanges:
        is_orphan = None if following is None else following.slave.is_orphan
        return TopicChanges(broker, partial(self._reload, broker), self._is_lenient, is_orphan)

    async def _serve(self, ground: _Ground, parts: _Parts) -> None:
        config = self._config
        broker, embedded, reporter, following = parts.broker, parts.embedded, parts.reporter, parts.following
        server = Server(broker, ground.listener, ground.poller)
        retention = Retention(broker, self._clock, utc_offset_seconds)
        async with trio.open_nursery() as nursery:
            stop = _Stop(self._service)
            for run in (ground.poller.run, parts.timers.run, parts.disk.run, retention.run):
                nursery.start_soon(run)
            if embedded is not None:
                nursery.start_soon(embedded.run)
                await embedded.wait_opened()
            if following is None:
                await load_transactions(broker)
            await nursery.start(self._handle_signals, stop, broker)
            handover = Handover(broker, parts.committer, parts.timers, embedded)
            handlers = self._control_handlers(stop, broker, reporter) | handover.handlers()
            handlers |= transaction_handlers(broker)
            handlers |= self._topic_changes(broker, following).handlers()
            handlers |= parts.checking.handlers()
            await nursery.start(serve_control, self._paths.control_socket, handlers)
            metrics = BrokerMetrics(CollectorRegistry(), reporter.metrics)
            source = HttpSource(
                status=reporter.status,
                metrics=metrics.prepare,
                readiness=reporter.readiness,
                door=self._door,
            )
            nursery.start_soon(parts.cluster.run)
            reporter.http_port = await nursery.start(
                serve_http, config.bind_address, config.dashboard_http_port, source
            )
            if following is not None:
                stop.replication = await nursery.start(following.run)
            for part in (parts.pair, parts.succession):
                if part is not None:
                    nursery.start_soon(part.run)
            with _PidFile(self._paths):
                gc.collect()
                gc.freeze()
                gc.set_threshold(_GARBAGE_THRESHOLD)
                async with trio.open_nursery() as serving:
                    await serving.start(server.serve)
                    serving.start_soon(stop.carry_out, server, parts.membership, parts.cluster)
                    nursery.start_soon(parts.checking.run)
                    if config.zookeeper.ensemble is not None:
                        nursery.start_soon(parts.membership.run)
                        with trio.move_on_after(_REGISTRATION_SECONDS):
                            await parts.membership.wait_registered()
                    self._ready(
                        NodeAddresses(
                            broker.address, config.server_port, reporter.http_port, ground.registry_port
                        )
                    )
                    nursery.start_soon(self._service.run, partial(_state, reporter))
                    if config.zookeeper.ensemble is None:
                        # In a master's own registry it takes a moment that nobody has to wait for.
                        nursery.start_soon(parts.membership.run)
                parts.requests.stop()
                broker.transactions.stop()
                with trio.move_on_after(config.stop_timeout_ms / 1000):
                    await parts.committer.wait_until_idle()
                if embedded is not None:
                    await embedded.stop()
            nursery.cancel_scope.cancel()

    def _ready(self, addresses: NodeAddresses) -> None:
        ports = {"http": addresses.http_port}
        if addresses.registry_port is not None:
            ports["registry"] = addresses.registry_port
        _log.info("Start metamorphosis server successfully", address=addresses.address, **ports)
        self._service.ready(f"ready at {addresses.address}")
        self._on_ready(addresses)

    def _open_store(self) -> MessageStore:
        config = self._config
        role = "master" if self._slave_config is None else "slave"
        owner = f"pid {os.getpid()} on {socket.gethostname()}, {role} of {config.path}"
        options = StoreOptions(
            segment_bytes_max=(
                config.max_segment_size_bytes if self._slave_config is None else _SEGMENT_BYTES_OF_A_SLAVE
            ),
            checkpoint_bytes=config.checkpoint_bytes,
            epoch_origin=SystemRandom().getrandbits(64) if self._slave_config is None else None,
            open_segments_max=descriptors.for_reading(),
        )
        store = MessageStore.open(RealFileSystem(), self._clock, options, config.data_paths, owner)
        for report in store.reports:
            if not report.clean:
                _log.info(
                    "Recovery succeeded",
                    partition=str(report.topic_partition),
                    seconds=round(report.seconds, 3),
                    truncated_bytes=report.bytes_cut,
                    records=report.records_scanned,
                )
            if report.damaged_ranges or report.holes:
                _log.error(
                    "Log has damaged ranges: they are skipped by reads",
                    partition=str(report.topic_partition),
                    ranges=[*report.damaged_ranges, *report.holes],
                )
        for name, error in store.failed.items():
            _log.error("Partition cannot be opened", partition=str(name), reason=str(error))
        return store

    async def _handle_signals(
        self, stop: _Stop, broker: Broker, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    try:
                        await self._reload(broker)
                    except ConfigError as error:
                        _log.error("Reload config failed", reason=str(error))
                else:
                    _log.info("Stopping", signal=signal.Signals(number).name)
                    stop()

    def _control_handlers(
        self, stop: _Stop, broker: Broker, reporter: Reporter
    ) -> dict[str, Callable[[dict[str, object]], Awaitable[dict[str, object]]]]:
        async def status(_request: dict[str, object]) -> dict[str, object]:
            return {**reporter.status(), **await reporter.slaves()}

        async def slave_status(_request: dict[str, object]) -> dict[str, object]:
            return reporter.slave_status()

        async def topics(_request: dict[str, object]) -> dict[str, object]:
            return reporter.topics()

        async def reload(_request: dict[str, object]) -> dict[str, object]:
            return {**await self._reload(broker)}

        async def stop_node(_request: dict[str, object]) -> dict[str, object]:
            _log.info("Stopping", reason="command")
            stop()
            return {}

        return {
            "status": status,
            "slave-status": slave_status,
            "topics": topics,
            "reload": reload,
            "stop": stop_node,
        }

    async def _reload(self, broker: Broker) -> dict[str, list[str]]:
        """Read server.ini again; raises ConfigError and changes nothing where it is wrong."""
        _log.info("Reloading topics......")
        load = partial(load_server_config, self._config.path, lenient=self._is_lenient)
        fresh = await trio.to_thread.run_sync(load)
        if self._role is not None:
            fresh = self._role.overlaid(fresh)
        elif self._slave_config is not None:
            fresh = apply_slave(fresh, self._slave_config)
        if fresh.server_port == 0:
            fresh = attrs.evolve(fresh, server_port=broker.config.server_port)
        if self._door is not None:
            self._door.users = await trio.to_thread.run_sync(self._load_users)
            self._door.loaded_seconds = self._clock.monotonic_seconds()
        difference = diff_configs(broker.config, fresh)
        broker.reconfigure(adopt_topics(broker.config, fresh))
        if self._membership is not None:
            self._membership.wake()
        _log.info("Reload topics successfully", **attrs.asdict(difference))
        return {key: list(value) for key, value in attrs.asdict(difference).items()}

    def _load_users(self) -> Users | None:
        """Raises ConfigError."""
        path = self._config.http_users_file
        if path is None:
            return None
        users = load_users(path)
        if path.stat().st_mode & 0o077:
            _log.warning("Others may read the tokens in httpUsersFile: chmod 600", path=str(path))
        return users

    async def _reload_own(self, broker: Broker) -> tuple[str, ...]:
        """The same for a file that came from the master."""
        return tuple(map(str, (await self._reload(broker))["needs_restart"]))


@attrs.define(eq=False)
class _Stop:
    """Ends a node in order; asked a second time, it no longer waits for ZooKeeper."""

    _service: ServiceManager
    replication: trio.CancelScope | None = None
    _requested: trio.Event = attrs.Factory(trio.Event)
    _waiting: trio.CancelScope = attrs.Factory(trio.CancelScope)

    def __call__(self) -> None:
        if self._requested.is_set():
            self._waiting.cancel()
        self._requested.set()

    async def carry_out(self, server: Server, membership: Membership, cluster: ClusterSession) -> None:
        await self._requested.wait()
        self._service.stopping()
        if self.replication is not None:
            self.replication.cancel()
        with self._waiting:
            # Its session with the registry is nobody who would have to notice that the broker leaves.
            await cluster.stop()
            await membership.stop()
        server.stop()


class _PidFile:
    """Exists while the node is ready."""

    def __init__(self, paths: NodePaths) -> None:
        self._path = paths.pid_file

    def __enter__(self) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(f"{os.getpid()}\n", encoding="ascii")
        temporary.replace(self._path)

    def __exit__(self, *_exception: object) -> None:
        self._path.unlink(missing_ok=True)


def _state(reporter: Reporter) -> str:
    """For whoever asks systemd."""
    reasons = reporter.readiness()
    return f"not ready: {'; '.join(reasons)}" if reasons else "does all of its work"


def _registry_servers(membership: Membership) -> str | None:
    report = membership.report()
    return None if report is None else report.servers


def _always() -> bool:
    return True


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error of ours inside, so that the command line can print it; else the group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
