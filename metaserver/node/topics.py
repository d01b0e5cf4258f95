"""Topics made, changed and deleted while the node runs: in its server.ini, which it then loads again.

The file that is written is checked before it takes the old one's place, and the old one stays beside it. A
slave that keeps its configuration in step follows. The log of a deleted topic is put aside, not removed.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any
from zlib import crc32

import attrs
import trio

from metaserver.broker.removal import remove_partition
from metaserver.config import base_directory_of, parse_server_config
from metaserver.config.edit import add_topic, change_topic, remove_topic
from metaserver.config.layout import decode_file, encode_as
from metaserver.config.reading import nearest, read_file
from metaserver.config.schema import FILTER_PREFIX, TOPIC_KEYS
from metaserver.errors import MetaServerError, StorageError
from metaserver.logs import get_logger
from metaserver.names import REGISTRY_TOPIC
from metaserver.node.config_file import previous_version, replace_file
from metaserver.storage import RealFileSystem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from metaserver.broker import Broker, Partition
    from metaserver.config import TopicConfig
    from metaserver.names import TopicPartition
    from metaserver.storage import FileSystem

    Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_log = get_logger(__name__)


@attrs.define
class TopicChangeError(MetaServerError):
    """A topic that cannot be changed so, or not now. Nothing was changed."""

    reason: str

    def __str__(self) -> str:
        """The reason."""
        return self.reason


@attrs.define(eq=False)
class TopicChanges:
    """The commands."""

    _broker: Broker
    _reload: Callable[[], Awaitable[dict[str, list[str]]]]
    _is_lenient: bool
    _is_orphan: Callable[[TopicPartition], bool | None] | None = None
    """Of a slave: whether its master does not have a partition; None where that is not known now."""
    _filesystem: FileSystem = attrs.Factory(RealFileSystem)
    _one_at_a_time: trio.Lock = attrs.Factory(trio.Lock)

    def handlers(self) -> dict[str, Handler]:
        """For the control socket."""
        return {
            "create-topic": self.create,
            "alter-topic": self.alter,
            "delete-topic": self.delete,
            "open-partitions": self.open_partitions,
            "close-partitions": self.close_partitions,
        }

    async def create(self, request: dict[str, Any]) -> dict[str, Any]:
        """``topic`` and its ``entries``: a section of its own."""
        topic, entries = _name_of(request), _entries_of(request)
        wanted = {key: value for key, value in entries.items() if value is not None}
        async with self._one_at_a_time:
            if self._section(topic) is not None:
                raise TopicChangeError(
                    f"topic {topic} is configured already; `metaServer topics alter {topic}` changes it"
                )
            return await self._change(partial(add_topic, topic=topic, entries=wanted))

    async def alter(self, request: dict[str, Any]) -> dict[str, Any]:
        """``topic`` and the ``entries`` that change; null takes one away, and [system] holds."""
        topic, entries = _name_of(request), _entries_of(request)
        async with self._one_at_a_time:
            before = self._section(topic)
            if before is None:
                raise self._no_section(topic)
            self._check_places(before, entries)
            return await self._change(partial(change_topic, topic=topic, entries=entries), topic)

    async def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """``topic``: takes its section away, and puts its partitions aside. Only with ``executes``.

        At a slave no section changes: what its master does not have any more is put aside.
        """
        topic = _name_of(request)
        async with self._one_at_a_time:
            section = None if self._broker.is_slave else self._section(topic)
            doomed = self._orphans(topic) if self._broker.is_slave else self._uncovered(topic, section)
            if section is None and not doomed:
                raise self._no_section(topic)
            executes = bool(request.get("executes"))
            report: dict[str, Any] = {"topic": topic, "executed": executes}
            if section is not None:
                edit = partial(remove_topic, topic=topic)
                report |= await self._change(edit, executes=executes)
            found = [_describe(partition) for partition in doomed]
            if executes:
                for partition, one in zip(doomed, found, strict=True):
                    if self._broker.is_slave and not self._may_remove(partition):
                        one["problem"] = f"{partition.name} stays: its master has it again, or is not there"
                        continue
                    try:
                        one["kept"] = str(await remove_partition(self._broker, partition, self._filesystem))
                    except StorageError as error:
                        _log.error("A deleted partition stays where it is", reason=str(error))
                        one["problem"] = str(error)
                for name in {partition.name.topic for partition in doomed}:
                    self._broker.closed.pop(name, None)
            return report | {"partitions": found}

    async def open_partitions(self, request: dict[str, Any]) -> dict[str, Any]:
        """Serve every partition of ``topic`` again; tells which ones were closed."""
        topic = _name_of(request)
        self._check_known(topic)
        closed = sorted(self._broker.closed.get(topic, ()))
        if not request.get("dry_run"):
            self._broker.open_partitions(topic)
        return {"topic": topic, "opened": closed}

    async def close_partitions(self, request: dict[str, Any]) -> dict[str, Any]:
        """Refuse puts and gets of ``topic``'s partitions ``first`` to ``last`` until they are opened."""
        topic, first, last = _name_of(request), request.get("first"), request.get("last")
        if not isinstance(first, int) or not isinstance(last, int) or not 0 <= first <= last:
            raise TopicChangeError("the first partition is 0 or more, and not behind the last")
        count = self._check_known(topic).partition_count
        served = [number for name, number in self._broker.partitions if name == topic]
        if last > max(count - 1, *served, 0):
            raise TopicChangeError(f"topic {topic} has no partition {last}; its last is {count - 1}")
        closed = self._broker.closed.get(topic, set()) | set(range(first, last + 1))
        if not request.get("dry_run"):
            self._broker.close_partitions(topic, first, last)
        return {"topic": topic, "closed": sorted(closed)}

    # Looking.

    def _section(self, topic: str) -> TopicConfig | None:
        return next((section for section in self._broker.config.topics if section.name == topic), None)

    def _no_section(self, topic: str) -> TopicChangeError:
        found = self._broker.config.topic_config(topic)
        if found is not None:
            return TopicChangeError(
                f"topic {topic} has no section of its own, [topic={found.name}] speaks for it; "
                f"`metaServer topics create {topic}` makes one"
            )
        names = [section.name for section in self._broker.config.topics]
        hint = f"; do you mean {nearest(topic, names)}?" if names else ""
        return TopicChangeError(f"there is no topic {topic}{hint}")

    def _check_known(self, topic: str) -> TopicConfig:
        found = self._broker.config.topic_config(topic)
        if found is None:
            raise self._no_section(topic)
        return found

    def _partitions(self) -> list[Partition]:
        return [partition for _, partition in sorted(self._broker.partitions.items())]

    def _uncovered(self, topic: str, section: TopicConfig | None) -> list[Partition]:
        """The partitions that no section speaks for once this one is gone."""
        others = [one for one in self._broker.config.topics if one is not section]

        def is_doomed(name: str) -> bool:
            is_its_own = name == topic if section is None else section.matches(name)
            return is_its_own and not any(other.matches(name) for other in others)

        return [p for p in self._partitions() if not p.is_internal and is_doomed(p.name.topic)]

    def _orphans(self, topic: str) -> list[Partition]:
        """Of a slave: the copies of a topic that its master has deleted."""
        found = [one for one in self._partitions() if one.name.topic == topic and not one.is_internal]
        if not found:
            raise TopicChangeError(f"there is no topic {topic} at this slave: it has no partition of it")
        states = [None if self._is_orphan is None else self._is_orphan(one.name) for one in found]
        if None in states:
            raise TopicChangeError(
                f"this slave has not heard from its master ({self._broker.master_address}) which partitions "
                "it has; try again when `metaServer slave-status` shows that it is connected"
            )
        if False in states:
            self._refuse_slave()
        return found

    def _may_remove(self, partition: Partition) -> bool:
        """Asked again right before: the master may have made a partition anew meanwhile."""
        return self._is_orphan is not None and self._is_orphan(partition.name) is True

    def _check_places(self, before: TopicConfig, entries: Mapping[str, str | None]) -> None:
        """What a running broker cannot follow. That the value can be read is checked with the file."""
        served = [p for p in self._partitions() if before.matches(p.name.topic) and not p.is_internal]
        if "dataPath" in entries and served:
            raise TopicChangeError(
                f"the partitions of {before.name} lie in {served[0].log.directory.parent} and would not be "
                "found in another dataPath: stop the broker, move their directories, change server.ini"
            )

    def _refuse_slave(self) -> None:
        if self._broker.is_slave:
            raise TopicChangeError(
                f"this is a slave: its topics are those of its master ({self._broker.master_address}); "
                "change them there"
            )

    # Changing.

    async def _change(
        self, edit: Callable[..., str], altered: str | None = None, *, executes: bool = True
    ) -> dict[str, Any]:
        """Have the file changed, and load it. Raises ConfigError, TopicChangeError, OSError."""
        self._refuse_slave()
        broker, path = self._broker, self._broker.config.path
        old = await trio.to_thread.run_sync(read_file, path)
        if crc32(old) != broker.config.checksum:
            raise TopicChangeError(
                f"{path} was changed and not loaded since; `metaServer reload` does that, then try again"
            )
        text = edit(decode_file(old, str(path)), lenient=self._is_lenient)
        new = encode_as(text, old)
        checked = parse_server_config(
            new,
            source=f"{path}, changed",
            base_directory=base_directory_of(path),
            lenient=self._is_lenient,
        )
        if altered is not None:
            self._check_count(altered, next(one for one in checked.topics if one.name == altered))
        if not executes or new == old:
            return {"config": str(path), "changed": False}
        try:
            await trio.to_thread.run_sync(partial(replace_file, path, new, keep_old=True))
        except OSError as error:
            raise TopicChangeError(f"{path} cannot be replaced: {error.strerror or error}") from error
        _log.info("Changed the topics of server.ini", path=str(path), checksum=crc32(new))
        changes = await self._reload()
        return {
            "config": str(path),
            "changed": True,
            "previous": str(previous_version(path)),
            **changes,
        }

    def _check_count(self, topic: str, wanted: TopicConfig) -> None:
        before = self._section(topic)
        if before is not None and wanted.partition_count < before.partition_count:
            raise TopicChangeError(
                f"topic {topic} has {before.partition_count} partitions and would have "
                f"{wanted.partition_count}: what is in the others would no longer be announced to consumers. "
                "Where that is wanted, change server.ini and `metaServer reload`"
            )


def _describe(partition: Partition) -> dict[str, Any]:
    log = partition.log
    return {
        "topic": partition.name.topic,
        "partition": partition.name.partition,
        "start_offset": log.start_offset,
        "end_offset": log.end_offset,
        "messages": log.record_count,
        "directory": str(log.directory),
    }


def _name_of(request: Mapping[str, Any]) -> str:
    topic = request.get("topic")
    if not isinstance(topic, str) or not topic or topic == REGISTRY_TOPIC:
        raise TopicChangeError(f"{topic!r} is no topic that can be changed")
    return topic


def _entries_of(request: Mapping[str, Any]) -> dict[str, str | None]:
    entries = request.get("entries", {})
    if not isinstance(entries, dict) or not all(
        value is None or isinstance(value, str) for value in entries.values()
    ):
        raise TopicChangeError("entries are texts, or null")
    for key in entries:
        if key not in TOPIC_KEYS and not key.startswith(FILTER_PREFIX):
            raise TopicChangeError(f"{key} is no key of a topic; do you mean {nearest(key, TOPIC_KEYS)}?")
    return entries
