"""What a new master does for the groups: none is to go on at an offset that means something else there.

The successor of a lost master may lack the end of the log, and a group may have come further. What stands in
the registry is then an offset inside of another message, or one behind messages that the group has not seen.
The master of a pair may even have the same messages at other offsets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from metaserver.errors import NodeFailedError
from metaserver.logs import get_logger
from metaserver.registry.paths import BrokerPartition, StoredOffset
from metaserver.registry.registration import Write

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.registry.paths import Layout
    from metaserver.registry.zookeeper import NodeTree

_log = get_logger(__name__)

Judge: TypeAlias = "Callable[[str, int, StoredOffset], int | None]"
"""Topic, partition and what a group says of it: where the group has to go on instead; None: right there."""


Relocate: TypeAlias = "Callable[[str, int, StoredOffset], Awaitable[StoredOffset | None]]"
"""The same, where the group has had all that is before there; it may take a while."""


async def bring_back(tree: NodeTree, layout: Layout, broker_id: int, judge: Judge) -> None:
    """Move the groups that had come further than this master; raises ConnectionLostError."""

    async def move(topic: str, partition: int, stored: StoredOffset) -> StoredOffset | None:
        offset = judge(topic, partition, stored)
        return None if offset is None else StoredOffset(offset, -1)

    await relocate(tree, layout, broker_id, move, "A group had come further than this master")


async def relocate(
    tree: NodeTree,
    layout: Layout,
    broker_id: int,
    move: Relocate,
    what: str = "A group goes on at another offset",
) -> None:
    """Look at the offsets of all groups in a broker's partitions; raises ConnectionLostError.

    A member that commits meanwhile finds that somebody else has, and goes on from there.
    """
    for group in await tree.children(layout.groups()):
        for topic in await tree.children(layout.offset_topics(group)):
            names = await tree.children(layout.offsets(group, topic))
            found = [parsed for name in names if (parsed := BrokerPartition.parse(name)) is not None]
            own = [parsed for parsed in found if parsed.broker_id == broker_id]
            paths = {layout.offset(group, topic, partition): partition for partition in own}
            for path, node in (await tree.read(list(paths))).items():
                stored = None if node is None else StoredOffset.parse(node.data)
                moved = None if stored is None else await move(topic, paths[path].partition, stored)
                if stored is None or moved is None:
                    continue
                _log.warning(
                    what,
                    group=group,
                    partition=f"{topic}-{paths[path].partition}",
                    offset=stored.offset,
                    now=moved.offset,
                )
                try:
                    await tree.apply([Write(path, moved.encode())])
                except NodeFailedError as error:
                    _log.warning("An offset could not be moved", reason=str(error))
