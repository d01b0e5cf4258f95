"""What a new master does for the groups: none of them is to go on behind the end of what it has.

The successor of a lost master may lack the end of the log, and a group may have come further. What stands in
the registry is then an offset inside of another message, or one behind messages that the group has not seen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from metaserver.errors import NodeFailedError
from metaserver.logs import get_logger
from metaserver.registry.paths import BrokerPartition, StoredOffset
from metaserver.registry.registration import Write

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.registry.paths import Layout
    from metaserver.registry.zookeeper import NodeTree

_log = get_logger(__name__)

Judge: TypeAlias = "Callable[[str, int, StoredOffset], int | None]"
"""Topic, partition and what a group says of it: where the group has to go on instead; None: right there."""


async def bring_back(tree: NodeTree, layout: Layout, broker_id: int, judge: Judge) -> None:
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
                offset = None if stored is None else judge(topic, paths[path].partition, stored)
                if stored is None or offset is None:
                    continue
                _log.warning(
                    "A group had come further than this master",
                    group=group,
                    partition=f"{topic}-{paths[path].partition}",
                    offset=stored.offset,
                    now=offset,
                )
                try:
                    await tree.apply([Write(path, StoredOffset(offset, -1).encode())])
                except NodeFailedError as error:
                    _log.warning("An offset could not be brought back", reason=str(error))
