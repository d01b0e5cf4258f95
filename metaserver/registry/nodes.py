"""A ZooKeeper as a client of brokers sees it: read and watch many nodes, claim one, write one.

Requests of one call go out together. All raise ConnectionLostError where there is no session, or it broke
(what was asked for may then have been done or not), and NodeFailedError for what ZooKeeper refuses.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import attrs
from kazoo import exceptions as kazoo_errors

from metaserver.errors import NodeFailedError
from metaserver.registry.link import Kazoo, KazooLink, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from metaserver.registry.link import TreeSettings


@attrs.frozen
class Node:
    """A node as it was read."""

    data: bytes
    """Empty also where the node holds null."""
    version: int
    owner: int
    """The session of an ephemeral node; 0: the node is persistent."""


@attrs.define(eq=False)
class Nodes:
    """One session with the registry, for as many readers and writers as a program has."""

    _link: KazooLink

    @classmethod
    def open(cls, settings: TreeSettings, on_change: Callable[[], None]) -> Nodes:
        """Begin to connect; ``on_change`` is told, on the loop, of the connection and of watched nodes."""
        return cls(KazooLink.open(settings, on_change))

    @property
    def servers(self) -> str:
        """Which ensemble."""
        return self._link.servers

    @property
    def session(self) -> int | None:
        """The session, while there is a connection; each has its own number, never 0."""
        return self._link.session

    async def children(
        self, paths: Iterable[str], *, is_watched: bool = False
    ) -> dict[str, list[str] | None]:
        """The names of children, sorted; None where there is no node.

        Watched: a change is told once, also that a missing node was made.
        """
        paths = list(paths)
        watch = self._link.watched if is_watched else None
        client = self._link.connected()
        outcomes = await self._link.request(
            [partial(client.get_children_async, path, watch) for path in paths]
        )
        found: dict[str, list[str] | None] = {}
        missing: list[str] = []
        for path, outcome in zip(paths, outcomes, strict=True):
            if isinstance(outcome, kazoo_errors.NoNodeError):
                found[path] = None
                missing.append(path)
            else:
                found[path] = sorted(_value(path, outcome))
        if is_watched and missing:
            # A watch for its making. One made in between is read at the next look, which this asks for.
            outcomes = await self._link.request(
                [partial(client.exists_async, path, watch) for path in missing]
            )
            if any(_value(path, stat) is not None for path, stat in zip(missing, outcomes, strict=True)):
                self._link.watched(None)
        return found

    async def read(self, paths: Iterable[str], *, is_watched: bool = False) -> dict[str, Node | None]:
        """The nodes; None where there is none. Watched: a change of one that exists is told, once."""
        paths = list(paths)
        watch = self._link.watched if is_watched else None
        client = self._link.connected()
        outcomes = await self._link.request([partial(client.get_async, path, watch) for path in paths])
        found: dict[str, Node | None] = {}
        for path, outcome in zip(paths, outcomes, strict=True):
            if isinstance(outcome, kazoo_errors.NoNodeError):
                found[path] = None
            else:
                data, stat = _value(path, outcome)
                found[path] = Node(data or b"", stat.version, stat.ephemeralOwner)
        return found

    async def claim(self, nodes: Mapping[str, bytes]) -> set[str]:
        """Make ephemeral nodes, with persistent parents; returns the paths that are the caller's now.

        One that exists, persistent, of another session or with other data (that of another member in this
        session), is left as it is.
        """
        client = self._link.connected()
        session = self._link.session
        create = partial(client.create_async, ephemeral=True, makepath=True)
        outcomes = await self._link.request([partial(create, path, data) for path, data in nodes.items()])
        taken: list[str] = []
        owned: set[str] = set()
        for path, outcome in zip(nodes, outcomes, strict=True):
            if isinstance(outcome, kazoo_errors.NodeExistsError):
                taken.append(path)
            else:
                _value(path, outcome)
                owned.add(path)
        if taken:
            found = await self.read(taken)
            owned |= {
                path
                for path, node in found.items()
                if node is not None and node.owner == session and node.data == nodes[path]
            }
        return owned

    async def write(self, nodes: Mapping[str, tuple[bytes, int | None]]) -> dict[str, int | None]:
        """Write persistent nodes, making them and their parents where they are missing.

        Each has its data and the version it must have (-1: any; None: it must not exist yet). Returns the
        version of each after that; None where it had another version or existence: it is unchanged.
        """
        client = self._link.connected()
        calls = [
            partial(client.create_async, path, data, makepath=True)
            if version is None
            else partial(client.set_async, path, data, version)
            for path, (data, version) in nodes.items()
        ]
        outcomes = dict(zip(nodes, await self._link.request(calls), strict=True))
        again = [
            path
            for path, outcome in outcomes.items()
            if nodes[path][1] == -1 and isinstance(outcome, kazoo_errors.NoNodeError)
        ]
        if again:
            made = await self._link.request(
                [partial(client.create_async, path, nodes[path][0], makepath=True) for path in again]
            )
            outcomes.update(zip(again, made, strict=True))
        conflicts = (kazoo_errors.BadVersionError, kazoo_errors.NodeExistsError, kazoo_errors.NoNodeError)
        versions: dict[str, int | None] = {}
        for path, outcome in outcomes.items():
            if isinstance(outcome, conflicts):
                versions[path] = None
            else:
                stat = _value(path, outcome)
                versions[path] = 0 if isinstance(stat, str) else stat.version
        return versions

    async def remove(self, paths: Iterable[str]) -> None:
        """Remove nodes; nothing to do where there is none. One with children stays, and raises."""
        paths = list(paths)
        client = self._link.connected()
        outcomes = await self._link.request([partial(client.delete_async, path) for path in paths])
        for path, outcome in zip(paths, outcomes, strict=True):
            if not isinstance(outcome, kazoo_errors.NoNodeError):
                _value(path, outcome)

    async def revive(self) -> None:
        """Look after a connection that has been missing for a while."""
        await self._link.revive()

    async def close(self) -> None:
        """End the session, which removes all ephemeral nodes; returns soon, even without a connection."""
        await self._link.close()


def _value(path: str, outcome: Kazoo) -> Kazoo:
    if isinstance(outcome, Exception):
        raise NodeFailedError(path, reason_of(outcome))
    return outcome
