"""Where a slave's master is: at the address that was given, or wherever the registry says that it is.

The registry's last word stands while the registry is away. A master that has left it is not connected to
anew; a connection that still works is kept.
"""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeAlias

import attrs
import trio

from metaserver.client.connection import expect_text
from metaserver.client.servers import format_address
from metaserver.epochs import EpochChain
from metaserver.errors import ClientError, ZooKeeperError
from metaserver.logs import get_logger
from metaserver.names import MAX_OFFSET, parse_digits
from metaserver.protocol import encode_epochs_query
from metaserver.registry.paths import Layout, Replica, TopicTree, parse_number, parse_uri, split_connect
from metaserver.replication.chain import Hop, parse_chain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.client import BrokerConnection
    from metaserver.config import ZooKeeperConfig
    from metaserver.names import TopicPartition
    from metaserver.registry.nodes import Nodes

_log = get_logger(__name__)

Address: TypeAlias = tuple[str, int]
"""Host, an IPv6 address without brackets, and port."""

_PASS_SECONDS_MIN = 0.02
"""From one look to the next: a master that registers a hundred topics is a few looks."""
_AUDIT_SECONDS = 30.0
"""Everything is read again after this time, whether a watch has told of a change or not."""
_RETRY_SECONDS_MIN = 0.1
_RETRY_SECONDS_MAX = 1.0


class MasterPlace(Protocol):
    """What a slave asks before each connection, and while it has one."""

    @property
    def address(self) -> Address | None:
        """Where the master is; None: nowhere, as far as is known."""

    @property
    def problem(self) -> str:
        """Why there is no address, or why it may be out of date; blank where it is sure."""


@attrs.frozen
class FixedPlace:
    """The address of ``masterAddress``."""

    address: Address
    problem: str = ""


@attrs.define(eq=False)
class RegisteredPlace:
    """What the registry says: run :meth:`run`.

    ``on_change`` is told of a new address, of a changed checksum of the master's configuration, and of new
    topics: then there is something to ask the master for.
    """

    _broker_id: int
    _own_addresses: frozenset[Address]
    """All by which this slave itself can be reached."""
    _layout: Layout
    _open: Callable[[Callable[[], None]], Awaitable[Nodes]]
    on_change: Callable[[], None] = lambda: None
    address: Address | None = None
    problem: str = "the registry has not been read yet"
    config_checksum: int | None = None
    """Of the master's configuration, as it is announced."""
    _topics: frozenset[str] = frozenset()
    _nodes: Nodes | None = None
    _wake: trio.Event = attrs.Factory(trio.Event)

    @classmethod
    def of(
        cls, broker_id: int, own_addresses: frozenset[Address], config: ZooKeeperConfig
    ) -> RegisteredPlace:
        """In the registry of a configuration, which must name one."""
        servers, chroot = split_connect(config.connect or "")

        async def open_nodes(on_change: Callable[[], None]) -> Nodes:
            # kazoo takes a while to import, and only who needs it has to wait.
            await trio.to_thread.run_sync(import_module, "metaserver.registry.nodes")
            from metaserver.registry.link import TreeSettings  # noqa: PLC0415
            from metaserver.registry.nodes import Nodes  # noqa: PLC0415

            settings = TreeSettings(
                servers=servers,
                session_timeout_seconds=config.session_timeout_ms / 1000,
                connection_timeout_seconds=config.connection_timeout_ms / 1000,
            )
            return Nodes.open(settings, on_change)

        return cls(broker_id, own_addresses, Layout(chroot + config.root), open_nodes)

    async def run(self) -> None:
        """Look, and look again at every change, until cancelled."""
        pause_seconds = _RETRY_SECONDS_MIN
        try:
            self._nodes = await self._open(self._changed)
            while True:
                self._wake = trio.Event()
                if await self._try_look(self._nodes):
                    waited_seconds, pause_seconds = _AUDIT_SECONDS, _RETRY_SECONDS_MIN
                else:
                    waited_seconds = pause_seconds
                    pause_seconds = min(2 * pause_seconds, _RETRY_SECONDS_MAX)
                await trio.sleep(_PASS_SECONDS_MIN)
                with trio.move_on_after(waited_seconds):
                    await self._wake.wait()
        finally:
            if self._nodes is not None:
                await self._nodes.close()

    def _changed(self) -> None:
        self._wake.set()

    async def _try_look(self, nodes: Nodes) -> bool:
        try:
            await self._look(nodes)
        except ZooKeeperError as error:
            # What was read last stands: the registry may be away with a master that comes back where it was.
            self._say(f"the registry cannot be read: {error}")
            await nodes.revive()
            return False
        return True

    async def _look(self, nodes: Nodes) -> None:
        broker = self._layout.broker(self._broker_id)
        master, checksum = (
            self._layout.replica(Replica(self._broker_id)),
            self._layout.checksum(self._broker_id),
        )
        topics = self._layout.topics(TopicTree.SUBSCRIBE)
        # The watch on the parents tells of what is made; that on the nodes, of what changes.
        names = await nodes.children([broker, topics], is_watched=True)
        found = await nodes.read([master, checksum], is_watched=True)
        node, announced = found[master], found[checksum]
        address = self._judge(None if node is None else node.data)
        config_checksum = None if announced is None else parse_number(announced.data)
        view = (address, config_checksum, frozenset(names[topics] or ()))
        if address is not None:
            self._say("")
        if view != (self.address, self.config_checksum, self._topics):
            if address != self.address:
                _log.info("The registry names another master", master=format_place(address))
            self.address, self.config_checksum, self._topics = view
            self.on_change()

    def _judge(self, data: bytes | None) -> Address | None:
        """The address to follow, or None and the problem is said."""
        who = f"the registry has no master of broker {self._broker_id}"
        if data is None:
            self._say(f"{who}; waiting for one")
            return None
        address = parse_uri(data)
        if address is None:
            self._say(f"{who} but one at {data!r}, which is no address; waiting for another")
        elif address in self._own_addresses:
            self._say(
                f"the registry names this slave itself, {format_place(address)}, as the master of broker "
                f"{self._broker_id}; waiting for another. Give the slave a port of its own, or "
                "wait until the session of the one that was master here ends"
            )
            return None
        return address

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            _log.warning("The master is looked for in the registry", reason=problem)
        if problem != self.problem:
            self.problem = problem
            self.on_change()


@attrs.frozen
class MasterFacts:
    """What a master says of itself in ``stats``, which every broker of MetaQ knows."""

    broker_id: int | None
    config_checksum: int | None
    is_java: bool
    """Whether it is the Java original, whose configuration has no keys of ours."""
    is_slave: bool = False
    """Whether it follows a master itself."""
    instance: str = "-"
    """Of its process; it never has two, nor two of them one."""
    upstream: tuple[Hop, ...] = ()
    """Who is above it."""
    promoted: str = ""
    """When it was made the master in another's place, ISO 8601; blank: it was not."""
    config_origin: int | None = None
    """Of a slave's configuration: of the master's it was merged from."""

    @property
    def master_checksum(self) -> int | None:
        """Of the configuration at the head of the chain, as far as it has come."""
        return self.config_checksum if self.config_origin is None else self.config_origin


@attrs.define
class WrongMasterError(ClientError):
    """At the master's address another broker answers."""

    address: str
    broker_id: int
    expected_id: int

    def __str__(self) -> str:
        """Who answers, and what to change."""
        return (
            f"the broker at {self.address} has brokerId {self.broker_id}, and this slave {self.expected_id}: "
            "it is not this slave's master. Give the slave the brokerId of its master, or another address"
        )


async def ask_facts(link: BrokerConnection, timeout_seconds: float) -> MasterFacts:
    """Raises ClientError."""
    text = await link.stats("", timeout_seconds)
    values = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    return MasterFacts(
        _number(values.get("broker_id")),
        _number(values.get("config_checksum")),
        "metaserver/" not in link.version,
        is_slave=values.get("slave") == "true",
        instance=values.get("instance", "-"),
        upstream=parse_chain(values.get("upstream", "")),
        promoted=values.get("promoted", ""),
        config_origin=_number(values.get("config_origin")),
    )


async def ask_epochs(
    link: BrokerConnection, name: TopicPartition, end_offset: int, timeout_seconds: float
) -> EpochChain:
    """Whose bytes the broker's log holds, for who has it up to an offset; raises ClientError, ValueError."""
    encode = partial(encode_epochs_query, name.topic, name.partition, end_offset)
    return EpochChain.parse(expect_text(await link.request(encode, timeout_seconds)))


async def meet(link: BrokerConnection, broker_id: int, timeout_seconds: float) -> MasterFacts:
    """Make sure that the master is the one of this broker id; raises ClientError."""
    facts = await ask_facts(link, timeout_seconds)
    if facts.broker_id not in (None, broker_id):
        raise WrongMasterError(link.address, facts.broker_id, broker_id)
    return facts


def format_place(address: Address | None) -> str:
    """``HOST:PORT``; blank for none."""
    return "" if address is None else format_address(*address)


def _number(text: str | None) -> int | None:
    return None if text is None else parse_digits(text, MAX_OFFSET)
