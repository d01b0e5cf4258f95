"""A ZooKeeper as a broker's registrar sees it: read nodes, carry out actions, hear of changes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Protocol

import attrs
from kazoo import exceptions as kazoo_errors

from metaserver.errors import NodeFailedError
from metaserver.registry.link import Kazoo, KazooLink, reason_of
from metaserver.registry.nodes import Nodes
from metaserver.registry.paths import ancestors
from metaserver.registry.registration import Create, Delete, ExistingNode, Retire, Store, Write

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.registry.link import TreeSettings
    from metaserver.registry.registration import Action


class NodeTree(Protocol):
    """What a registrar needs of a ZooKeeper.

    Requests are carried out in the order in which they are made, also those of a call that was cancelled:
    they may still be on their way.
    """

    @property
    def session(self) -> int | None:
        """The session, while there is a connection; each has its own number, never 0."""

    async def read(self, paths: Sequence[str], *, is_watched: bool = False) -> dict[str, ExistingNode | None]:
        """The nodes; None where there is none. Watched: a change of one that exists is told, once.

        Raises ConnectionLostError and NodeFailedError.
        """

    async def children(self, path: str) -> list[str]:
        """The names of a node's children; none where there is no node.

        Raises ConnectionLostError and NodeFailedError.
        """

    async def apply(self, actions: Sequence[Action]) -> None:
        """Carry out every action, whatever becomes of the others.

        Raises ConnectionLostError, or the NodeFailedError of the first that failed.
        """

    async def revive(self) -> None:
        """Look after a connection that has been missing for a while."""

    async def close(self) -> None:
        """End the session, which removes all ephemeral nodes; returns soon, even without a connection."""


@attrs.define(eq=False)
class KazooTree:
    """A NodeTree over the network. Make it on the trio loop with :meth:`open`."""

    _link: KazooLink

    @classmethod
    def open(cls, settings: TreeSettings, on_change: Callable[[], None]) -> KazooTree:
        """Begin to connect; ``on_change`` is told, on the loop, of changes of the connection and nodes."""
        return cls(KazooLink.open(settings, on_change))

    @property
    def session(self) -> int | None:
        """See NodeTree."""
        return self._link.session

    async def read(self, paths: Sequence[str], *, is_watched: bool = False) -> dict[str, ExistingNode | None]:
        """See NodeTree."""
        found = await Nodes(self._link).read(paths, is_watched=is_watched)
        return {
            path: None if node is None else ExistingNode(node.data, node.owner)
            for path, node in found.items()
        }

    async def children(self, path: str) -> list[str]:
        """See NodeTree."""
        return (await Nodes(self._link).children([path]))[path] or []

    async def apply(self, actions: Sequence[Action]) -> None:
        """See NodeTree."""
        client = self._link.connected()
        failures: list[NodeFailedError] = []
        orphans: list[Create | Store] = []
        followers: list[tuple[str, Callable[[], Kazoo]]] = []
        outcomes = await self._link.request([partial(_begin, client, action) for action in actions])
        for action, outcome in zip(actions, outcomes, strict=True):
            match action, outcome:
                case Create() | Store(), kazoo_errors.NoNodeError():
                    orphans.append(action)
                case Delete() | Retire(), kazoo_errors.NoNodeError():
                    pass
                case Retire(path), kazoo_errors.NotEmptyError():
                    followers.append((path, partial(client.set_async, path, b"")))
                case _, Exception():
                    failures.append(NodeFailedError(action.path, reason_of(outcome)))
        # Parents first: requests are carried out in their order. That one exists already is no failure.
        parents = sorted({parent for action in orphans for parent in ancestors(action.path)})
        await self._link.request([partial(client.create_async, parent, None) for parent in parents])
        for action in orphans:
            # A node to be stored may just have been made, as the parent of another.
            make = _begin if action.path in parents else _make
            followers.append((action.path, partial(make, client, action)))
        outcomes = await self._link.request([begin for _path, begin in followers])
        for (path, _begin_it), outcome in zip(followers, outcomes, strict=True):
            if isinstance(outcome, Exception):
                failures.append(NodeFailedError(path, reason_of(outcome)))
        if failures:
            raise failures[0]

    async def revive(self) -> None:
        """See NodeTree."""
        await self._link.revive()

    async def close(self) -> None:
        """See NodeTree."""
        await self._link.close()


def _begin(client: Kazoo, action: Action) -> Kazoo:
    match action:
        case Create(path, data):
            return client.create_async(path, data, ephemeral=True)
        case Write(path, data) | Store(path, data):
            return client.set_async(path, data)
        case Delete(path) | Retire(path):
            return client.delete_async(path)


def _make(client: Kazoo, action: Create | Store) -> Kazoo:
    return client.create_async(action.path, action.data, ephemeral=isinstance(action, Create))
