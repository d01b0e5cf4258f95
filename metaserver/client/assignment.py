"""Which member of a group consumes which partitions. Pure; MetaQ's rules, so that Java members agree.

Every member computes the whole assignment by itself from the same lists, sorted as text. Source: reference
client-consumer.md, 4.3 and 4.4.
"""

from __future__ import annotations

import bisect
import hashlib
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metaserver.client.partition import Partition

Strategy: TypeAlias = "Callable[[str, Sequence[str], Sequence[Partition]], list[Partition]]"
"""A member's share: its id, the ids of all members of a topic, sorted, and the topic's partitions, sorted."""

_POINTS = Struct("<4I")
_POINT_GROUPS = 40


def assign_blocks(member: str, members: Sequence[str], partitions: Sequence[Partition]) -> list[Partition]:
    """MetaQ's DEFAULT: neighbouring partitions, as even as can be; members beyond their number get none."""
    if member not in members:
        return []
    index = members.index(member)
    base, extra = divmod(len(partitions), len(members))
    start = base * index + min(index, extra)
    return list(partitions[start : start + base + (1 if index < extra else 0)])


def assign_consistently(
    member: str, members: Sequence[str], partitions: Sequence[Partition]
) -> list[Partition]:
    """MetaQ's CONSIST: a ring of hashes; fewer partitions move, and the shares are uneven."""
    ring = sorted(
        {point: name for name in members for point in _points(name)}.items(), key=lambda entry: entry[0]
    )
    points = [point for point, _name in ring]
    found = []
    for partition in partitions:
        digest = hashlib.md5(str(partition.in_topic).encode(), usedforsecurity=False).digest()
        at = bisect.bisect_left(points, _POINTS.unpack(digest)[0]) % len(ring) if ring else 0
        if ring and ring[at][1] == member:
            found.append(partition)
    return found


@attrs.frozen
class Change:
    """What a member does to come from what it holds to its share."""

    release: tuple[Partition, ...]
    claim: tuple[Partition, ...]


def share(
    member: str,
    topics_of_members: Mapping[str, Sequence[str]],
    partitions: Mapping[str, Sequence[Partition]],
    strategy: Strategy = assign_blocks,
) -> list[Partition]:
    """All partitions that are a member's, over its topics.

    ``topics_of_members`` has every member of the group; ``partitions`` those of this member's topics.
    """
    found: list[Partition] = []
    for topic in sorted(set(topics_of_members.get(member, ()))):
        members = sorted(name for name, topics in topics_of_members.items() if topic in topics)
        found += strategy(member, members, partitions.get(topic, ()))
    return found


def change(held: Sequence[Partition], wanted: Sequence[Partition]) -> Change:
    """Only what must move moves."""
    now, then = set(held), set(wanted)
    return Change(
        tuple(partition for partition in held if partition not in then),
        tuple(partition for partition in wanted if partition not in now),
    )


def _points(member: str) -> list[int]:
    points: list[int] = []
    for group in range(_POINT_GROUPS):
        digest = hashlib.md5(f"{member}-{group}".encode(), usedforsecurity=False).digest()
        points += _POINTS.unpack(digest)
    return points
