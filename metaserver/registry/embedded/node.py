"""One node of the tree, and the two values about it that clients see: access list and stat."""

from __future__ import annotations

from struct import Struct

import attrs

from metaserver.registry.embedded.codes import ALL_PERMISSIONS
from metaserver.registry.embedded.jute import encode_int, encode_string

_STAT = Struct(">qqqqiiiqiiq")
STAT_SIZE = _STAT.size


@attrs.frozen
class Acl:
    """One entry of an access list."""

    permissions: int
    scheme: str
    identity: str


OPEN_ACL = (Acl(ALL_PERMISSIONS, "world", "anyone"),)


@attrs.define(eq=False)
class Node:
    """A node; only the tree changes one."""

    data: bytes | None
    acl: tuple[Acl, ...]
    created_zxid: int
    modified_zxid: int
    children_zxid: int
    """The last transaction that added or removed a child."""
    created_ms: int
    modified_ms: int
    version: int = 0
    acl_version: int = 0
    children_created: int = 0
    """How many children were ever made here: the next sequential one's number."""
    owner: int = 0
    """The session whose end removes the node; 0 for none."""
    children: dict[str, None] = attrs.Factory(dict)

    def encode_stat(self) -> bytes:
        """As replies carry it."""
        return _STAT.pack(
            self.created_zxid,
            self.modified_zxid,
            self.created_ms,
            self.modified_ms,
            self.version,
            # Every child there is was made once, every other was made and removed.
            2 * self.children_created - len(self.children),
            self.acl_version,
            self.owner,
            0 if self.data is None else len(self.data),
            len(self.children),
            self.children_zxid,
        )


def encode_acl(acl: tuple[Acl, ...]) -> bytes:
    """As requests and replies carry it."""
    parts = [encode_int(len(acl))]
    for entry in acl:
        parts += encode_int(entry.permissions), encode_string(entry.scheme), encode_string(entry.identity)
    return b"".join(parts)
