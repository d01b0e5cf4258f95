"""``samsa_master.properties`` to PairConfig: what makes a broker the master of a synchronous pair.

Source: reference replication B1.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from metaserver.config.models import PairConfig
from metaserver.config.properties import read_properties
from metaserver.config.reading import read_file
from metaserver.config.schema import SAMSA_KEYS
from metaserver.names import AckLevel

if TYPE_CHECKING:
    from metaserver.config.models import ServerConfig, TopicConfig


def load_pair_config(path: Path, *, lenient: bool = False) -> PairConfig:
    """The master's file. Raises ConfigError with every problem; lenient: unknown keys are passed over."""
    return parse_pair_config(read_file(path), source=str(path), lenient=lenient)


def parse_pair_config(text: str | bytes, *, source: str, lenient: bool = False) -> PairConfig:
    """The same from what a file holds; `source` is its path, as problems name it."""
    return PairConfig(path=Path(source), **read_properties(text, SAMSA_KEYS, source=source, lenient=lenient))


def apply_pair(server: ServerConfig, pair: PairConfig) -> ServerConfig:
    """That of a pair's master: a put waits for the slave's disk where it waits for its own."""

    def wait(topic: TopicConfig) -> TopicConfig:
        is_synced = topic.acknowledged in (AckLevel.DISK, AckLevel.SLAVE_DISK)
        level = AckLevel.SLAVE_DISK if is_synced else AckLevel.SLAVE
        return attrs.evolve(topic, ack_level=level, slaves_min=1, slave_ack_timeout_ms=pair.send_timeout_ms)

    return attrs.evolve(
        server, defaults=wait(server.defaults), topics=tuple(wait(topic) for topic in server.topics)
    )
