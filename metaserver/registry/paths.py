"""The layout that brokers and clients of MetaQ share in ZooKeeper: paths, and what the nodes hold.

::

    ROOT/brokers/ids/B                        meta://HOST:PORT of the master, persistent, for old clients
    ROOT/brokers/ids/B/master                 meta://HOST:PORT
    ROOT/brokers/ids/B/slaveS                 meta://HOST:PORT
    ROOT/brokers/ids/B/master_config_checksum CRC-32 of the master's server.ini, decimal
    ROOT/brokers/ids/B/config_checksum-sS     the one that the slave's was merged from; ours
    ROOT/brokers/topics/T/B-m  or  B-sS       number of partitions, for clients before 1.4.3
    ROOT/brokers/topics-pub/T/B-m             {"numParts":N,"broker":"B-m"}, where producers may send to T
    ROOT/brokers/topics-sub/T/B-m             the same, where consumers may read T
    ROOT/consumers/G/ids/ID                   topics, separated by commas
    ROOT/consumers/G/offsets/T/B-P            MESSAGEID-OFFSET
    ROOT/consumers/G/owners/T/B-P             the consumer's id

Text is UTF-8. What does not read as its form parses to None: others write here too, and one odd node
must not stop who looks for the rest.
"""

from __future__ import annotations

import enum
import json
from typing import Final

import attrs

MASTER_NODE: Final = "master"
CHECKSUM_NODE: Final = "master_config_checksum"
_MERGED_NODE = "config_checksum-s"

_SCHEME = "meta://"
_SLAVE = "slave"
_DIGITS_MAX = 19
"""Of a Java long."""


class TopicTree(enum.Enum):
    """The three places where a topic's brokers stand."""

    ALL = "topics"
    """Every topic; read by clients before 1.4.3."""
    PUBLISH = "topics-pub"
    SUBSCRIBE = "topics-sub"


@attrs.frozen
class Replica:
    """One copy of a broker's data: its master, or a slave."""

    broker_id: int
    slave_id: int | None = None
    """None: the master."""

    def __str__(self) -> str:
        """As in names of topic nodes: ``B-m`` or ``B-sS``."""
        return f"{self.broker_id}-m" if self.slave_id is None else f"{self.broker_id}-s{self.slave_id}"

    @classmethod
    def parse(cls, text: str) -> Replica | None:
        """The replica that a topic node's name stands for."""
        broker, dash, role = text.partition("-")
        broker_id = _number(broker)
        if not dash or broker_id is None:
            return None
        if role == "m":
            return cls(broker_id)
        slave_id = _number(role[1:]) if role.startswith("s") else None
        return None if slave_id is None else cls(broker_id, slave_id)

    @classmethod
    def parse_child(cls, broker_id: int, name: str) -> Replica | None:
        """The replica that a child of ``/brokers/ids/B`` stands for; None for the checksum and others."""
        if name == MASTER_NODE:
            return cls(broker_id)
        slave_id = _number(name.removeprefix(_SLAVE)) if name.startswith(_SLAVE) else None
        return None if slave_id is None else cls(broker_id, slave_id)


@attrs.frozen
class BrokerPartition:
    """A partition of a topic, among all brokers."""

    broker_id: int
    partition: int

    def __str__(self) -> str:
        """As in names of offset and owner nodes: ``B-P``."""
        return f"{self.broker_id}-{self.partition}"

    @classmethod
    def parse(cls, text: str) -> BrokerPartition | None:
        """The partition that an offset or owner node's name stands for."""
        broker, dash, partition = text.partition("-")
        broker_id, number = _number(broker), _number(partition)
        return None if not dash or broker_id is None or number is None else cls(broker_id, number)


@attrs.frozen
class TopicNode:
    """What a node below topics-pub or topics-sub says."""

    partition_count: int
    replica: Replica

    def encode(self) -> bytes:
        """Exactly the two members that Java's strict readers know."""
        members = {"numParts": self.partition_count, "broker": str(self.replica)}
        return json.dumps(members, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes) -> TopicNode | None:
        """Members in any order; unknown ones are passed over."""
        try:
            members = json.loads(data)
        except (ValueError, RecursionError):
            return None
        if not isinstance(members, dict):
            return None
        count, broker = members.get("numParts"), members.get("broker")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0 or not isinstance(broker, str):
            return None
        replica = Replica.parse(broker)
        return None if replica is None else cls(count, replica)


@attrs.frozen
class StoredOffset:
    """What an offset node says."""

    offset: int
    message_id: int | None
    """Of the last message consumed, -1 where there was none; None in nodes of clients before 1.4."""

    def encode(self) -> bytes:
        """``MESSAGEID-OFFSET``, or the offset alone."""
        text = str(self.offset) if self.message_id is None else f"{self.message_id}-{self.offset}"
        return text.encode()

    @classmethod
    def parse(cls, data: bytes) -> StoredOffset | None:
        """Split at the last dash, for an id may be negative; a dash in front is the offset's own sign."""
        text = _text(data)
        dash = text.rfind("-")
        offset = _signed(text[dash + 1 :] if dash > 0 else text)
        message_id = _signed(text[:dash]) if dash > 0 else None
        if offset is None or (dash > 0 and message_id is None):
            return None
        return cls(offset, message_id)


def _without_end(root: str) -> str:
    return root.rstrip("/")


@attrs.frozen
class Layout:
    """Builds paths below one root."""

    root: str = attrs.field(converter=_without_end)
    """``/meta``; ``/`` and the empty text are the top of the tree."""

    def brokers(self) -> str:
        """The parent of all brokers."""
        return f"{self.root}/brokers/ids"

    def broker(self, broker_id: int) -> str:
        """The parent of a broker's replicas; persistent, for old clients itself the address of the master."""
        return f"{self.brokers()}/{broker_id}"

    def replica(self, replica: Replica) -> str:
        """The address of a master or slave; ephemeral."""
        name = MASTER_NODE if replica.slave_id is None else f"{_SLAVE}{replica.slave_id}"
        return f"{self.broker(replica.broker_id)}/{name}"

    def checksum(self, broker_id: int) -> str:
        """The checksum of the master's configuration; ephemeral."""
        return f"{self.broker(broker_id)}/{CHECKSUM_NODE}"

    def merged_checksum(self, broker_id: int, slave_id: int) -> str:
        """The checksum of the master's configuration that a slave's was merged from; ephemeral."""
        return f"{self.broker(broker_id)}/{_MERGED_NODE}{slave_id}"

    def topics(self, tree: TopicTree) -> str:
        """The parent of all topics."""
        return f"{self.root}/brokers/{tree.value}"

    def topic(self, tree: TopicTree, topic: str) -> str:
        """The parent of a topic's replicas."""
        return f"{self.topics(tree)}/{topic}"

    def topic_replica(self, tree: TopicTree, topic: str, replica: Replica) -> str:
        """Says that the replica has the topic; ephemeral."""
        return f"{self.topic(tree, topic)}/{replica}"

    def groups(self) -> str:
        """The parent of all groups of consumers."""
        return f"{self.root}/consumers"

    def members(self, group: str) -> str:
        """The parent of a group's members."""
        return f"{self.groups()}/{group}/ids"

    def member(self, group: str, consumer_id: str) -> str:
        """The topics of a member; ephemeral."""
        return f"{self.members(group)}/{consumer_id}"

    def offset_topics(self, group: str) -> str:
        """The parent of the topics that a group has offsets in."""
        return f"{self.groups()}/{group}/offsets"

    def offsets(self, group: str, topic: str) -> str:
        """The parent of a group's offsets in a topic."""
        return f"{self.offset_topics(group)}/{topic}"

    def offset(self, group: str, topic: str, partition: BrokerPartition) -> str:
        """How far the group has come; persistent."""
        return f"{self.offsets(group, topic)}/{partition}"

    def owner_topics(self, group: str) -> str:
        """The parent of the topics that a group has claims in."""
        return f"{self.groups()}/{group}/owners"

    def owners(self, group: str, topic: str) -> str:
        """The parent of the claims to a topic's partitions."""
        return f"{self.owner_topics(group)}/{topic}"

    def owner(self, group: str, topic: str, partition: BrokerPartition) -> str:
        """Which member consumes the partition; ephemeral."""
        return f"{self.owners(group, topic)}/{partition}"


def ancestors(path: str) -> list[str]:
    """The nodes above ``path``, from the top down, without ``/``."""
    parts = path.split("/")[1:-1]
    return ["/" + "/".join(parts[: end + 1]) for end in range(len(parts))]


def split_connect(connect: str) -> tuple[str, str]:
    """``host:port,host:port/path`` as servers and the path that goes in front of others, or blank."""
    servers, slash, path = connect.partition("/")
    return servers, f"/{path}".rstrip("/") if slash else ""


def format_uri(host: str, port: int) -> bytes:
    """``meta://HOST:PORT``; an IPv6 address is put in brackets where it has none."""
    is_bare_ipv6 = ":" in host and not host.startswith("[")
    return f"{_SCHEME}[{host}]:{port}".encode() if is_bare_ipv6 else f"{_SCHEME}{host}:{port}".encode()


def parse_uri(data: bytes) -> tuple[str, int] | None:
    """Host, without brackets, and port."""
    text = _text(data)
    host, colon, port_text = text.removeprefix(_SCHEME).rpartition(":")
    port = _number(port_text)
    if not text.startswith(_SCHEME) or not colon or port is None or not 0 < port < 2**16:
        return None
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    is_plain = host.isprintable() and not any(character in " /?#@[]" for character in host)
    return (host, port) if host and is_plain else None


def encode_number(number: int) -> bytes:
    """A partition count or a checksum."""
    return str(number).encode()


def parse_number(data: bytes) -> int | None:
    """A partition count or a checksum."""
    return _number(_text(data))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _number(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX
    return int(text) if is_number else None


def _signed(text: str) -> int | None:
    number = _number(text.removeprefix("-"))
    return -number if number is not None and text.startswith("-") else number
