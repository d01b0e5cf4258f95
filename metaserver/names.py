"""Small types for the words of the field, so that an offset is never taken for a size."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import NewType

import attrs

Topic = NewType("Topic", str)
Group = NewType("Group", str)
PartitionId = NewType("PartitionId", int)
BrokerId = NewType("BrokerId", int)

Offset = NewType("Offset", int)
"""A byte position in a partition's log, counted from its very first byte ever."""

MessageId = NewType("MessageId", int)

MAX_OFFSET = Offset(2**63 - 1)
"""Asks for the end of a log (Java's ``Long.MAX_VALUE``)."""

TOPIC_BYTES_MAX = 200
"""A directory name may have 255 bytes; the partition number needs some of them."""

_DIGITS_MAX = 40
"""More than any number here has, and far fewer than Python refuses to read."""

_TOPIC = re.compile(rf"(?!\.{{1,2}}\Z)[!-.0-~]{{1,{TOPIC_BYTES_MAX}}}")


def is_valid_topic(name: str) -> bool:
    """Whether a topic of this name can be stored: printable ASCII, no blank, no slash, not ``..``."""
    return _TOPIC.fullmatch(name) is not None


def pattern_matches(pattern: str, topic: str) -> bool:
    """Whether the name of a section, in which ``*`` stands for any characters, speaks for a topic.

    In time proportional to the length of the topic, which comes from the network: no regular expression.
    """
    first, *pieces = pattern.split("*")
    if not pieces:
        return topic == first
    last = pieces.pop()
    if len(topic) < len(first) + len(last) or not topic.startswith(first) or not topic.endswith(last):
        return False
    position, end = len(first), len(topic) - len(last)
    for piece in pieces:
        found = topic.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


def parse_digits(text: str, maximum: int) -> int | None:
    """The number that ASCII digits write; None where it is none, or larger. However long the text is."""
    if not (text.isascii() and text.isdigit()) or len(text) > _DIGITS_MAX:
        return None
    number = int(text)
    return number if number <= maximum else None


class Compression(StrEnum):
    """Whether a slave has its master compress what it sends."""

    OFF = "off"
    AUTO = "auto"
    """Where the master is on another machine, and the link is what holds up."""
    ON = "on"


class AckLevel(StrEnum):
    """What a put waits for before it is answered; each level includes the ones above it but the first."""

    MEMORY = "memory"
    """The operating system has the bytes."""
    DISK = "disk"
    """They are synced."""
    SLAVE = "slave"
    """The operating systems of enough slaves have them too."""
    SLAVE_DISK = "slave_disk"
    """They are synced at enough slaves."""

    @property
    def waits_for_slaves(self) -> bool:
        """Whether the master alone cannot answer."""
        return self in (AckLevel.SLAVE, AckLevel.SLAVE_DISK)


@attrs.frozen(order=True)
class TopicPartition:
    """One partition of one topic; its directory is ``TOPIC-PARTITION``."""

    topic: Topic
    partition: PartitionId

    def __str__(self) -> str:
        """The directory name."""
        return f"{self.topic}-{self.partition}"

    @classmethod
    def parse(cls, directory_name: str) -> TopicPartition | None:
        """The partition a directory name stands for (split at the last dash); None if for none."""
        topic, dash, partition = directory_name.rpartition("-")
        number = parse_digits(partition, MAX_OFFSET)
        if not dash or number is None or str(number) != partition or not is_valid_topic(topic):
            return None
        return cls(Topic(topic), PartitionId(number))


REGISTRY_TOPIC = Topic("__registry")
"""The broker's own: what the embedded registry writes. No client puts into it, and no file configures it."""

REGISTRY_LOG = TopicPartition(REGISTRY_TOPIC, PartitionId(0))
