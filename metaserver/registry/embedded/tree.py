"""The tree of nodes: a deterministic state machine that changes are applied to.

It checks nothing (see :mod:`planning`): what it is given comes from the planner, or from the log, where
the planner put it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from metaserver.registry.embedded.node import OPEN_ACL, Node
from metaserver.registry.embedded.transactions import (
    CreateNode,
    DeleteNode,
    EndSession,
    OpenSession,
    SetNodeAcl,
    SetNodeData,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.registry.embedded.transactions import Change, Transaction

Undo: TypeAlias = "Callable[[], None]"

_FIRST_PATHS = ("/zookeeper", "/zookeeper/quota", "/zookeeper/config")
PERMANENT_PATHS = frozenset({"/", *_FIRST_PATHS})
"""What ZooKeeper has from the start and lets nobody delete."""


def split_path(path: str) -> tuple[str, str]:
    """Parent and name; the root's parent is the root, its name empty."""
    parent, _, name = path.rpartition("/")
    return parent or "/", name


@attrs.frozen
class SessionRecord:
    """What must be known of a session to take it up again."""

    timeout_ms: int
    password: bytes = attrs.field(repr=False)


def _first_nodes() -> dict[str, Node]:
    nodes = {path: Node(b"", OPEN_ACL, 0, 0, 0, 0, 0) for path in ("/", *_FIRST_PATHS)}
    nodes["/"].children["zookeeper"] = None
    nodes["/zookeeper"].children.update({"quota": None, "config": None})
    return nodes


@attrs.define(eq=False)
class Tree:
    """Nodes by path, sessions by number, and the last transaction's number."""

    nodes: dict[str, Node] = attrs.Factory(_first_nodes)
    sessions: dict[int, SessionRecord] = attrs.Factory(dict)
    ephemerals: dict[int, dict[str, None]] = attrs.Factory(dict)
    """Paths by session, oldest first; only of sessions that have any."""
    zxid: int = 0
    last_session_id: int = 0
    """The highest ever given out."""

    def apply(self, transaction: Transaction) -> None:
        """Do all of it."""
        for change in transaction.changes:
            self.apply_change(change, transaction.zxid, transaction.wall_ms)
        self.zxid = transaction.zxid

    def apply_change(self, change: Change, zxid: int, wall_ms: int) -> Undo:
        """Do one change of a transaction; returns what takes it back, while nothing else has followed."""
        match change:
            case CreateNode():
                return self._create(change, zxid, wall_ms)
            case DeleteNode(path=path):
                return self._delete(path, zxid)
            case SetNodeData(path=path, data=data):
                return self._set_data(path, data, zxid, wall_ms)
            case SetNodeAcl(path=path, acl=acl):
                node = self.nodes[path]
                before = node.acl
                node.acl = acl
                node.acl_version += 1

                def undo() -> None:
                    node.acl = before
                    node.acl_version -= 1

                return undo
            case OpenSession(session_id=session_id, timeout_ms=timeout_ms, password=password):
                self.sessions[session_id] = SessionRecord(timeout_ms, password)
                self.last_session_id = max(self.last_session_id, session_id)
            case EndSession(session_id=session_id):
                for path in self.ephemerals_of(session_id):
                    self._delete(path, zxid)
                self.sessions.pop(session_id, None)
        return _cannot_undo

    def ephemerals_of(self, session_id: int) -> list[str]:
        """The session's ephemeral nodes, oldest first."""
        return list(self.ephemerals.get(session_id, ()))

    def add_loaded(self, path: str, node: Node) -> None:
        """Put a node of a snapshot in its place; parents come before their children."""
        self.nodes[path] = node
        if path != "/":
            parent, name = split_path(path)
            self.nodes[parent].children[name] = None
        if node.owner:
            self.ephemerals.setdefault(node.owner, {})[path] = None

    def _create(self, change: CreateNode, zxid: int, wall_ms: int) -> Undo:
        path = change.path
        parent_path, name = split_path(path)
        parent = self.nodes[parent_path]
        children_zxid = parent.children_zxid
        self.nodes[path] = Node(
            change.data, change.acl, zxid, zxid, zxid, wall_ms, wall_ms, owner=change.owner
        )
        parent.children[name] = None
        parent.children_created += 1
        parent.children_zxid = zxid
        if change.owner:
            self.ephemerals.setdefault(change.owner, {})[path] = None

        def undo() -> None:
            self._remove(path, self.nodes[path])
            parent.children_created -= 1
            parent.children_zxid = children_zxid

        return undo

    def _delete(self, path: str, zxid: int) -> Undo:
        parent_path, name = split_path(path)
        parent, node = self.nodes[parent_path], self.nodes[path]
        children_zxid = parent.children_zxid
        self._remove(path, node)
        parent.children_zxid = zxid

        def undo() -> None:
            self.nodes[path] = node
            parent.children[name] = None
            parent.children_zxid = children_zxid
            if node.owner:
                self.ephemerals.setdefault(node.owner, {})[path] = None

        return undo

    def _remove(self, path: str, node: Node) -> None:
        parent_path, name = split_path(path)
        del self.nodes[path]
        del self.nodes[parent_path].children[name]
        if node.owner:
            owned = self.ephemerals[node.owner]
            del owned[path]
            if not owned:
                del self.ephemerals[node.owner]

    def _set_data(self, path: str, data: bytes | None, zxid: int, wall_ms: int) -> Undo:
        node = self.nodes[path]
        before = node.data, node.version, node.modified_zxid, node.modified_ms
        node.data = data
        node.version += 1
        node.modified_zxid, node.modified_ms = zxid, wall_ms

        def undo() -> None:
            node.data, node.version, node.modified_zxid, node.modified_ms = before

        return undo


def _cannot_undo() -> None:
    """Sessions begin and end in transactions of their own, which are not refused half-way."""
