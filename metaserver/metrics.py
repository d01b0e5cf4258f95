"""Every Prometheus metric of a broker, made from one value that is read at scrape time.

The hot paths count in plain integers of their own. When Prometheus asks, the broker hands over a
:class:`BrokerSnapshot`; the collector here turns it into samples. So a put pays nothing for being
measured, and the names, units and texts of all metrics stand in this one file (``docs/metrics.md``
lists them for users).

The number of series is bounded: at most :data:`PARTITION_SERIES_MAX` partitions and as many topics
are listed one by one. Failed partitions come first, so that an alarm is never the one cut off;
``metaserver_unlisted_partitions`` tells how many are missing.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Literal

import attrs
from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client import CollectorRegistry

PARTITION_SERIES_MAX = 2000
"""How many partitions, and how many topics, are listed one by one (a scrape then has about 500 KB)."""

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The content type of what :meth:`BrokerMetrics.prepare` leads to."""


@attrs.frozen(kw_only=True)
class TopicSnapshot:
    """What went through one topic since the broker started."""

    topic: str
    received_messages: int
    received_bytes: int
    """Bytes of message data that were put, without headers."""
    get_requests: int
    sent_bytes: int
    """Log bytes sent in answer to gets, with record headers."""


@attrs.frozen(kw_only=True)
class PartitionSnapshot:
    """The state of one partition's log. Offsets are byte positions."""

    topic: str
    partition: int
    start_offset: int
    end_offset: int
    """Behind the last byte written."""
    flushed_offset: int
    """Behind the last byte known to be on disk."""
    failed: bool
    """A write or fsync failed: the partition takes no more puts until the broker restarts."""
    slaves: int = 0
    """Slaves that have reported the partition over a connection that is open."""
    unconfirmed_bytes: int | None = None
    """Bytes on disk here that not enough slaves have; None where puts wait for no slave."""


@attrs.frozen(kw_only=True)
class RecoverySnapshot:
    """What opening the data directories did when the broker started."""

    seconds: float
    scanned_bytes: int
    scanned_records: int
    cut_bytes: int
    """Bytes of torn tails, cut from the logs and kept beside them."""
    damaged_ranges: int
    """Ranges inside logs that hold no valid record and are skipped by reads."""
    failed_partitions: int
    """Partitions that could not be opened at all."""


@attrs.frozen(kw_only=True)
class DamageSnapshot:
    """What was damaged inside logs since the broker started, and how far they are read again."""

    found: int
    """Ranges without a valid record, also those known at the start."""
    repaired: int
    open: int
    """Those that are damaged now."""
    scrubbed_bytes: int
    passes: int
    last_pass_wall_seconds: float | None
    """When everything had been read once more; None: not yet."""


@attrs.frozen(kw_only=True)
class ReplicationSnapshot:
    """How far a slave is behind its master, over all partitions."""

    connected: bool
    lag_bytes: int
    """Sum over all partitions."""
    lag_messages: int | None
    """Sum over all partitions; None while it cannot be told."""
    lag_seconds: float | None
    """The largest of all partitions, by the times in the message ids; None while it cannot be told."""
    diverged_partitions: int
    """Partitions whose history differs from the master's."""
    copied_bytes: int
    """Written to the local log since the slave was started."""
    catch_up_seconds: float | None
    """Estimated, until everything is copied; None while it cannot be told."""
    gaps: int = 0
    """How often a partition went on behind a gap, because the master did not have what came next."""


@attrs.frozen(kw_only=True)
class SlaveSnapshot:
    """A slave that reports to this broker."""

    group: str
    number: int
    connected: bool
    lag_bytes: int
    """Not yet on its disk, over all partitions it has reported."""


@attrs.frozen(kw_only=True)
class AcknowledgementSnapshot:
    """Puts that wait for slaves."""

    waiting_puts: int
    timeouts: Sequence[tuple[str, int]] = ()
    """Puts answered 503 because slaves did not have them in time, by level; they are stored."""
    refusals: Sequence[tuple[str, int]] = ()
    """Puts answered 503 at once, by level; they are not stored."""
    slaves: Sequence[SlaveSnapshot] = ()


@attrs.frozen(kw_only=True)
class RegistrySnapshot:
    """The registry that a master hosts."""

    connections: int
    sessions: int
    watches: int
    nodes: int
    zxid: int
    log_bytes: int
    """What a start would have to read behind the last snapshot."""
    failed: bool
    """It does not serve until the broker restarts."""


@attrs.frozen(kw_only=True)
class BrokerSnapshot:
    """Everything a scrape shows, at one moment. Counters count since the broker started."""

    version: str
    broker_id: int
    role: Literal["master", "slave"]
    uptime_seconds: float
    ready: bool
    """Whether it does all of its work."""
    put_requests: int
    get_requests: int
    offset_requests: int
    get_misses: int
    """Gets that returned no data."""
    put_failures: int
    """Puts that were answered with an error."""
    received_bytes: int
    """Bytes read from client connections, frames included."""
    sent_bytes: int
    """Bytes written to client connections, frames included."""
    connections: int
    inflight_bytes: int
    """Bytes of puts that wait to be written."""
    fsync_count: int
    fsync_seconds: float
    """Time spent in all fsync calls together."""
    recovery: RecoverySnapshot
    disk_free_bytes: Sequence[tuple[str, int]] = ()
    """Free bytes of the filesystem under each data path, as (path, bytes)."""
    topics: Sequence[TopicSnapshot] = ()
    partitions: Sequence[PartitionSnapshot] = ()
    acknowledgements: AcknowledgementSnapshot = AcknowledgementSnapshot(waiting_puts=0)
    replication: ReplicationSnapshot | None = None
    """None on a master."""
    registry: RegistrySnapshot | None = None
    """None where none is hosted."""
    puts_refused: bool = False
    damage: DamageSnapshot | None = None
    quarantine_folders: int = 0
    quarantined_messages: int = 0
    """Since the start."""


@attrs.define(eq=False)
class BrokerMetrics:
    """All metrics of one broker, registered in the registry that is handed in.

    The registry also gets the usual ``process_…`` metrics (memory, processor time, open files).
    """

    _registry: CollectorRegistry
    _supplier: Callable[[], BrokerSnapshot]
    """Reads the broker's counters; called once a scrape."""
    _prepared: BrokerSnapshot | None = attrs.field(default=None, init=False)
    """The snapshot being rendered; guarded by the lock."""
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def __attrs_post_init__(self) -> None:
        """Register."""
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def prepare(self) -> Callable[[], bytes]:
        """Take the snapshot now and return what renders it.

        Two steps, because the values belong to the event loop but the text of 2,000 partitions
        costs some 45 ms: call this in the loop and the result in a worker thread.
        """
        return partial(self._render, self._supplier())

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families; the registry calls this."""
        yield from metric_families(self._prepared or self._supplier())

    def _render(self, snapshot: BrokerSnapshot) -> bytes:
        with self._lock:
            self._prepared = snapshot
            try:
                return generate_latest(self._registry)
            finally:
                self._prepared = None


def metric_families(snapshot: BrokerSnapshot) -> Iterator[Metric]:
    """Turn a snapshot into metric families, whose names and units follow Prometheus' conventions."""
    yield from _broker_families(snapshot)
    yield from _storage_families(snapshot)
    if snapshot.damage is not None:
        yield from _damage_families(snapshot.damage)
    yield from _quarantine_families(snapshot)
    yield from _topic_families(snapshot.topics)
    yield from _partition_families(snapshot.partitions)
    yield from _acknowledgement_families(snapshot.acknowledgements)
    if snapshot.replication is not None:
        yield from _replication_families(snapshot.replication)
    if snapshot.registry is not None:
        yield from _registry_families(snapshot.registry)


def _broker_families(snapshot: BrokerSnapshot) -> Iterator[Metric]:
    build = GaugeMetricFamily(
        "metaserver_build_info",
        "Version, role and id of this broker.",
        labels=("version", "role", "broker_id"),
    )
    build.add_metric((snapshot.version, snapshot.role, str(snapshot.broker_id)), 1)
    yield build
    yield _gauge("uptime_seconds", "Time since the broker started.", snapshot.uptime_seconds)
    yield _gauge("ready", "1 while the broker does all of its work, as /readyz tells.", float(snapshot.ready))
    requests = CounterMetricFamily(
        "metaserver_requests", "Requests received, by command.", labels=("command",)
    )
    requests.add_metric(("put",), snapshot.put_requests)
    requests.add_metric(("get",), snapshot.get_requests)
    requests.add_metric(("offset",), snapshot.offset_requests)
    yield requests
    yield _counter("get_misses", "Gets that returned no data.", snapshot.get_misses)
    yield _counter("put_failures", "Puts answered with an error.", snapshot.put_failures)
    yield _counter("received_bytes", "Bytes read from client connections.", snapshot.received_bytes)
    yield _counter("sent_bytes", "Bytes written to client connections.", snapshot.sent_bytes)
    yield _gauge(
        "puts_refused",
        "1 while all puts are refused: sealed for a change of masters, or fenced by another master.",
        float(snapshot.puts_refused),
    )
    yield _gauge("connections", "Open client connections.", snapshot.connections)
    yield _gauge("inflight_bytes", "Bytes of puts that wait to be written.", snapshot.inflight_bytes)


def _storage_families(snapshot: BrokerSnapshot) -> Iterator[Metric]:
    yield SummaryMetricFamily(
        "metaserver_fsync_seconds",
        "Number of fsync calls on logs, and the time spent in them.",
        count_value=snapshot.fsync_count,
        sum_value=snapshot.fsync_seconds,
    )
    free = GaugeMetricFamily(
        "metaserver_disk_free_bytes", "Free bytes of the filesystem under a data path.", labels=("path",)
    )
    for path, free_bytes in snapshot.disk_free_bytes:
        free.add_metric((path,), free_bytes)
    yield free
    recovery = snapshot.recovery
    yield _gauge("recovery_seconds", "Time the last start took to open the logs.", recovery.seconds)
    yield _gauge("recovery_scanned_bytes", "Log bytes the last start had to verify.", recovery.scanned_bytes)
    yield _gauge("recovery_scanned_records", "Records the last start verified.", recovery.scanned_records)
    yield _gauge(
        "recovery_cut_bytes", "Bytes of torn tails the last start cut and kept aside.", recovery.cut_bytes
    )
    yield _gauge(
        "recovery_damaged_ranges", "Damaged ranges the last start found inside logs.", recovery.damaged_ranges
    )
    yield _gauge(
        "recovery_failed_partitions",
        "Partitions the last start could not open.",
        recovery.failed_partitions,
    )


def _damage_families(damage: DamageSnapshot) -> Iterator[Metric]:
    yield _counter("damage_found", "Damaged ranges of logs found since the start.", damage.found)
    yield _counter("damage_repaired", "Damaged ranges repaired from another replica.", damage.repaired)
    yield _gauge("damage_open", "Ranges of logs that are damaged now.", damage.open)
    yield _counter("scrubbed_bytes", "Log bytes read again to find damage.", damage.scrubbed_bytes)
    yield _counter("scrub_passes", "How often all logs have been read again.", damage.passes)
    if damage.last_pass_wall_seconds is not None:
        yield _gauge(
            "scrub_last_pass_timestamp_seconds",
            "When the last such pass was complete, in seconds since 1970.",
            damage.last_pass_wall_seconds,
        )


def _quarantine_families(snapshot: BrokerSnapshot) -> Iterator[Metric]:
    yield _gauge(
        "quarantine_folders",
        "Stretches of logs in quarantine, because a master did not have them.",
        snapshot.quarantine_folders,
    )
    yield _counter(
        "quarantined_messages",
        "Messages put into quarantine since the start.",
        snapshot.quarantined_messages,
    )


def _topic_families(topics: Sequence[TopicSnapshot]) -> Iterator[Metric]:
    messages = CounterMetricFamily(
        "metaserver_topic_received_messages", "Messages put into a topic.", labels=("topic",)
    )
    received = CounterMetricFamily(
        "metaserver_topic_received_bytes", "Bytes of message data put into a topic.", labels=("topic",)
    )
    gets = CounterMetricFamily("metaserver_topic_get_requests", "Gets of a topic.", labels=("topic",))
    sent = CounterMetricFamily(
        "metaserver_topic_sent_bytes", "Log bytes sent in answer to gets of a topic.", labels=("topic",)
    )
    for topic in sorted(topics, key=lambda one: one.topic)[:PARTITION_SERIES_MAX]:
        labels = (topic.topic,)
        messages.add_metric(labels, topic.received_messages)
        received.add_metric(labels, topic.received_bytes)
        gets.add_metric(labels, topic.get_requests)
        sent.add_metric(labels, topic.sent_bytes)
    yield from (messages, received, gets, sent)


def _partition_families(partitions: Sequence[PartitionSnapshot]) -> Iterator[Metric]:
    failed_count = sum(one.failed for one in partitions)
    unlisted = max(0, len(partitions) - PARTITION_SERIES_MAX)
    yield _gauge("partitions", "Open partitions.", len(partitions))
    yield _gauge("failed_partitions", "Partitions that take no more puts after a disk error.", failed_count)
    yield _gauge(
        "unlisted_partitions",
        f"Partitions without series of their own, because only {PARTITION_SERIES_MAX} are listed.",
        unlisted,
    )
    labels = ("topic", "partition")
    starts = GaugeMetricFamily(
        "metaserver_partition_start_offset_bytes", "First offset a partition holds.", labels=labels
    )
    ends = GaugeMetricFamily(
        "metaserver_partition_end_offset_bytes", "Offset behind the last byte written.", labels=labels
    )
    flushed = GaugeMetricFamily(
        "metaserver_partition_flushed_offset_bytes", "Offset behind the last byte on disk.", labels=labels
    )
    failed = GaugeMetricFamily(
        "metaserver_partition_failed",
        "1 if the partition takes no more puts after a disk error.",
        labels=labels,
    )
    slaves = GaugeMetricFamily(
        "metaserver_partition_slaves", "Slaves that report the partition to this broker.", labels=labels
    )
    unconfirmed = GaugeMetricFamily(
        "metaserver_partition_unconfirmed_bytes",
        "Bytes on disk here that not enough slaves have, where puts wait for slaves.",
        labels=labels,
    )
    listed = sorted(partitions, key=lambda one: (not one.failed, one.topic, one.partition))
    for partition in listed[:PARTITION_SERIES_MAX]:
        values = (partition.topic, str(partition.partition))
        starts.add_metric(values, partition.start_offset)
        ends.add_metric(values, partition.end_offset)
        flushed.add_metric(values, partition.flushed_offset)
        failed.add_metric(values, float(partition.failed))
        slaves.add_metric(values, partition.slaves)
        if partition.unconfirmed_bytes is not None:
            unconfirmed.add_metric(values, partition.unconfirmed_bytes)
    yield from (starts, ends, flushed, failed, slaves, unconfirmed)


def _acknowledgement_families(acknowledgements: AcknowledgementSnapshot) -> Iterator[Metric]:
    yield _gauge(
        "puts_waiting_for_slaves", "Puts on disk here that wait for slaves.", acknowledgements.waiting_puts
    )
    timeouts = CounterMetricFamily(
        "metaserver_slave_ack_timeouts",
        "Puts that are stored and were answered 503, because slaves did not have them in time.",
        labels=("level",),
    )
    for level, count in acknowledgements.timeouts:
        timeouts.add_metric((level,), count)
    refusals = CounterMetricFamily(
        "metaserver_slave_ack_refusals",
        "Puts that were answered 503 at once and are not stored, because slaves were missing.",
        labels=("level",),
    )
    for level, count in acknowledgements.refusals:
        refusals.add_metric((level,), count)
    labels = ("slave_group", "slave_id")
    connected = GaugeMetricFamily(
        "metaserver_slave_connected", "1 while a slave reports to this broker.", labels=labels
    )
    lag = GaugeMetricFamily(
        "metaserver_slave_lag_bytes", "Bytes a slave does not have on its disk yet.", labels=labels
    )
    for slave in acknowledgements.slaves:
        connected.add_metric((slave.group, str(slave.number)), float(slave.connected))
        if slave.connected:
            lag.add_metric((slave.group, str(slave.number)), slave.lag_bytes)
    yield from (timeouts, refusals, connected, lag)


def _replication_families(replication: ReplicationSnapshot) -> Iterator[Metric]:
    yield _gauge("replication_connected", "1 while the master answers.", float(replication.connected))
    yield _gauge(
        "replication_lag_bytes", "Bytes the master holds and this slave lacks.", replication.lag_bytes
    )
    yield _counter(
        "replication_gaps",
        "How often a partition went on behind a gap, because the master did not have what came next.",
        replication.gaps,
    )
    if replication.lag_messages is not None:
        yield _gauge(
            "replication_lag_messages",
            "Messages the master holds and this slave lacks.",
            replication.lag_messages,
        )
    if replication.lag_seconds is not None:
        yield _gauge(
            "replication_lag_seconds",
            "How old the newest message of the partition furthest behind is.",
            replication.lag_seconds,
        )
    yield _gauge(
        "replication_diverged_partitions",
        "Partitions whose history differs from the master's.",
        replication.diverged_partitions,
    )
    yield _counter(
        "replication_copied_bytes", "Bytes of the master's logs written here.", replication.copied_bytes
    )
    if replication.catch_up_seconds is not None:
        yield _gauge(
            "replication_catch_up_seconds",
            "Estimated time until everything is copied.",
            replication.catch_up_seconds,
        )


def _registry_families(registry: RegistrySnapshot) -> Iterator[Metric]:
    yield _gauge("registry_connections", "Open connections to the embedded registry.", registry.connections)
    yield _gauge(
        "registry_sessions", "Sessions of the embedded registry, connected or not.", registry.sessions
    )
    yield _gauge("registry_watches", "Watches set in the embedded registry.", registry.watches)
    yield _gauge("registry_nodes", "Nodes of the embedded registry.", registry.nodes)
    yield _gauge("registry_zxid", "Number of the embedded registry's last transaction.", registry.zxid)
    yield _gauge(
        "registry_log_bytes",
        "Bytes of the embedded registry's log that a start would have to read behind the last snapshot.",
        registry.log_bytes,
    )
    yield _gauge(
        "registry_failed",
        "1 if the embedded registry does not serve until the broker restarts.",
        float(registry.failed),
    )


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"metaserver_{name}", documentation, value=value)


def _counter(name: str, documentation: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"metaserver_{name}", documentation, value=value)
