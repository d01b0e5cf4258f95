"""A registry in memory, with sessions that end, connections that break and answers that are lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio.lowlevel
import attrs

from metaserver.errors import ConnectionLostError, NodeFailedError
from metaserver.registry.nodes import Node, Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


@attrs.define(eq=False)
class FakeRegistry:
    nodes: dict[str, Node] = attrs.Factory(dict)
    clients: list[FakeNodes] = attrs.Factory(list)
    _sessions: int = 0

    def open(self, on_change: Callable[[], None]) -> FakeNodes:
        client = FakeNodes(self, on_change)
        self.clients.append(client)
        client.connect()
        return client

    def new_session(self) -> int:
        self._sessions += 1
        return self._sessions

    def end(self, session: int) -> None:
        """The session's nodes go."""
        for path in [path for path, node in self.nodes.items() if node.owner == session]:
            del self.nodes[path]
        self.changed()

    def put(self, path: str, data: bytes, owner: int = 0) -> None:
        known = self.nodes.get(path)
        self.nodes[path] = Node(data, 0 if known is None else known.version + 1, owner)
        self.changed()

    def below(self, path: str) -> dict[str, bytes]:
        return {
            name.removeprefix(f"{path}/"): node.data
            for name, node in sorted(self.nodes.items())
            if name.startswith(f"{path}/")
        }

    def changed(self) -> None:
        for client in self.clients:
            if client.session is not None:
                client.on_change()


@attrs.define(eq=False)
class FakeNodes:
    """The ``Nodes`` of one client."""

    registry: FakeRegistry
    on_change: Callable[[], None]
    session: int | None = None
    servers: str = "fake"
    before: Callable[[str], None] = lambda _call: None
    """Told of each call by its name before it is carried out; may raise."""
    after: Callable[[str], None] = lambda _call: None
    """The same, behind it: what it raises is an answer that was lost."""
    calls: list[str] = attrs.Factory(list)
    _own: int = 0

    def connect(self, *, is_new: bool = False) -> None:
        if is_new or not self._own:
            self._own = self.registry.new_session()
        self.session = self._own
        self.on_change()

    def disconnect(self) -> None:
        self.session = None
        self.on_change()

    def as_nodes(self) -> Nodes:
        return cast("Nodes", self)

    async def children(
        self, paths: Iterable[str], *, is_watched: bool = False
    ) -> dict[str, list[str] | None]:
        await self._begin("children")
        found: dict[str, list[str] | None] = {}
        for path in paths:
            names = {name.split("/")[0] for name in self.registry.below(path)}
            found[path] = sorted(names) if names or path in self.registry.nodes else None
        return found

    async def read(self, paths: Iterable[str], *, is_watched: bool = False) -> dict[str, Node | None]:
        paths = list(paths)
        await self._begin("read")
        return {path: self.registry.nodes.get(path) for path in paths}

    async def claim(self, nodes: Mapping[str, bytes]) -> set[str]:
        await self._begin("claim")
        for path, data in nodes.items():
            if path not in self.registry.nodes:
                self.registry.put(path, data, self._own)
        self._end("claim")
        return {path for path in nodes if self.registry.nodes[path].owner == self._own}

    async def write(self, nodes: Mapping[str, tuple[bytes, int | None]]) -> dict[str, int | None]:
        await self._begin("write")
        versions: dict[str, int | None] = {}
        for path, (data, version) in nodes.items():
            known = self.registry.nodes.get(path)
            is_right = version in (-1, None if known is None else known.version)
            if is_right:
                self.registry.put(path, data)
            versions[path] = self.registry.nodes[path].version if is_right else None
        self._end("write")
        return versions

    async def remove(self, paths: Iterable[str]) -> None:
        paths = list(paths)
        await self._begin("remove")
        for path in paths:
            if self.registry.below(path):
                raise NodeFailedError(path, "NotEmpty")
            if self.registry.nodes.pop(path, None) is not None:
                self.registry.changed()
        self._end("remove")

    async def revive(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.session = None
        self.registry.end(self._own)

    async def _begin(self, call: str) -> None:
        self.calls.append(call)
        await anyio.lowlevel.checkpoint()
        if self.session is None:
            raise ConnectionLostError(self.servers, "not connected")
        self.before(call)

    def _end(self, call: str) -> None:
        self.after(call)
