"""The registry of a simulated cluster: sessions that lapse with the connection, watches, answers that take time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import NodeFailedError
from metaserver.registry.nodes import Node
from metaserver.registry.paths import StoredOffset
from metaserver.registry.registration import Create, Delete, ExistingNode, Retire, Store, Write
from tests.client.registry_fake import FakeNodes, FakeRegistry
from tests.simulation.world import current_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.registry.nodes import Nodes
    from metaserver.registry.registration import Action
    from tests.simulation.network import Network
    from tests.simulation.world import Process, World

REGISTRY_ADDRESS = "10.0.0.250"
SESSION_SECONDS = 4.0


@attrs.define(eq=False)
class Commit:
    """An offset that a group has stored."""

    seconds: float
    path: str
    offset: int
    member: str


class SimRegistry(FakeRegistry):
    """One for the whole cluster; it never fails itself, but may be out of reach."""

    def __init__(self, world: World, network: Network) -> None:
        super().__init__()
        self.world = world
        self.network = network
        self.random = world.random("registry")
        self.commits: list[Commit] = []
        self.sessions: list[SimNodes] = []
        """Of processes that live, or whose session has not lapsed."""
        self._sessions = 0

    def open(self, on_change: Callable[[], None]) -> SimNodes:
        """Of the process that asks."""
        process = current_process.get()
        client = SimNodes(self, on_change, process)
        self.clients.append(client)
        self.sessions.append(client)
        process.on_death.append(client.check)
        client.check()
        return client

    async def open_nodes(self, on_change: Callable[[], None]) -> Nodes:
        """As RegisteredPlace and Discovery want it."""
        await trio.lowlevel.checkpoint()
        return self.open(on_change).as_nodes()

    def open_tree(self, on_change: Callable[[], None]) -> SimTree:
        """As the registrar wants it."""
        return SimTree(self.open(on_change))

    def check(self) -> None:
        """Ways were cut or opened."""
        for client in list(self.sessions):
            client.check()

    def put(self, path: str, data: bytes, owner: int = 0) -> None:
        if "/offsets/" not in path:
            super().put(path, data, owner)
            return
        # Nobody watches those.
        known = self.nodes.get(path)
        self.nodes[path] = Node(data, 0 if known is None else known.version + 1, owner)
        stored = StoredOffset.parse(data)
        if stored is not None:
            commit = Commit(trio.current_time(), path, stored.offset, current_process.get().name)
            self.commits.append(commit)

    def is_reachable(self, process: Process) -> bool:
        own = process.address
        is_open = self.network.is_open(own, REGISTRY_ADDRESS) and self.network.is_open(REGISTRY_ADDRESS, own)
        return process.is_alive and is_open


class SimNodes(FakeNodes):
    """One session; lost, it lapses after a while, and its nodes with it."""

    def __init__(self, registry: SimRegistry, on_change: Callable[[], None], process: Process) -> None:
        super().__init__(registry, on_change)
        self.home = registry
        self.process = process
        self._is_closed = False
        self._loss = 0

    def check(self) -> None:
        """Connect or disconnect, as the network has it now."""
        if self._is_closed:
            return
        is_reachable = self.home.is_reachable(self.process)
        if is_reachable and self.session is None:
            self._loss += 1
            self.connect(is_new=not self._own)
        elif not is_reachable and self.session is not None:
            self._loss += 1
            loss = self._loss
            if self.process.is_alive:
                self.disconnect()
            else:
                self.session = None
            self.home.world.after(SESSION_SECONDS, lambda: self._lapse(loss))

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.home.is_reachable(self.process) and self._own:
            self._is_closed = True
            self.session = None
            self._end_session()

    def _lapse(self, loss: int) -> None:
        if loss == self._loss and self._own:
            self.home.world.log(self.process.name, "its session with the registry has lapsed", is_detail=True)
            self._end_session()

    def _end_session(self) -> None:
        own, self._own = self._own, 0
        if self._is_closed or not self.process.is_alive:
            self.home.clients.remove(self)
            self.home.sessions.remove(self)
        self.home.end(own)

    async def _begin(self, call: str) -> None:
        self.calls.clear()
        await trio.sleep(self.home.random.uniform(0.0005, 0.003))
        await super()._begin(call)

    async def children_of(self, path: str) -> list[str]:
        return (await self.children([path]))[path] or []

    async def apply(self, actions: Sequence[Action]) -> None:
        await self._begin("apply")
        failed = ""
        for action in actions:
            known = self.home.nodes.get(action.path)
            match action:
                case Create() if known is None:
                    self.home.put(action.path, action.data, self._own)
                case Write() if known is not None:
                    self.home.put(action.path, action.data, known.owner)
                case Create() | Write():
                    failed = action.path
                case Store():
                    self.home.put(action.path, action.data)
                case Delete() | Retire():
                    if self.home.below(action.path):
                        self.home.put(action.path, b"")
                    elif self.home.nodes.pop(action.path, None) is not None:
                        self.home.changed()
        if failed:
            raise NodeFailedError(failed, "it is there already, or not there")


@attrs.define(eq=False)
class SimTree:
    """A NodeTree over one session."""

    _nodes: SimNodes

    @property
    def session(self) -> int | None:
        return self._nodes.session

    async def read(self, paths: Sequence[str], *, is_watched: bool = False) -> dict[str, ExistingNode | None]:
        found = await self._nodes.read(paths)
        return {
            path: None if node is None else ExistingNode(node.data, node.owner)
            for path, node in found.items()
        }

    async def children(self, path: str) -> list[str]:
        return await self._nodes.children_of(path)

    async def apply(self, actions: Sequence[Action]) -> None:
        await self._nodes.apply(actions)

    async def revive(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        await self._nodes.close()
