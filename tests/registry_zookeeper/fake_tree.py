"""A ZooKeeper in memory that loses connections, forgets sessions and refuses nodes on demand.

test_tree.py puts it through the same tests as the real one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import ConnectionLostError, NodeFailedError
from metaserver.registry.paths import ancestors
from metaserver.registry.registration import Create, Delete, ExistingNode, Retire, Store, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.registry.registration import Action


@attrs.define(eq=False)
class FakeZooKeeper:
    nodes: dict[str, ExistingNode] = attrs.Factory(dict)
    done: list[Action] = attrs.Factory(list)
    """Every action that has had an effect, in order."""
    refused: set[str] = attrs.Factory(set)
    """Paths of which nothing can be created."""
    is_up: bool = True
    failing: int = 0
    """So many of the next requests come back with a lost connection, carried out or not by turns."""
    before_read: Callable[[Sequence[str]], None] = lambda _paths: None
    """Called with what is about to be read."""
    trees: list[FakeTree] = attrs.Factory(list)
    _watches: list[tuple[str, Callable[[], None]]] = attrs.Factory(list)
    _sessions: int = 0

    def open(self, on_change: Callable[[], None]) -> FakeTree:
        tree = FakeTree(self, on_change)
        self.trees.append(tree)
        tree.connect()
        return tree

    def set_up(self, *, is_up: bool) -> None:
        self.is_up = is_up
        for tree in self.trees:
            tree.connect()

    def new_session(self) -> int:
        self._sessions += 1
        return self._sessions

    def expire(self, session: int) -> None:
        """The nodes of the session go; its owner, where connected, opens another."""
        for path in [path for path, node in self.nodes.items() if node.owner == session]:
            self.remove(path)
        for tree in self.trees:
            tree.expire(session)

    def remove(self, path: str) -> None:
        del self.nodes[path]
        self._changed(path)

    def put(self, path: str, data: bytes, owner: int) -> None:
        for parent in ancestors(path):
            self.nodes.setdefault(parent, ExistingNode(b"", 0))
        self.nodes[path] = ExistingNode(data, owner)

    def watch(self, path: str, on_change: Callable[[], None]) -> None:
        self._watches.append((path, on_change))

    def act(self, action: Action, session: int) -> str:
        """The reason of a failure, or blank."""
        path, node = action.path, self.nodes.get(action.path)
        if path in self.refused:
            return "refused"
        match action:
            case Create() if node is not None:
                return "NodeExists"
            case Write() if node is None:
                return "NoNode"
            case Delete() if node is not None and self._has_children(path):
                return "NotEmpty"
            case Delete() | Retire() if node is None:
                return ""
            case Create(_, data):
                self.put(path, data, session)
            case Write(_, data) | Store(_, data):
                self.put(path, data, 0 if node is None else node.owner)
                self._changed(path)
            case Retire() if node is not None and self._has_children(path):
                self.put(path, b"", node.owner)
                self._changed(path)
            case Delete() | Retire():
                self.remove(path)
        self.done.append(action)
        return ""

    def _has_children(self, path: str) -> bool:
        return any(other.startswith(f"{path}/") for other in self.nodes)

    def _changed(self, path: str) -> None:
        told = [on_change for watched, on_change in self._watches if watched == path]
        self._watches = [(watched, on_change) for watched, on_change in self._watches if watched != path]
        for on_change in told:
            on_change()


@attrs.define(eq=False)
class FakeTree:
    """A NodeTree on a FakeZooKeeper."""

    _zookeeper: FakeZooKeeper
    _on_change: Callable[[], None]
    _own: int = 0
    _is_closed: bool = False

    @property
    def session(self) -> int | None:
        return self._own if self._zookeeper.is_up and not self._is_closed else None

    def connect(self) -> None:
        if self._zookeeper.is_up and not self._own and not self._is_closed:
            self._own = self._zookeeper.new_session()
        self._on_change()

    def expire(self, session: int) -> None:
        if session == self._own:
            self._own = 0
            self.connect()

    async def read(self, paths: Sequence[str], *, is_watched: bool = False) -> dict[str, ExistingNode | None]:
        await self._take_turn()
        self._zookeeper.before_read(paths)
        found = {path: self._zookeeper.nodes.get(path) for path in paths}
        if is_watched:
            for path, node in found.items():
                if node is not None:
                    self._zookeeper.watch(path, self._on_change)
        return found

    async def children(self, path: str) -> list[str]:
        await self._take_turn()
        found = (
            other.removeprefix(f"{path}/") for other in self._zookeeper.nodes if other.startswith(f"{path}/")
        )
        return sorted({name.partition("/")[0] for name in found})

    async def apply(self, actions: Sequence[Action]) -> None:
        await self._take_turn()
        session = self.session
        assert session is not None
        reasons = [(action.path, self._zookeeper.act(action, session)) for action in actions]
        if self._zookeeper.failing > 0:
            # Carried out, and nobody knows.
            self._zookeeper.failing -= 1
            raise ConnectionLostError("fake", "the answer was lost")
        for path, reason in reasons:
            if reason:
                raise NodeFailedError(path, reason)

    async def revive(self) -> None:
        await trio.lowlevel.checkpoint()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.session is not None:
            self._zookeeper.expire(self._own)
        self._is_closed = True

    async def _take_turn(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.session is None:
            raise ConnectionLostError("fake", "not connected")
        if self._zookeeper.failing > 0 and self._zookeeper.failing % 2:
            self._zookeeper.failing -= 1
            raise ConnectionLostError("fake", "the request was lost")
