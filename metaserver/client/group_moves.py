"""Moving a group: where each of its partitions goes, told before it is done."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.client.fetching import reach
from metaserver.client.group_report import for_each
from metaserver.client.groups import write_offsets
from metaserver.client.headers import locate, log_ends
from metaserver.client.starting_point import describe_between, describe_outside
from metaserver.errors import ClientError
from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaserver.client.connection import BrokerConnection
    from metaserver.client.groups import OffsetNode
    from metaserver.client.partition import Partition
    from metaserver.client.session import Session
    from metaserver.client.starting_point import StartingPoint

_SEARCH_BYTES_MAX = 64 * 1024 * 1024
"""How far in front of an offset the id of the message before it is looked for."""


@attrs.define
class Move:
    """What becomes of one partition."""

    partition: Partition
    node: OffsetNode | None
    """As it was read; None: there is none yet."""
    offset: int = 0
    message_id: int = -1
    problem: str | None = None
    is_written: bool = False


async def find_moves(session: Session, moves: Sequence[Move], starting_point: StartingPoint) -> None:
    """Fill in where each goes, or why it cannot (``Move.problem``)."""

    async def find(move: Move) -> None:
        await _find(session, move, starting_point)

    await for_each(moves, find)


async def write_moves(session: Session, group: str, moves: Sequence[Move], *, forces: bool) -> None:
    """Store the offsets; sets ``Move.is_written`` where nobody else has written meanwhile.

    ``forces``: whatever has been written meanwhile. Raises DiscoveryError; then some may be written.
    """
    targets: Mapping[Partition, tuple[StoredOffset, int | None]] = {
        move.partition: (StoredOffset(move.offset, move.message_id), _version(move, forces=forces))
        for move in moves
    }
    conflicts = await write_offsets(session.network.discovery, group, targets)
    for move in moves:
        move.is_written = move.partition not in conflicts


def _version(move: Move, *, forces: bool) -> int | None:
    """What a node must not have been changed since; a member that is running changes it all the time."""
    if forces:
        return -1
    return None if move.node is None else move.node.version


async def _find(session: Session, move: Move, starting_point: StartingPoint) -> None:
    """Where one partition goes, or why it cannot."""
    partition = move.partition
    try:
        _replica, connection = await reach(session.cluster, session.network.pool, partition)
        start, end = await log_ends(connection, partition.topic, partition.number)
        if starting_point.is_exact:
            await _check(connection, move, starting_point.offset, start, end)
        elif end:
            move.offset = await starting_point.find(connection, partition.topic, partition.number)
            move.message_id = await _id_before(connection, partition, move.offset, start)
    except ClientError as error:
        move.problem = str(error)


async def _check(connection: BrokerConnection, move: Move, offset: int, start: int, end: int) -> None:
    partition = move.partition
    if not start <= offset <= end:
        move.problem = describe_outside(offset, start, end)
        return
    found = await locate(connection, partition.topic, partition.number, offset)
    if not found.is_boundary:
        move.problem = describe_between(offset, found)
        return
    move.offset, move.message_id = offset, found.message_id


async def _id_before(connection: BrokerConnection, partition: Partition, offset: int, start: int) -> int:
    """Of the message that ends there; -1 where that is none, or far to look for."""
    if offset <= start:
        return -1
    segment = await connection.offset(partition.topic, partition.number, offset - 1)
    if offset - segment > _SEARCH_BYTES_MAX:
        return -1
    return (await locate(connection, partition.topic, partition.number, offset)).message_id
