"""The configuration as values: frozen, complete, every number with its unit in its name.

Defaults stand here and nowhere else in the code; a test compares them with what ``conf/server.ini`` shows.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import attrs

from metaserver.names import INTERNAL_TOPICS, AckLevel, Compression, is_valid_topic, pattern_matches

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.filters import Filter, UnknownFilter

KIB = 1024
MIB = 1024 * KIB

DELETE_WHEN_DEFAULT = "0 0 6,18 * * ?"


@attrs.frozen(kw_only=True)
class DeletePolicy:
    """What becomes of segments that are sealed and old."""

    action: Literal["delete", "archive"]
    age_seconds: float
    """Older than this, by the time of the last change of the file."""
    compress: bool = False
    """Archive into a ZIP file."""

    def __str__(self) -> str:
        """As it would stand in the file."""
        seconds = int(self.age_seconds)
        age = f"{seconds // 3600}h" if seconds % 3600 == 0 else f"{seconds}s"
        return f"{self.action},{age}{',true' if self.compress else ''}"


DELETE_POLICY_DEFAULT = DeletePolicy(action="delete", age_seconds=168 * 3600.0)


@attrs.frozen(kw_only=True)
class TopicConfig:
    """A section ``[topic=NAME]``, with the values of [system] where it has none of its own."""

    name: str
    """``*`` in it stands for any characters, everything else for itself. Blank: the values of [system]."""
    partition_count: int
    unflush_threshold: int
    """Messages between two flushes; 0 or less: every acknowledged message is on disk."""
    unflush_interval_ms: int
    data_path: Path
    delete_policy: DeletePolicy = DELETE_POLICY_DEFAULT
    delete_when: str = DELETE_WHEN_DEFAULT
    """A Quartz cron expression, in local time; see :mod:`metaserver.config.cron`."""
    accept_publish: bool = True
    accept_subscribe: bool = True
    stat: bool = False
    ack_level: AckLevel | None = None
    """What a put waits for; None: as ``unflush_threshold`` says. See :attr:`acknowledged`."""
    slaves_min: int = 1
    """How many slaves a put waits for, where it waits for slaves."""
    slave_ack_timeout_ms: int = 10_000
    """How long it waits for them."""
    group_filters: tuple[tuple[str, Filter | UnknownFilter], ...] = ()
    """Which messages a consumer group gets, in the order of the file."""
    own_fields: frozenset[str] = attrs.field(default=frozenset(), eq=False, repr=False)
    """The fields above that its section sets itself; the others follow [system]."""

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for more than one topic."""
        return "*" in self.name

    @property
    def acknowledged(self) -> AckLevel:
        """What a put waits for. A level that is set wins over the threshold."""
        if self.ack_level is not None:
            return self.ack_level
        return AckLevel.DISK if self.unflush_threshold <= 0 else AckLevel.MEMORY

    def matches(self, topic: str) -> bool:
        """Whether the section speaks for this topic."""
        return pattern_matches(self.name, topic)


@attrs.frozen(kw_only=True)
class ZooKeeperConfig:
    """Section [zookeeper]."""

    connect: str | None = None
    """``host:port,host:port/chroot``; None: a master hosts the registry itself."""
    enable: bool = True
    """Register topics and the broker."""
    registry_port: int = 2181
    """Of the registry that a master hosts; 0: any free port."""
    root: str = "/meta"
    session_timeout_ms: int = 30_000
    connection_timeout_ms: int = 30_000
    sync_time_ms: int = 5_000

    @property
    def ensemble(self) -> str | None:
        """Where to register; None: nowhere, or in the registry inside the master."""
        return self.connect if self.enable else None

    @property
    def is_embedded(self) -> bool:
        """Whether the registry is the one inside the master."""
        return self.enable and self.connect is None


@attrs.frozen(kw_only=True)
class ServerConfig:
    """A ``server.ini``, complete.

    Two configurations are equal if all settings are, whatever else their files say.
    """

    path: Path = attrs.field(eq=False)
    source_bytes: bytes = attrs.field(eq=False, repr=False)
    """The file as it lies on disk."""
    checksum: int = attrs.field(eq=False)
    """CRC-32 of the file."""
    warnings: tuple[str, ...] = attrs.field(default=(), eq=False)
    """What the file says and hardly means, a sentence each, with file, line, section and key."""

    broker_id: int
    server_port: int = 8123
    """0: any free port."""
    dashboard_http_port: int = 8120
    """0: any free port."""
    host_name: str | None = None
    """What clients are told; None: found out at the start."""
    bind_address: str = "0.0.0.0"  # noqa: S104 - as in MetaQ; the shipped file says 127.0.0.1
    data_path: Path
    data_log_path: Path
    """Where the journal of transactions is; a Java broker's is in ``transactions`` there."""
    app_class_path: Path
    """Where filter classes are looked up; it need not exist."""
    defaults: TopicConfig
    """The values of [system] that sections of topics may replace."""
    topics: tuple[TopicConfig, ...]
    """In the order of the file."""
    max_segment_size_bytes: int
    max_transfer_size_bytes: int
    update_consumer_offsets: bool = False
    get_process_thread_count: int = attrs.field(factory=lambda: 10 * (os.cpu_count() or 1))
    put_process_thread_count: int = attrs.field(factory=lambda: 10 * (os.cpu_count() or 1))
    load_message_stores_in_parallel: bool = False
    quartz_thread_count: int = 5
    flush_tx_log_at_commit: int = 1
    """0: never, 1: at each prepare, commit and rollback, 2: every second."""
    max_checkpoints: int = 3
    """Of no effect: the journal needs no checkpoint files."""
    checkpoint_interval_ms: int = 3_600_000
    max_tx_timeout_timer_capacity: int = 30_000
    """Transactions that are begun and neither prepared nor finished."""
    max_tx_timeout_seconds: int = 60

    max_connections: int = 10_000
    max_line_bytes: int = 8 * KIB
    max_request_bytes: int = 16 * MIB
    max_unfinished_request_bytes: int = 64 * MIB
    """Memory of the requests of all connections that are not complete yet."""
    max_transaction_bytes: int = 256 * MIB
    """Bytes of the messages of all transactions together, prepared ones included."""
    max_inflight_bytes: int = 64 * MIB
    """Bytes of puts of all connections that wait to be written."""
    max_connection_inflight_bytes: int = 8 * MIB
    """The same for one connection."""
    max_pending_reply_bytes: int = 8 * MIB
    """Bytes of replies that one connection may have waiting."""
    max_pending_replies: int = 1024
    """Replies with data that one connection may have waiting."""
    idle_timeout_ms: int = 300_000
    request_timeout_ms: int = 60_000
    """For the rest of a frame whose beginning has come."""
    write_timeout_ms: int = 60_000
    """For a peer that takes no bytes."""
    max_long_poll_ms: int = 60_000
    max_waiting_gets: int = 100_000
    stop_timeout_ms: int = 10_000
    min_free_disk_bytes: int = 64 * MIB
    checkpoint_bytes: int = 64 * MIB
    """Appended bytes between two recovery checkpoints of a partition."""
    flush_thread_count: int = 4
    http_users_file: Path | None = None
    """Who may do what over HTTP; None: see :mod:`metaserver.http.access`."""
    http_requests_per_second: int = 1000
    """Of one HTTP client, by its address; 0: no limit."""
    scrub_bytes_per_second: int = 4 * MIB
    """So fast the logs are read again, to find damage; 0: they are not."""
    scrub_interval_ms: int = 86_400_000
    """From the beginning of one such pass to that of the next, at least."""

    zookeeper: ZooKeeperConfig = ZooKeeperConfig()

    _literal: dict[str, TopicConfig] = attrs.field(init=False, eq=False, repr=False)
    _patterns: tuple[TopicConfig, ...] = attrs.field(init=False, eq=False, repr=False)

    @_literal.default
    def _index_literal(self) -> dict[str, TopicConfig]:
        return {topic.name: topic for topic in self.topics if not topic.is_pattern}

    @_patterns.default
    def _index_patterns(self) -> tuple[TopicConfig, ...]:
        return tuple(topic for topic in self.topics if topic.is_pattern)

    @property
    def data_paths(self) -> list[Path]:
        """Every directory that holds partitions, each once."""
        paths = [self.data_path, *(topic.data_path for topic in self.topics), self.data_log_path]
        return list(dict.fromkeys(paths))

    @property
    def accept_publish(self) -> bool:
        """The value of [system]."""
        return self.defaults.accept_publish

    @property
    def accept_subscribe(self) -> bool:
        """The value of [system]."""
        return self.defaults.accept_subscribe

    @property
    def stat(self) -> bool:
        """The value of [system]."""
        return self.defaults.stat

    def topic_config(self, topic: str) -> TopicConfig | None:
        """The section of that name, else the first whose pattern matches, else None: no such topic."""
        found = self._literal.get(topic)
        if found is not None or topic in INTERNAL_TOPICS or not is_valid_topic(topic):
            return found
        return next((pattern for pattern in self._patterns if pattern.matches(topic)), None)


@attrs.frozen(kw_only=True)
class SlaveConfig:
    """An ``async_slave.properties``. None: the value of ``server.ini`` holds."""

    path: Path = attrs.field(eq=False)
    slave_id: int
    slave_group: str
    slave_max_delay_ms: int = 500
    auto_sync_master_config: bool = False
    slave_max_bytes_per_second: int = 0
    """Over all partitions, of what the master has held for a while; 0: no limit."""
    link_compression: Compression = Compression.AUTO
    master_address: tuple[str, int] | None = None
    """Host and port; None: the registry knows."""
    registry_address: str | None = None
    """What ``zk.zkConnect`` is to the slave."""
    server_port: int | None = None
    dashboard_http_port: int | None = None
    host_name: str | None = None
    bind_address: str | None = None
    data_path: Path | None = None
    is_gregor: bool = False
    """Whether it is the slave of a synchronous pair, which waits for its master to call."""


@attrs.frozen(kw_only=True)
class PairConfig:
    """A ``samsa_master.properties``: what makes a broker the master of a synchronous pair."""

    path: Path = attrs.field(eq=False)
    slave_address: tuple[str, int]
    """Host and port."""
    send_timeout_ms: int = 2000
    """How long a put waits for the slave."""
    check_interval_ms: int = 100
    """Between two looks at a slave that has failed."""
    failures_max: int = 100
    """After so many in a row the master leaves the registry, until the slave is well again."""
    recover_offset: bool = False
    """Whether a start moves the groups' offsets to where their messages are here. In a pair of ours they are
    where they were."""
    callback_thread_count: int = 10
    """Read and not needed, like the next two: nothing here waits in a thread."""
    recover_parallel: bool = True
    recover_parallel_hint: int = 1
