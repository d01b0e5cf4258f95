"""Keeps a Cluster true: reads what the registry says of the topics somebody asks for, and watches it.

While the registry is away the last cluster stands: those who send and read go on.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import attrs

from metaserver.client.backoff import Backoff
from metaserver.client.cluster import Cluster
from metaserver.client.connection import announced_registry, announced_registry_port, connect
from metaserver.client.servers import ROOT_DEFAULT, format_address
from metaserver.errors import ClientError, ConfigError, DiscoveryError, ZooKeeperError
from metaserver.logs import get_logger
from metaserver.registry.paths import Layout, Replica, TopicNode, TopicTree, parse_number, parse_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from metaserver.client.cluster import Address
    from metaserver.client.servers import Servers
    from metaserver.registry.nodes import Nodes

_log = get_logger(__name__)

_PASS_SECONDS_MIN = 0.02
"""From one look to the next: a broker that registers a hundred topics is a few looks."""
_AUDIT_SECONDS = 30.0
"""Everything is read again after this time, whether a watch has told of a change or not."""
_RETRY_SECONDS_MIN = 0.1
_RETRY_SECONDS_MAX = 3.0
_ASK_SECONDS = 3.0
"""How long one broker may take to say where the registry is."""


@attrs.define(eq=False)
class Discovery:
    """The registry as a session sees it. Make it on the loop, and run :meth:`run`."""

    servers: Servers
    session_timeout_seconds: float
    root: str = ROOT_DEFAULT
    cluster: Cluster = attrs.Factory(Cluster)
    problem: str = "not connected yet"
    """Why the cluster may be out of date; blank where it is not."""
    _nodes: Nodes | None = None
    _topics: dict[str, None] = attrs.Factory(dict)
    _known: set[str] = attrs.Factory(set)
    """Topics that have been read."""
    _listeners: dict[Callable[[], None], None] = attrs.Factory(dict)
    _wake: anyio.Event = attrs.Factory(anyio.Event)
    _progress: anyio.Event = attrs.Factory(anyio.Event)

    @property
    def layout(self) -> Layout:
        """Where everything stands."""
        return Layout(self.servers.chroot + self.root)

    @property
    def nodes(self) -> Nodes | None:
        """The registry itself; None before it was found, and while it is looked for anew."""
        return self._nodes

    @property
    def session(self) -> int | None:
        """The session with the registry, while there is a connection."""
        return None if self._nodes is None else self._nodes.session

    def listen(self, on_change: Callable[[], None]) -> None:
        """Have it called at every change of the cluster, the connection, or a node watched."""
        self._listeners[on_change] = None

    def ignore(self, on_change: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.pop(on_change, None)

    async def want(self, topics: Iterable[str], timeout_seconds: float) -> None:
        """Follow these topics from now on; returns when they have been read once.

        Raises DiscoveryError where the registry does not answer in time; the topics are followed all the
        same, also when cancelled. Raises ConfigError where one can be no topic.
        """
        wanted = list(topics)
        check_topics(wanted)
        new = [topic for topic in wanted if topic not in self._topics]
        self._topics.update(dict.fromkeys(new))
        if new:
            self._wake.set()
        with anyio.move_on_after(timeout_seconds):
            while not self._known.issuperset(wanted):
                await self._progress.wait()
        if not self._known.issuperset(wanted):
            raise DiscoveryError(self.servers.connect, self.problem or "no answer")

    async def wait_read(self, timeout_seconds: float) -> None:
        """Returns when the registry has been read once; raises DiscoveryError where it cannot be in time."""
        with anyio.move_on_after(timeout_seconds):
            while self.problem:
                await self._progress.wait()
            return
        raise DiscoveryError(self.servers.connect, self.problem)

    async def topics(self) -> list[str]:
        """Every topic a broker has announced since the registry was made; raises DiscoveryError."""
        try:
            nodes = self.connected()
            paths = [self.layout.topics(tree) for tree in TopicTree]
            found = await nodes.children(paths)
        except ZooKeeperError as error:
            raise DiscoveryError(self.servers.connect, str(error)) from error
        return sorted({topic for names in found.values() for topic in names or ()})

    def connected(self) -> Nodes:
        """The registry, for calls of its own; raises DiscoveryError where it was not found yet."""
        if self._nodes is None:
            raise DiscoveryError(self.servers.connect, self.problem or "not connected")
        return self._nodes

    async def run(self) -> None:
        """Follow the registry until cancelled; ends the session with it then."""
        backoff = Backoff(_RETRY_SECONDS_MIN, _RETRY_SECONDS_MAX)
        try:
            while True:
                self._wake = anyio.Event()
                pause_seconds = await self._try_look(backoff)
                await anyio.sleep(_PASS_SECONDS_MIN)
                with anyio.move_on_after(pause_seconds):
                    await self._wake.wait()
        finally:
            await self._leave()

    def wake(self) -> None:
        """Look again soon."""
        self._wake.set()
        for on_change in list(self._listeners):
            on_change()

    async def _try_look(self, backoff: Backoff) -> float:
        try:
            await self._look()
        except (ZooKeeperError, ClientError) as error:
            reason = error.reason if isinstance(error, DiscoveryError) else str(error)
            if reason != self.problem:
                _log.info("The registry cannot be read", servers=self.servers.connect, reason=reason)
            self.problem = reason
            await self._revive()
            return backoff.next_seconds()
        backoff.reset()
        self.problem = ""
        progress, self._progress = self._progress, anyio.Event()
        progress.set()
        return _AUDIT_SECONDS

    async def _look(self) -> None:
        if self._nodes is None:
            self._nodes = await self._find_registry()
        nodes, layout = self._nodes, self.layout
        topics = list(self._topics)
        if nodes.session is None:
            raise DiscoveryError(nodes.servers, "no connection")
        brokers_path = layout.brokers()
        brokers = (await nodes.children([brokers_path], is_watched=True))[brokers_path]
        numbers = (parse_number(name.encode()) for name in brokers or ())
        broker_ids = [number for number in numbers if number is not None]
        addresses = await self._read_addresses(nodes, layout, broker_ids)
        counts = await self._read_topics(nodes, layout, topics)
        self._known.update(topics)
        cluster = Cluster(addresses, counts[TopicTree.PUBLISH], counts[TopicTree.SUBSCRIBE])
        if cluster != self.cluster:
            self.cluster = cluster
            for on_change in list(self._listeners):
                on_change()

    async def _read_addresses(
        self, nodes: Nodes, layout: Layout, broker_ids: list[int]
    ) -> dict[Replica, Address]:
        paths = {layout.broker(broker_id): broker_id for broker_id in broker_ids}
        found = await nodes.children(paths, is_watched=True)
        replicas = {
            layout.replica(replica): replica
            for path, names in found.items()
            for name in names or ()
            if (replica := Replica.parse_child(paths[path], name)) is not None
        }
        read = await nodes.read(replicas, is_watched=True)
        return {
            replicas[path]: address
            for path, node in read.items()
            if node is not None and (address := parse_uri(node.data)) is not None
        }

    async def _read_topics(
        self, nodes: Nodes, layout: Layout, topics: list[str]
    ) -> dict[TopicTree, dict[str, dict[Replica, int]]]:
        trees = (TopicTree.PUBLISH, TopicTree.SUBSCRIBE)
        parents = {layout.topic(tree, topic): (tree, topic) for tree in trees for topic in topics}
        found = await nodes.children(parents, is_watched=True)
        places = {
            layout.topic_replica(*parents[path], replica): (*parents[path], replica)
            for path, names in found.items()
            for name in names or ()
            if (replica := Replica.parse(name)) is not None
        }
        read = await nodes.read(places, is_watched=True)
        counts: dict[TopicTree, dict[str, dict[Replica, int]]]
        counts = {tree: {topic: {} for topic in topics} for tree in trees}
        for path, node in read.items():
            parsed = None if node is None else TopicNode.parse(node.data)
            if parsed is not None:
                tree, topic, replica = places[path]
                counts[tree][topic][replica] = parsed.partition_count
        return counts

    async def _find_registry(self) -> Nodes:
        # kazoo takes a while to import: not for those who talk to one broker, and not on the loop.
        await anyio.to_thread.run_sync(import_module, "metaserver.registry.nodes")
        from metaserver.registry.link import TreeSettings  # noqa: PLC0415
        from metaserver.registry.nodes import Nodes  # noqa: PLC0415

        connect_string = self.servers.connect
        if not self.servers.is_zookeeper:
            connect_string = await self._ask_brokers()
        settings = TreeSettings(
            servers=connect_string,
            session_timeout_seconds=self.session_timeout_seconds,
            connection_timeout_seconds=self.session_timeout_seconds / 2,
        )
        return Nodes.open(settings, self.wake)

    async def _ask_brokers(self) -> str:
        """At the first broker that hosts the registry, else where one says it is; raises DiscoveryError."""
        problems: list[str] = []
        hearsay = ""
        for host, port in self.servers.addresses:
            try:
                async with connect(host, port, timeout_seconds=_ASK_SECONDS) as broker:
                    version = broker.version
            except ClientError as error:
                problems.append(str(error))
                continue
            if announced_registry_port(version) is not None:
                return announced_registry(version, host) or ""
            hearsay = hearsay or announced_registry(version, host) or ""
            problems.append(f"broker {format_address(host, port)} hosts no registry")
        if hearsay:
            return hearsay
        hint = "give zookeeper://HOST:PORT where brokers register in a ZooKeeper"
        raise DiscoveryError(self.servers.connect, f"{'; '.join(problems)}; {hint}")

    async def _revive(self) -> None:
        if self._nodes is None:
            return
        if self._nodes.session is None and not self.servers.is_zookeeper:
            # A broker that was started again may host its registry on another port.
            try:
                connect_string = await self._ask_brokers()
            except ClientError:
                connect_string = self._nodes.servers
            if connect_string != self._nodes.servers:
                await self._leave()
                return
        await self._nodes.revive()

    async def _leave(self) -> None:
        nodes, self._nodes = self._nodes, None
        if nodes is not None:
            await nodes.close()


def check_topics(topics: Iterable[str]) -> None:
    """Raises ConfigError for what is no word of the protocol, or no node of the registry."""
    wrong = [
        topic
        for topic in topics
        if topic in {"", ".", ".."} or "/" in topic or not topic.isprintable() or " " in topic
    ]
    if wrong:
        names = ", ".join(map(repr, wrong))
        raise ConfigError((f"no topic: {names}; letters, digits, - and _ are fine, blanks and / are not",))
