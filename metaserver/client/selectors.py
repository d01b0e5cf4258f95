"""Which partition a message goes to. Any function of the same form will do as well."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import attrs

from metaserver.client.partition import Partition
from metaserver.errors import ConfigError, NoPartitionError
from metaserver.names import parse_digits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


_BROKER_MAX = 2**31 - 1
_PARTITIONS_MAX = 100_000
"""Of one broker, in a layout: far more than any has."""


class Selector(Protocol):
    """Chooses among the partitions that take messages now."""

    def __call__(
        self, topic: str, partitions: Sequence[Partition], key: bytes | None, payload: bytes
    ) -> Partition:
        """One of ``partitions``, which is not empty; raises NoPartitionError where none of them will do."""
        ...


@attrs.define(eq=False)
class RoundRobin:
    """One after another, for each topic; the second of the list comes first, as in MetaQ."""

    _counts: dict[str, int] = attrs.Factory(dict)

    def __call__(
        self,
        topic: str,
        partitions: Sequence[Partition],
        key: bytes | None,  # noqa: ARG002 - of the protocol
        payload: bytes,  # noqa: ARG002
    ) -> Partition:
        """See Selector."""
        count = self._counts.get(topic, 0) + 1
        self._counts[topic] = count
        return partitions[count % len(partitions)]


@attrs.define(eq=False)
class RandomChoice:
    """Any, each as likely as the others."""

    _random: random.Random = attrs.Factory(random.Random)

    def __call__(
        self,
        topic: str,  # noqa: ARG002 - of the protocol
        partitions: Sequence[Partition],
        key: bytes | None,  # noqa: ARG002
        payload: bytes,  # noqa: ARG002
    ) -> Partition:
        """See Selector."""
        return self._random.choice(partitions)


@attrs.define(eq=False)
class KeyHash:
    """By CRC-32 of the key, so that messages of one key keep their order; without a key, in turn.

    The place of a key moves when partitions come or go. Where it must not, use ConfiguredOrder.
    """

    _without_key: RoundRobin = attrs.Factory(RoundRobin)

    def __call__(
        self, topic: str, partitions: Sequence[Partition], key: bytes | None, payload: bytes
    ) -> Partition:
        """See Selector."""
        if key is None:
            return self._without_key(topic, partitions, key, payload)
        return partitions[crc32(key) % len(partitions)]


class Choose(Protocol):
    """Chooses among all partitions of a fixed layout."""

    def __call__(self, partitions: Sequence[Partition], key: bytes | None, payload: bytes) -> Partition:
        """One of them."""
        ...


def by_key(partitions: Sequence[Partition], key: bytes | None, payload: bytes) -> Partition:
    """By CRC-32 of the key, or of the payload where there is no key."""
    return partitions[crc32(payload if key is None else key) % len(partitions)]


class ConfiguredOrder:
    """MetaQ's ordered sending: a fixed number of partitions a topic, whichever of them are there now.

    The layout is that of ``topic.num.TOPIC``: ``BROKER:COUNT;BROKER:COUNT``. A message whose partition is
    away raises NoPartitionError (a producer with a local store keeps it there), it never goes elsewhere.
    """

    def __init__(self, layouts: Mapping[str, str], choose: Choose = by_key) -> None:
        """Raises ConfigError where a layout cannot be read."""
        self._choose = choose
        self._layouts = {topic: _parse_layout(topic, layout) for topic, layout in layouts.items()}

    def __call__(
        self, topic: str, partitions: Sequence[Partition], key: bytes | None, payload: bytes
    ) -> Partition:
        """See Selector."""
        layout = self._layouts.get(topic)
        if layout is None:
            raise NoPartitionError(topic, "ConfiguredOrder has no layout for it")
        chosen = self._choose(layout, key, payload)
        if chosen not in layout:
            raise NoPartitionError(topic, f"{chosen} was chosen, which is not of the configured layout")
        if chosen not in partitions:
            raise NoPartitionError(topic, f"{chosen.in_topic} is configured and not there now")
        return chosen


def _parse_layout(topic: str, layout: str) -> tuple[Partition, ...]:
    found: list[Partition] = []
    for part in layout.split(";"):
        broker, colon, count = part.strip().partition(":")
        broker_id, size = parse_digits(broker, _BROKER_MAX), parse_digits(count, _PARTITIONS_MAX)
        if not colon or broker_id is None or not size:
            text = f"layout {layout!r} of topic {topic}: {part!r} is no BROKER:COUNT; write 0:4;1:4"
            raise ConfigError((text,))
        found += [Partition(topic, broker_id, number) for number in range(size)]
    return tuple(sorted(set(found)))
