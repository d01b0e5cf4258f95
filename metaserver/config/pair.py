"""``samsa_master.properties`` and ``gregor_slave.properties``: the two nodes of a synchronous pair.

Source: reference replication B1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from metaserver.config.models import PairConfig, SlaveConfig
from metaserver.config.properties import parse_properties
from metaserver.config.reading import absolute, base_directory_of, read_entries, read_file, report_unknown
from metaserver.config.schema import GREGOR_KEYS, SAMSA_KEYS
from metaserver.config.text import Problems, decode
from metaserver.names import AckLevel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaserver.config.models import ServerConfig, TopicConfig
    from metaserver.config.schema import Key

GREGOR_GROUP = "gregor"
"""What the slave of a pair calls itself: a pair has one."""


def load_pair_config(path: Path, *, lenient: bool = False) -> PairConfig:
    """The master's file. Raises ConfigError with every problem; lenient: unknown keys are passed over."""
    return parse_pair_config(read_file(path), source=str(path), lenient=lenient)


def parse_pair_config(text: str | bytes, *, source: str, lenient: bool = False) -> PairConfig:
    """The same from what a file holds; `source` is its path, as problems name it."""
    return PairConfig(path=Path(source), **_fields(text, SAMSA_KEYS, source, lenient=lenient))


def load_gregor_config(path: Path, *, lenient: bool = False) -> SlaveConfig:
    """The slave's file, which has no keys at MetaQ. Raises ConfigError."""
    found = parse_gregor_config(
        read_file(path), source=str(path), base_directory=base_directory_of(path), lenient=lenient
    )
    return attrs.evolve(found, path=absolute(Path.cwd(), str(path)))


def parse_gregor_config(
    text: str | bytes, *, source: str, base_directory: Path, lenient: bool = False
) -> SlaveConfig:
    """The same from what a file holds."""
    fields = _fields(text, GREGOR_KEYS, source, lenient=lenient)
    if "data_path" in fields:
        fields["data_path"] = absolute(base_directory, fields["data_path"])
    return SlaveConfig(path=Path(source), slave_id=0, slave_group=GREGOR_GROUP, is_gregor=True, **fields)


def apply_pair(server: ServerConfig, pair: PairConfig) -> ServerConfig:
    """That of a pair's master: a put waits for the slave's disk where it waits for its own."""

    def wait(topic: TopicConfig) -> TopicConfig:
        is_synced = topic.acknowledged in (AckLevel.DISK, AckLevel.SLAVE_DISK)
        level = AckLevel.SLAVE_DISK if is_synced else AckLevel.SLAVE
        return attrs.evolve(topic, ack_level=level, slaves_min=1, slave_ack_timeout_ms=pair.send_timeout_ms)

    return attrs.evolve(
        server, defaults=wait(server.defaults), topics=tuple(wait(topic) for topic in server.topics)
    )


def _fields(text: str | bytes, keys: Mapping[str, Key], source: str, *, lenient: bool) -> dict[str, Any]:
    problems = Problems(source)
    decoded = text if isinstance(text, str) else decode(text, problems)
    entries = parse_properties(decoded, problems, lenient=lenient)
    if not lenient and keys:
        report_unknown(entries, keys, (), problems, section="")
    fields = read_entries(entries, keys, problems, section="", section_line=None)
    problems.raise_if_any()
    return fields
