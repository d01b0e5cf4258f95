"""A reload is a difference of two values.

Sections of topics change while the broker runs; everything in [system] and [zookeeper] waits for the next
start, and with it what topics inherit from [system].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.config.schema import DEFAULTS_KEYS, SERVER_KEYS, SYSTEM_KEYS, ZOOKEEPER_KEYS
from metaserver.config.server import with_own_fields

if TYPE_CHECKING:
    from metaserver.config.models import ServerConfig, TopicConfig


@attrs.frozen(kw_only=True)
class ConfigDiff:
    """What a reload changes, and what it cannot."""

    topics_added: tuple[str, ...] = ()
    """Section names, in the order of the new file."""
    topics_removed: tuple[str, ...] = ()
    """In the order of the old file."""
    topics_changed: tuple[str, ...] = ()
    """In the order of the new file; a mere change of that order is none."""
    needs_restart: tuple[str, ...] = ()
    """Keys of [system] and [zookeeper] that differ and do not change while the broker runs."""

    @property
    def is_empty(self) -> bool:
        """Whether both files mean the same."""
        return not (self.topics_added or self.topics_removed or self.topics_changed or self.needs_restart)


def adopt_topics(running: ServerConfig, fresh: ServerConfig) -> ServerConfig:
    """The configuration that holds after a reload: the topics of `fresh`, all else as it runs.

    Values that a topic of `fresh` does not set itself follow the [system] that runs.
    """
    return attrs.evolve(
        running,
        source_bytes=fresh.source_bytes,
        checksum=fresh.checksum,
        topics=tuple(_following(running.defaults, topic) for topic in fresh.topics),
    )


def diff_configs(old: ServerConfig, new: ServerConfig) -> ConfigDiff:
    """What differs. Topics are compared as :func:`adopt_topics` would have them."""
    before = {topic.name: topic for topic in old.topics}
    after = {topic.name: topic for topic in adopt_topics(old, new).topics}
    return ConfigDiff(
        topics_added=tuple(name for name in after if name not in before),
        topics_removed=tuple(name for name in before if name not in after),
        topics_changed=tuple(name for name in after if name in before and before[name] != after[name]),
        needs_restart=_changed_keys(old, new),
    )


def _following(defaults: TopicConfig, topic: TopicConfig) -> TopicConfig:
    own = {field: getattr(topic, field) for field in topic.own_fields}
    return with_own_fields(defaults, topic.name, own)


def _changed_keys(old: ServerConfig, new: ServerConfig) -> tuple[str, ...]:
    changed = []
    for name in SYSTEM_KEYS:
        key = DEFAULTS_KEYS.get(name) or SERVER_KEYS[name]
        places = (old.defaults, new.defaults) if name in DEFAULTS_KEYS else (old, new)
        if getattr(places[0], key.field) != getattr(places[1], key.field):
            changed.append(name)
    changed += [
        key.name
        for key in ZOOKEEPER_KEYS.values()
        if getattr(old.zookeeper, key.field) != getattr(new.zookeeper, key.field)
    ]
    return tuple(changed)
