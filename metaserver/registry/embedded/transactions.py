"""What changes the registry, as values: validated, complete, and the same wherever they are applied."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from metaserver.registry.embedded.node import Acl


EPOCH_SHIFT = 32


@attrs.frozen
class OpenSession:
    """A session begins."""

    session_id: int
    timeout_ms: int
    password: bytes


@attrs.frozen
class EndSession:
    """A session was closed or has expired: its ephemeral nodes go."""

    session_id: int


@attrs.frozen
class CreateNode:
    """A node appears."""

    path: str
    data: bytes | None
    acl: tuple[Acl, ...]
    owner: int
    """The session of an ephemeral node, or 0."""


@attrs.frozen
class DeleteNode:
    """A node without children goes."""

    path: str


@attrs.frozen
class SetNodeData:
    """A node's data is replaced."""

    path: str
    data: bytes | None


@attrs.frozen
class SetNodeAcl:
    """A node's access list is replaced."""

    path: str
    acl: tuple[Acl, ...]


Change: TypeAlias = OpenSession | EndSession | CreateNode | DeleteNode | SetNodeData | SetNodeAcl


@attrs.frozen
class Transaction:
    """Changes that happen together, at one number and one time."""

    zxid: int
    """The epoch in the upper half, a counter in the lower."""
    wall_ms: int
    changes: tuple[Change, ...]
    """None: an epoch begins."""

    def follows(self, zxid: int) -> bool:
        """Whether it may come next: one more than the one before, or the beginning of a later epoch."""
        begins_epoch = not self.changes and self.zxid == first_zxid(epoch_of(self.zxid))
        return self.zxid == zxid + 1 or (begins_epoch and self.zxid > zxid)


def epoch_of(zxid: int) -> int:
    """The epoch that a transaction belongs to."""
    return zxid >> EPOCH_SHIFT


def first_zxid(epoch: int) -> int:
    """Of the transaction that begins an epoch."""
    return epoch << EPOCH_SHIFT
