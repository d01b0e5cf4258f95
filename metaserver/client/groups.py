"""What the registry says of groups of consumers: members, claims, offsets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.client.partition import Partition
from metaserver.errors import DiscoveryError, ZooKeeperError
from metaserver.registry.paths import BrokerPartition, StoredOffset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from metaserver.client.discovery import Discovery
    from metaserver.registry.nodes import Node, Nodes


@attrs.frozen
class OffsetNode:
    """An offset as it stands in the registry."""

    data: bytes
    version: int

    @property
    def stored(self) -> StoredOffset | None:
        """What it says; None where it says nothing, or nothing that is an offset."""
        return StoredOffset.parse(self.data)


@attrs.frozen
class Group:
    """One group, as of one look."""

    name: str
    members: Mapping[str, tuple[str, ...]]
    """By id: the topics it has subscribed to."""
    owners: Mapping[Partition, str]
    """Who consumes a partition now; a member's id."""
    offsets: Mapping[Partition, OffsetNode]

    @property
    def topics(self) -> list[str]:
        """What it consumes, or has consumed."""
        of_members = {topic for topics in self.members.values() for topic in topics}
        return sorted(of_members | {p.topic for p in (*self.owners, *self.offsets)})


async def group_names(discovery: Discovery) -> list[str]:
    """Every group there has been; raises DiscoveryError."""
    try:
        path = discovery.layout.groups()
        return (await discovery.connected().children([path]))[path] or []
    except ZooKeeperError as error:
        raise DiscoveryError(discovery.servers.connect, str(error)) from error


async def read_group(discovery: Discovery, name: str) -> Group | None:
    """The group; None where the registry knows none of this name. Raises DiscoveryError."""
    try:
        return await _read(discovery, discovery.connected(), name)
    except ZooKeeperError as error:
        raise DiscoveryError(discovery.servers.connect, str(error)) from error


async def write_offsets(
    discovery: Discovery, group: str, offsets: Mapping[Partition, tuple[StoredOffset, int | None]]
) -> list[Partition]:
    """Write each, with the version its node must have (see ``Nodes.write``); returns what was not written.

    Raises DiscoveryError; then some may be written.
    """
    layout = discovery.layout
    nodes = {
        layout.offset(group, partition.topic, partition.in_topic): (stored.encode(), version)
        for partition, (stored, version) in offsets.items()
    }
    try:
        versions = await discovery.connected().write(nodes)
    except ZooKeeperError as error:
        raise DiscoveryError(discovery.servers.connect, str(error)) from error
    return [p for p, version in zip(offsets, versions.values(), strict=True) if version is None]


async def delete_group(discovery: Discovery, group: str, topic: str | None = None) -> int:
    """Remove everything of a group, or its offsets and claims of one topic; how many nodes.

    Raises DiscoveryError; then some may be gone. A member that is running makes them again.
    """
    layout = discovery.layout
    if topic is None:
        roots = [f"{layout.groups()}/{group}"]
    else:
        roots = [layout.offsets(group, topic), layout.owners(group, topic)]
    try:
        nodes = discovery.connected()
        levels = [list(roots)]
        while levels[-1]:
            found = await nodes.children(levels[-1])
            levels.append([f"{parent}/{name}" for parent, names in found.items() for name in names or ()])
        for level in reversed(levels):
            await nodes.remove(level)
    except ZooKeeperError as error:
        raise DiscoveryError(discovery.servers.connect, str(error)) from error
    return sum(map(len, levels))


async def _read(discovery: Discovery, nodes: Nodes, name: str) -> Group | None:
    layout = discovery.layout
    members_path, offsets_path, owners_path = (
        layout.members(name),
        layout.offset_topics(name),
        layout.owner_topics(name),
    )
    found = await nodes.children([members_path, offsets_path, owners_path])
    if all(names is None for names in found.values()):
        return None
    ids = found[members_path] or []
    members = await nodes.read(layout.member(name, member) for member in ids)
    owners = await _read_partitions(
        nodes,
        found[owners_path] or [],
        lambda topic: layout.owners(name, topic),
    )
    offsets = await _read_partitions(
        nodes,
        found[offsets_path] or [],
        lambda topic: layout.offsets(name, topic),
    )
    return Group(
        name,
        {
            member: _topics_of(node.data)
            for member, node in zip(ids, members.values(), strict=True)
            if node is not None
        },
        {partition: node.data.decode("utf-8", "replace") for partition, node in owners.items()},
        {partition: OffsetNode(node.data, node.version) for partition, node in offsets.items()},
    )


async def _read_partitions(
    nodes: Nodes, topics: Sequence[str], parent_of: Callable[[str], str]
) -> dict[Partition, Node]:
    """What stands at ``PARENT/B-P``, for each of the topics."""
    parents = {parent_of(topic): topic for topic in topics}
    places = {
        f"{parent}/{name}": Partition(parents[parent], parsed.broker_id, parsed.partition)
        for parent, names in (await nodes.children(parents)).items()
        for name, parsed in _parsed(names or ())
    }
    read = await nodes.read(places)
    return {places[path]: node for path, node in read.items() if node is not None}


def _parsed(names: Iterable[str]) -> list[tuple[str, BrokerPartition]]:
    return [(name, parsed) for name in names if (parsed := BrokerPartition.parse(name)) is not None]


def _topics_of(data: bytes) -> tuple[str, ...]:
    return tuple(topic for topic in data.decode("utf-8", "replace").split(",") if topic)
