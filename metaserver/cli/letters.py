"""Dead letters, wherever they lie: in a store on this machine, or in a topic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from metaserver.cli.cluster import known_partitions, parse_cluster_partition
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure
from metaserver.client.dead_letters import DeadLetter
from metaserver.names import MAX_OFFSET, parse_digits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.client import Partition, ReceivedMessage, Session
    from metaserver.client.browser import TopicBrowser
    from metaserver.client.local_store import LocalStore, StoredMessage

_PAGE = 500


@attrs.frozen(kw_only=True)
class Letter:
    """A message that a group could not deal with, or one that waits in a store to be sent."""

    key: str
    """Its name where it lies: a number in a store, ``B-P:OFFSET`` in a topic."""
    topic: str
    """Where it came from, and goes when it is replayed."""
    partition: str
    offset: int | None
    message_id: int | None
    group: str
    """Blank: it waits to be sent."""
    attempts: int
    reason: str
    wall_seconds: float
    """When it was put away, in seconds since 1970."""
    attribute: str | None
    payload: bytes = attrs.field(repr=False)

    @property
    def is_dead(self) -> bool:
        """Whether it is a dead letter."""
        return bool(self.group)


class Letters(Protocol):
    """A place where they lie."""

    async def next_page(self) -> list[Letter]:
        """Some more of them, from the oldest on; none: that was all. Raises ClientError."""

    async def find(self, keys: Sequence[str]) -> list[Letter]:
        """These; raises Failure where one is not there, and ClientError."""


@attrs.define(eq=False)
class StoredLetters:
    """In a LocalStore."""

    store: LocalStore
    _after_key: int = 0

    async def next_page(self) -> list[Letter]:
        """See Letters."""
        found = await self.store.first(_PAGE, after_key=self._after_key)
        if found:
            self._after_key = found[-1].key
        return [_from_store(message) for message in found]

    async def find(self, keys: Sequence[str]) -> list[Letter]:
        """See Letters."""
        found = []
        for key in keys:
            message = await self.store.get(parse_key(key))
            if message is None:
                raise Failure(
                    f"{self.store.path} has no message {key}; `metaServer dead-letters list` lists them"
                )
            found.append(_from_store(message))
        return found


@attrs.define(eq=False)
class TopicLetters:
    """In a topic. Ordinary messages in it are passed over."""

    session: Session
    topic: str
    _browser: TopicBrowser | None = None

    async def next_page(self) -> list[Letter]:
        """See Letters."""
        if self._browser is None:
            await known_partitions(self.session, self.topic)
            self._browser = self.session.browse(self.topic)
        found: list[Letter] = []
        async for message in self._browser:
            letter = _from_topic(message)
            if letter is not None:
                found.append(letter)
            if len(found) == _PAGE:
                break
        return found

    async def find(self, keys: Sequence[str]) -> list[Letter]:
        """See Letters."""
        partitions = {str(p.in_topic): p for p in await known_partitions(self.session, self.topic)}
        return [await self._find(partitions, key) for key in keys]

    async def _find(self, partitions: dict[str, Partition], key: str) -> Letter:
        name, colon, offset = key.partition(":")
        parse_cluster_partition(name)
        position = parse_digits(offset, MAX_OFFSET)
        if not colon or position is None:
            raise Failure(f"{key!r} is no message of a topic; write BROKER-PARTITION:OFFSET", ExitCode.USAGE)
        partition = partitions.get(name)
        if partition is not None:
            report = await self.session.fetch(partition, position)
            if report.messages and report.messages[0].offset == position:
                letter = _from_topic(report.messages[0])
                if letter is not None:
                    return letter
        raise Failure(
            f"topic {self.topic} has no dead letter {key}; `metaServer dead-letters list` lists them"
        )


def parse_key(key: str) -> int:
    """Of a message in a store; raises Failure."""
    number = parse_digits(key, _KEY_MAX)
    if number is None:
        raise Failure(f"{key!r} is no number of a message in a store", ExitCode.USAGE)
    return number


_KEY_MAX = 10**18 - 1


def _from_store(message: StoredMessage) -> Letter:
    return Letter(
        key=str(message.key),
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        message_id=message.message_id,
        group=message.group,
        attempts=message.attempts,
        reason=message.reason,
        wall_seconds=message.stored_wall_seconds,
        attribute=message.attribute,
        payload=message.payload,
    )


def _from_topic(message: ReceivedMessage) -> Letter | None:
    """None: it is an ordinary message."""
    letter = DeadLetter.parse(message.attribute)
    if letter is None:
        return None
    return Letter(
        key=f"{message.partition.in_topic}:{message.offset}",
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        message_id=letter.message_id,
        group=letter.group,
        attempts=letter.attempts,
        reason=letter.reason,
        wall_seconds=message.wall_seconds,
        attribute=letter.attribute,
        payload=message.payload,
    )
