from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from metaserver.metrics import (
    PARTITION_SERIES_MAX,
    AcknowledgementSnapshot,
    BrokerMetrics,
    BrokerSnapshot,
    DamageSnapshot,
    PartitionSnapshot,
    RecoverySnapshot,
    RegistrySnapshot,
    ReplicationSnapshot,
    SlaveSnapshot,
    TopicSnapshot,
    TransactionsSnapshot,
    metric_families,
)

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"

RECOVERY = RecoverySnapshot(
    seconds=0.25, scanned_bytes=11, scanned_records=12, cut_bytes=13, damaged_ranges=14, failed_partitions=15
)
SNAPSHOT = BrokerSnapshot(
    version="0.1.0",
    broker_id=7,
    role="master",
    uptime_seconds=1.5,
    ready=True,
    put_requests=21,
    get_requests=22,
    offset_requests=23,
    get_misses=24,
    put_failures=25,
    received_bytes=26,
    sent_bytes=27,
    connections=28,
    inflight_bytes=29,
    fsync_count=30,
    fsync_seconds=0.5,
    recovery=RECOVERY,
    disk_free_bytes=(("/data", 31),),
    topics=(
        TopicSnapshot(topic="t", received_messages=41, received_bytes=42, get_requests=43, sent_bytes=44),
    ),
    partitions=(
        PartitionSnapshot(
            topic="t",
            partition=0,
            start_offset=51,
            end_offset=53,
            flushed_offset=52,
            failed=False,
            slaves=54,
            unconfirmed_bytes=55,
        ),
        PartitionSnapshot(
            topic="t", partition=1, start_offset=61, end_offset=63, flushed_offset=62, failed=True
        ),
    ),
    acknowledgements=AcknowledgementSnapshot(
        waiting_puts=91,
        timeouts=(("slave", 92), ("slave_disk", 93)),
        refusals=(("slave", 94),),
        slaves=(
            SlaveSnapshot(group="g", number=1, connected=True, lag_bytes=95),
            SlaveSnapshot(group="g", number=2, connected=False, lag_bytes=0),
        ),
    ),
    registry=RegistrySnapshot(
        connections=81, sessions=82, watches=83, nodes=84, zxid=85, log_bytes=86, failed=True
    ),
    transactions=TransactionsSnapshot(
        begun=101,
        commit_requests=102,
        rollback_requests=103,
        timeouts=104,
        open=105,
        prepared=106,
        oldest_prepared_seconds=107.5,
        heuristic=108,
        unapplied=109,
        message_bytes=110,
        journal_bytes=111,
        failed=True,
    ),
    replication=ReplicationSnapshot(
        connected=True,
        lag_bytes=71,
        lag_messages=72,
        lag_seconds=73.5,
        diverged_partitions=74,
        copied_bytes=75,
        catch_up_seconds=76.5,
        gaps=77,
    ),
    damage=DamageSnapshot(
        found=101, repaired=102, open=103, scrubbed_bytes=104, passes=105, last_pass_wall_seconds=106.5
    ),
)

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def partitions(count: int, failed: frozenset[int] = frozenset()) -> tuple[PartitionSnapshot, ...]:
    return tuple(
        PartitionSnapshot(
            topic="many",
            partition=number,
            start_offset=0,
            end_offset=1,
            flushed_offset=1,
            failed=number in failed,
        )
        for number in range(count)
    )


def samples_of(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(snapshot: BrokerSnapshot) -> Samples:
    return samples_of(BrokerMetrics(CollectorRegistry(), lambda: snapshot).prepare()())


def listed(samples: Samples) -> list[str]:
    name = "metaserver_partition_end_offset_bytes"
    return [dict(labels)["partition"] for series, labels in samples if series == name]


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("metaserver_build_info", {"version": "0.1.0", "role": "master", "broker_id": "7"}, 1),
        ("metaserver_uptime_seconds", {}, 1.5),
        ("metaserver_transactions_begun_total", {}, 101),
        ("metaserver_transactions_commit_requests_total", {}, 102),
        ("metaserver_transactions_rollback_requests_total", {}, 103),
        ("metaserver_transactions_timeouts_total", {}, 104),
        ("metaserver_transactions_open", {}, 105),
        ("metaserver_transactions_prepared", {}, 106),
        ("metaserver_transactions_oldest_prepared_seconds", {}, 107.5),
        ("metaserver_transactions_heuristic", {}, 108),
        ("metaserver_transactions_unapplied", {}, 109),
        ("metaserver_transactions_message_bytes", {}, 110),
        ("metaserver_transactions_journal_bytes", {}, 111),
        ("metaserver_transactions_failed", {}, 1),
        ("metaserver_ready", {}, 1),
        ("metaserver_requests_total", {"command": "put"}, 21),
        ("metaserver_requests_total", {"command": "get"}, 22),
        ("metaserver_requests_total", {"command": "offset"}, 23),
        ("metaserver_get_misses_total", {}, 24),
        ("metaserver_put_failures_total", {}, 25),
        ("metaserver_received_bytes_total", {}, 26),
        ("metaserver_sent_bytes_total", {}, 27),
        ("metaserver_connections", {}, 28),
        ("metaserver_inflight_bytes", {}, 29),
        ("metaserver_fsync_seconds_count", {}, 30),
        ("metaserver_fsync_seconds_sum", {}, 0.5),
        ("metaserver_disk_free_bytes", {"path": "/data"}, 31),
        ("metaserver_recovery_seconds", {}, 0.25),
        ("metaserver_recovery_scanned_bytes", {}, 11),
        ("metaserver_recovery_scanned_records", {}, 12),
        ("metaserver_recovery_cut_bytes", {}, 13),
        ("metaserver_recovery_damaged_ranges", {}, 14),
        ("metaserver_recovery_failed_partitions", {}, 15),
        ("metaserver_topic_received_messages_total", {"topic": "t"}, 41),
        ("metaserver_topic_received_bytes_total", {"topic": "t"}, 42),
        ("metaserver_topic_get_requests_total", {"topic": "t"}, 43),
        ("metaserver_topic_sent_bytes_total", {"topic": "t"}, 44),
        ("metaserver_partitions", {}, 2),
        ("metaserver_failed_partitions", {}, 1),
        ("metaserver_unlisted_partitions", {}, 0),
        ("metaserver_partition_start_offset_bytes", {"topic": "t", "partition": "0"}, 51),
        ("metaserver_partition_flushed_offset_bytes", {"topic": "t", "partition": "0"}, 52),
        ("metaserver_partition_end_offset_bytes", {"topic": "t", "partition": "0"}, 53),
        ("metaserver_partition_failed", {"topic": "t", "partition": "0"}, 0),
        ("metaserver_partition_failed", {"topic": "t", "partition": "1"}, 1),
        ("metaserver_partition_slaves", {"topic": "t", "partition": "0"}, 54),
        ("metaserver_partition_slaves", {"topic": "t", "partition": "1"}, 0),
        ("metaserver_partition_unconfirmed_bytes", {"topic": "t", "partition": "0"}, 55),
        ("metaserver_puts_waiting_for_slaves", {}, 91),
        ("metaserver_slave_ack_timeouts_total", {"level": "slave"}, 92),
        ("metaserver_slave_ack_timeouts_total", {"level": "slave_disk"}, 93),
        ("metaserver_slave_ack_refusals_total", {"level": "slave"}, 94),
        ("metaserver_slave_connected", {"slave_group": "g", "slave_id": "1"}, 1),
        ("metaserver_slave_connected", {"slave_group": "g", "slave_id": "2"}, 0),
        ("metaserver_slave_lag_bytes", {"slave_group": "g", "slave_id": "1"}, 95),
        ("metaserver_replication_connected", {}, 1),
        ("metaserver_replication_lag_bytes", {}, 71),
        ("metaserver_replication_lag_messages", {}, 72),
        ("metaserver_replication_lag_seconds", {}, 73.5),
        ("metaserver_replication_diverged_partitions", {}, 74),
        ("metaserver_replication_copied_bytes_total", {}, 75),
        ("metaserver_replication_catch_up_seconds", {}, 76.5),
        ("metaserver_replication_gaps_total", {}, 77),
        ("metaserver_damage_found_total", {}, 101),
        ("metaserver_damage_repaired_total", {}, 102),
        ("metaserver_damage_open", {}, 103),
        ("metaserver_scrubbed_bytes_total", {}, 104),
        ("metaserver_scrub_passes_total", {}, 105),
        ("metaserver_scrub_last_pass_timestamp_seconds", {}, 106.5),
        ("metaserver_registry_connections", {}, 81),
        ("metaserver_registry_sessions", {}, 82),
        ("metaserver_registry_watches", {}, 83),
        ("metaserver_registry_nodes", {}, 84),
        ("metaserver_registry_zxid", {}, 85),
        ("metaserver_registry_log_bytes", {}, 86),
        ("metaserver_registry_failed", {}, 1),
    ],
)
def test_each_value_has_its_series(name: str, labels: dict[str, str], value: float) -> None:
    assert scrape(SNAPSHOT)[name, tuple(sorted(labels.items()))] == value


def test_a_master_has_no_replication_series() -> None:
    samples = scrape(attrs.evolve(SNAPSHOT, replication=None))
    assert not [name for name, _ in samples if "replication" in name]


def test_without_a_registry_there_are_no_series_of_one() -> None:
    samples = scrape(attrs.evolve(SNAPSHOT, registry=None))
    assert not [name for name, _ in samples if "registry" in name]


def test_an_unknown_lag_has_no_series() -> None:
    lag = ReplicationSnapshot(
        connected=False,
        lag_bytes=0,
        lag_messages=None,
        lag_seconds=None,
        diverged_partitions=0,
        copied_bytes=0,
        catch_up_seconds=None,
    )
    names = {name for name, _ in scrape(attrs.evolve(SNAPSHOT, replication=lag))}
    assert "metaserver_replication_lag_bytes" in names
    unknown = ("lag_messages", "lag_seconds", "catch_up_seconds")
    assert not names & {f"metaserver_replication_{name}" for name in unknown}


def test_all_partitions_are_listed_at_the_limit() -> None:
    samples = scrape(attrs.evolve(SNAPSHOT, partitions=partitions(PARTITION_SERIES_MAX)))
    assert len(listed(samples)) == PARTITION_SERIES_MAX
    assert samples["metaserver_unlisted_partitions", ()] == 0


def test_past_the_limit_failed_partitions_stay_listed() -> None:
    count = PARTITION_SERIES_MAX + 3
    many = partitions(count, failed=frozenset({count - 1}))
    samples = scrape(attrs.evolve(SNAPSHOT, partitions=many))
    assert len(listed(samples)) == PARTITION_SERIES_MAX
    assert str(count - 1) in listed(samples)
    assert str(count - 2) not in listed(samples)
    assert samples["metaserver_unlisted_partitions", ()] == 3
    assert samples["metaserver_partitions", ()] == count


def test_topics_are_limited_too() -> None:
    topics = tuple(
        TopicSnapshot(
            topic=f"t{number:05}", received_messages=0, received_bytes=0, get_requests=0, sent_bytes=0
        )
        for number in range(PARTITION_SERIES_MAX + 1)
    )
    samples = scrape(attrs.evolve(SNAPSHOT, topics=topics))
    assert (
        len([1 for name, _ in samples if name == "metaserver_topic_sent_bytes_total"]) == PARTITION_SERIES_MAX
    )


def test_values_are_those_of_prepare_not_of_rendering() -> None:
    current = [SNAPSHOT]
    metrics = BrokerMetrics(CollectorRegistry(), lambda: current[0])
    render = metrics.prepare()
    current[0] = attrs.evolve(SNAPSHOT, connections=1)
    assert samples_of(render())["metaserver_connections", ()] == SNAPSHOT.connections
    assert samples_of(metrics.prepare()())["metaserver_connections", ()] == 1


def test_the_registry_can_be_collected_without_prepare() -> None:
    registry = CollectorRegistry()
    BrokerMetrics(registry, lambda: SNAPSHOT)
    assert registry.get_sample_value("metaserver_connections") == SNAPSHOT.connections


def test_the_process_is_measured() -> None:
    assert scrape(SNAPSHOT)["process_resident_memory_bytes", ()] > 0


def test_names_follow_the_conventions() -> None:
    for family in metric_families(SNAPSHOT):
        assert re.fullmatch(r"metaserver_[a-z_]+", family.name)
        assert family.documentation.endswith(".")
        assert not re.search(r"_(ms|millis|mb|kb|count|gauge|counter)$", family.name)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name


def test_the_document_lists_exactly_these_metrics() -> None:
    # Behind it are those of `metaServer probe`, which is no broker.
    of_brokers = DOCUMENT.read_text(encoding="utf-8").partition("\n## Probing\n")[0]
    documented = set(re.findall(r"^\| `(metaserver_\w+)", of_brokers, re.MULTILINE))
    made = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metric_families(SNAPSHOT)
    }
    assert documented == made


@given(st.text(min_size=1))
def test_any_label_text_survives(path: str) -> None:
    # Surrogates cannot be encoded; a path that holds some is shown by its caller, not here.
    path = path.encode("utf-8", "replace").decode("utf-8")
    families = metric_families(attrs.evolve(SNAPSHOT, disk_free_bytes=((path, 1),)))
    (free,) = [family for family in families if family.name == "metaserver_disk_free_bytes"]
    assert free.samples[0].labels == {"path": path}
