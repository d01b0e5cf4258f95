"""Decides whether a write may happen, and what it then is: the rules of ZooKeeper, in their order."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from metaserver.registry.embedded.acl import Permission, check_acl, resolve_acl
from metaserver.registry.embedded.codes import ANY_VERSION, Code, RequestRefusedError
from metaserver.registry.embedded.requests import Check, Create, Delete, SetAcl, SetData
from metaserver.registry.embedded.transactions import CreateNode, DeleteNode, SetNodeAcl, SetNodeData
from metaserver.registry.embedded.tree import PERMANENT_PATHS, split_path

if TYPE_CHECKING:
    from collections.abc import Collection

    from metaserver.registry.embedded.acl import Identity
    from metaserver.registry.embedded.node import Node
    from metaserver.registry.embedded.requests import Write
    from metaserver.registry.embedded.transactions import Change
    from metaserver.registry.embedded.tree import Tree

_BAD_CHARACTER = re.compile("[\0-\x1f\x7f-\x9f\ud800-\uf8ff\ufff0-\uffff]")


def plan(tree: Tree, request: Write, session_id: int, identities: Collection[Identity]) -> Change | None:
    """The change a write means in the tree as it is; None for one that only checks.

    Raises RequestRefusedError.
    """
    match request:
        case Create():
            return _plan_create(tree, request, session_id, identities)
        case Delete(path=path, version=version):
            return _plan_delete(tree, path, version, identities)
        case SetData(path=path, data=data, version=version):
            node = find(tree, path)
            check_acl(node.acl, Permission.WRITE, identities)
            _check_version(node.version, version)
            return SetNodeData(path, data)
        case SetAcl(path=path, acl=acl, version=version):
            resolved = resolve_acl(acl, identities)
            node = find(tree, path)
            check_acl(node.acl, Permission.ADMIN, identities)
            _check_version(node.acl_version, version)
            return SetNodeAcl(path, resolved)
        case Check(path=path, version=version):
            node = find(tree, path)
            check_acl(node.acl, Permission.READ, identities)
            _check_version(node.version, version)
            return None


def find(tree: Tree, path: str) -> Node:
    """The node. Raises RequestRefusedError where there is none."""
    node = tree.nodes.get(path)
    if node is None:
        raise RequestRefusedError(Code.NO_NODE)
    return node


def is_valid_path(path: str) -> bool:
    """Whether a node may have this path."""
    if path == "/":
        return True
    if not path.startswith("/") or _BAD_CHARACTER.search(path):
        return False
    return all(name not in ("", ".", "..") for name in path[1:].split("/"))


def _plan_create(
    tree: Tree, request: Create, session_id: int, identities: Collection[Identity]
) -> CreateNode:
    path = request.path
    if "/" not in path or "\0" in path:
        raise RequestRefusedError(Code.BAD_ARGUMENTS)
    acl = resolve_acl(request.acl, identities)
    parent = find(tree, split_path(path)[0])
    check_acl(parent.acl, Permission.CREATE, identities)
    if request.is_sequential:
        path = f"{path}{parent.children_created:010d}"
    if not is_valid_path(path):
        raise RequestRefusedError(Code.BAD_ARGUMENTS)
    if path in tree.nodes:
        raise RequestRefusedError(Code.NODE_EXISTS)
    if parent.owner:
        raise RequestRefusedError(Code.NO_CHILDREN_FOR_EPHEMERALS)
    return CreateNode(path, request.data, acl, session_id if request.is_ephemeral else 0)


def _plan_delete(tree: Tree, path: str, version: int, identities: Collection[Identity]) -> DeleteNode:
    if "/" not in path or "\0" in path or path in PERMANENT_PATHS:
        raise RequestRefusedError(Code.BAD_ARGUMENTS)
    parent, node = find(tree, split_path(path)[0]), find(tree, path)
    check_acl(parent.acl, Permission.DELETE, identities)
    _check_version(node.version, version)
    if node.children:
        raise RequestRefusedError(Code.NOT_EMPTY)
    return DeleteNode(path)


def _check_version(actual: int, expected: int) -> None:
    if expected not in (ANY_VERSION, actual):
        raise RequestRefusedError(Code.BAD_VERSION)
