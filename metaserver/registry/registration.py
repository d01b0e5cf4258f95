"""What a broker has in ZooKeeper, as values: the nodes it wants, and the steps from what is there to them.

Pure. The registrar reads nodes, asks :func:`plan`, and carries the actions out, again and again until there
are none; so every question of what to do with a node found is answered here, in one function.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

import attrs

from metaserver.registry.paths import Replica, TopicNode, TopicTree, encode_number, format_uri

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metaserver.config import ServerConfig
    from metaserver.names import TopicPartition
    from metaserver.registry.paths import Layout


# What the node wants.


@attrs.frozen
class TopicRegistration:
    """One topic, or a section with ``*`` in its name, as it is announced."""

    topic: str
    partition_count: int
    accept_publish: bool = True
    accept_subscribe: bool = True


@attrs.frozen
class Registration:
    """All that a broker announces."""

    replica: Replica
    host: str
    """As clients are told; an IPv6 address with or without brackets."""
    port: int
    config_checksum: int
    """Announced by masters only."""
    topics: tuple[TopicRegistration, ...]
    merged_checksum: int | None = None
    """Announced by slaves: of the master's configuration that theirs was merged from; None: of none."""


@attrs.frozen
class RegisteredSlave:
    """A slave as it stands in the registry."""

    slave_id: int
    address: tuple[str, int] | None
    """None: what stands there is none."""
    merged_checksum: int | None
    """Of the master's configuration that the slave's was merged from; None: it does not say."""


@attrs.frozen
class RegistrationReport:
    """How the broker stands in ZooKeeper."""

    servers: str
    is_connected: bool = False
    is_registered: bool = False
    """Everything it wants stood there at the last look, and the session that holds it is connected."""
    problem: str = ""
    """Why not; blank where it is."""
    session: int | None = None
    topics: int = 0
    """Registered in this session."""
    is_beginning: bool = False
    """No attempt has ended yet, well or badly; it takes some seconds at most."""


def topics_to_register(
    config: ServerConfig, partitions: Iterable[TopicPartition]
) -> tuple[TopicRegistration, ...]:
    """Every section of the configuration, wildcards as written, then every other topic with partitions.

    A topic no section speaks for any more takes no puts; it is announced to those who read, with as
    many partitions as it has, so that what it holds can still be consumed and replicated.
    """
    found = {
        section.name: TopicRegistration(
            section.name, section.partition_count, section.accept_publish, section.accept_subscribe
        )
        for section in config.topics
    }
    counts: dict[str, int] = {}
    for name in partitions:
        counts[name.topic] = max(counts.get(name.topic, 0), name.partition + 1)
    for topic in sorted(counts.keys() - found.keys()):
        section = config.topic_config(topic)
        found[topic] = (
            TopicRegistration(topic, counts[topic], accept_publish=False)
            if section is None
            else TopicRegistration(
                topic, section.partition_count, section.accept_publish, section.accept_subscribe
            )
        )
    return tuple(found.values())


# The nodes that are wanted.


class Rule(enum.Enum):
    """How a node is kept, and what is done with one that others have left there."""

    CLAIM = "claim"
    """Ephemeral. With other data it belongs to another broker, which is waited for."""
    REPORT = "report"
    """Ephemeral, written in place: who reads it watches its data."""
    MEMBER = "member"
    """Ephemeral, replaced where its data changes: who reads it watches only which nodes there are."""
    RECORD = "record"
    """Persistent, written in place."""
    ABSENT = "absent"
    """There must be none."""


@attrs.frozen
class DesiredNode:
    """A node as it must be."""

    path: str
    data: bytes
    rule: Rule


def broker_nodes(layout: Layout, wanted: Registration) -> list[DesiredNode]:
    """The broker's own nodes, in the order in which they are made; the first is the claim to its name."""
    replica, address = wanted.replica, format_uri(wanted.host, wanted.port)
    nodes = [DesiredNode(layout.replica(replica), address, Rule.CLAIM)]
    if replica.slave_id is None:
        checksum = encode_number(wanted.config_checksum)
        nodes += [
            DesiredNode(layout.broker(replica.broker_id), address, Rule.RECORD),
            DesiredNode(layout.checksum(replica.broker_id), checksum, Rule.REPORT),
        ]
    else:
        path = layout.merged_checksum(replica.broker_id, replica.slave_id)
        if wanted.merged_checksum is None:
            nodes.append(DesiredNode(path, b"", Rule.ABSENT))
        else:
            nodes.append(DesiredNode(path, encode_number(wanted.merged_checksum), Rule.REPORT))
    return nodes


def topic_nodes(layout: Layout, replica: Replica, topic: TopicRegistration) -> list[DesiredNode]:
    """The three places of a topic, in the order in which they are made."""
    data = TopicNode(topic.partition_count, replica).encode()
    is_present = {
        TopicTree.ALL: True,
        TopicTree.PUBLISH: topic.accept_publish,
        TopicTree.SUBSCRIBE: topic.accept_subscribe,
    }
    return [
        DesiredNode(
            layout.topic_replica(tree, topic.topic, replica),
            encode_number(topic.partition_count) if tree is TopicTree.ALL else data,
            Rule.MEMBER if present else Rule.ABSENT,
        )
        for tree, present in is_present.items()
    ]


def absent_topic_nodes(layout: Layout, replica: Replica, topic: str) -> list[DesiredNode]:
    """The three places of a topic that is announced no more."""
    return [DesiredNode(layout.topic_replica(tree, topic, replica), b"", Rule.ABSENT) for tree in TopicTree]


# From what is there to what is wanted.


@attrs.frozen
class ExistingNode:
    """A node as it was found."""

    data: bytes
    """Empty also where the node holds null."""
    owner: int
    """The session of an ephemeral node; 0: the node is persistent."""


@attrs.frozen
class Create:
    """Make an ephemeral node, and its parents, which are persistent and hold null."""

    path: str
    data: bytes


@attrs.frozen
class Write:
    """Replace the data of a node that exists."""

    path: str
    data: bytes


@attrs.frozen
class Store:
    """Write a persistent node; it and its parents are made where they are missing."""

    path: str
    data: bytes


@attrs.frozen
class Delete:
    """Remove a node; nothing to do where there is none."""

    path: str


@attrs.frozen
class Retire:
    """Remove a node; where it has children, write empty text instead."""

    path: str


Action = Create | Write | Store | Delete | Retire


@attrs.frozen
class Plan:
    """What to do, in this order; nothing when everything is as it must be."""

    actions: tuple[Action, ...]
    rival: ExistingNode | None = None
    """Another broker's node in the place of a claim. Nothing may be done until it is gone."""


def plan(desired: Iterable[DesiredNode], existing: Mapping[str, ExistingNode | None], session: int) -> Plan:
    """Compare; a node that is right already is left alone.

    A node of another session in the place of ours was left by a process that is no more, this broker's
    own or one that had its name before: whoever holds the claim replaces it. Only the claim itself asks
    whose it was. Its data is the address, and two living processes cannot have the same.
    """
    actions: list[Action] = []
    for node in desired:
        found = existing[node.path]
        if _is_rival(node, found, session):
            return Plan((), found)
        actions += _actions(node, found, session)
    return Plan(tuple(actions))


def departure(
    layout: Layout, replica: Replica, topics: Iterable[str]
) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
    """Leave: first the broker's own nodes, then those of its topics."""
    own: list[Action] = [Delete(layout.replica(replica))]
    if replica.slave_id is None:
        own += [Delete(layout.checksum(replica.broker_id)), Retire(layout.broker(replica.broker_id))]
    else:
        own.append(Delete(layout.merged_checksum(replica.broker_id, replica.slave_id)))
    paths = [node.path for topic in topics for node in absent_topic_nodes(layout, replica, topic)]
    return tuple(own), tuple(Delete(path) for path in paths)


def _is_rival(node: DesiredNode, found: ExistingNode | None, session: int) -> bool:
    if node.rule is not Rule.CLAIM or found is None:
        return False
    return found.owner != session and found.data != node.data


def _actions(node: DesiredNode, found: ExistingNode | None, session: int) -> list[Action]:
    match node.rule:
        case Rule.ABSENT:
            return [] if found is None else [Delete(node.path)]
        case Rule.RECORD:
            is_right = found is not None and found.data == node.data
            return [] if is_right else [Store(node.path, node.data)]
        case Rule.CLAIM | Rule.REPORT | Rule.MEMBER:
            if found is None:
                return [Create(node.path, node.data)]
            if found.owner == session and found.data == node.data:
                return []
            if found.owner == session and node.rule is Rule.REPORT:
                return [Write(node.path, node.data)]
            return [Delete(node.path), Create(node.path, node.data)]
