"""What a running node tells about itself: the status of the command line and of HTTP, and the metrics."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import attrs

from metaserver import __version__
from metaserver.metrics import (
    BrokerSnapshot,
    PartitionSnapshot,
    RecoverySnapshot,
    RegistrySnapshot,
    ReplicationSnapshot,
    TopicSnapshot,
)
from metaserver.names import INTERNAL_TOPICS
from metaserver.node.slaves import acknowledgement_snapshot, slaves_status, unconfirmed_bytes
from metaserver.node.transactions import transactions_snapshot, transactions_status
from metaserver.replication import ReplicaState
from metaserver.replication.chain import chain_problem
from metaserver.replication.master import format_place
from metaserver.storage import RealFileSystem, quarantine_folders

if TYPE_CHECKING:
    from metaserver.broker import Broker, DiskGuard
    from metaserver.broker.partition import Partition
    from metaserver.logs import LogFormat
    from metaserver.node.checking import Checking
    from metaserver.node.registry import EmbeddedRegistry, Membership
    from metaserver.node.role import Decision
    from metaserver.replication import ConfigSync, ConfigSyncReport, PairLink, Slave, SlaveReport, Succession
    from metaserver.storage import FileSystem, MessageStore, QuarantineReport


@attrs.define(eq=False)
class Reporter:
    """Reads the parts of one node."""

    _broker: Broker
    _store: MessageStore
    _disk: DiskGuard
    _slave: Slave | None
    _membership: Membership
    _checking: Checking
    _embedded: EmbeddedRegistry | None = None
    _config_sync: ConfigSync | None = None
    http_port: int = 0
    is_lenient: bool = False
    log_format: LogFormat = "text"
    """With what it was started, and the line before."""
    decision: Decision | None = None
    """What makes the node something else than its files say."""
    pair: PairLink | None = None
    """Of the master of a synchronous pair."""
    succession: Succession | None = None
    """Of a master."""
    _filesystem: FileSystem = attrs.Factory(RealFileSystem)

    def readiness(self) -> list[str]:
        """Why the node does not do all of its work, a sentence each."""
        reasons = [
            f"partition {name} could not be opened: {error}" for name, error in self._store.failed.items()
        ]
        reasons += [
            str(partition.log.failure)
            for partition in self._broker.partitions.values()
            if partition.log.failure is not None
        ]
        if self._disk.is_full:
            reasons.append(f"the disk is full, puts are refused: {self._disk.free_bytes} bytes are free")
        if self._disk.gone is not None:
            reasons.append(f"the data directory {self._disk.gone} is gone, puts are refused")
        if self._embedded is not None and self._embedded.failure:
            reasons.append(f"the embedded registry does not serve: {self._embedded.failure}")
        if self._broker.gate.reason:
            reasons.append(f"puts are refused: {self._broker.gate.reason}")
        if self._broker.gate.is_given_up:
            reasons.append(self._given_up)
        registration = self._membership.report()
        if registration is not None and not (registration.is_registered or registration.is_beginning):
            reasons.append(f"not registered in ZooKeeper: {registration.problem}")
        if self._slave is not None:
            report = self._slave.report()
            if not report.is_connected:
                master = " ".join(filter(None, ("the master", report.master_address)))
                reasons.append(f"not connected to {master}: {report.problem}")
            if report.is_connected and (problem := chain_problem(report.upstream)):
                reasons.append(problem)
            if report.search_problem not in ("", report.problem):
                reasons.append(f"the master's address may be out of date: {report.search_problem}")
            reasons += [
                f"replication of {replica.name} has stopped: {replica.reason}"
                for replica in report.partitions
                if replica.state is ReplicaState.STOPPED
            ]
        if self.pair is not None and self.pair.problem:
            reasons.append(f"the slave of the pair, {self.pair.slave_address}: {self.pair.problem}")
        if self._config_sync is not None and self._config_sync.is_refused:
            reasons.append(self._config_sync.problem)
        return reasons

    def problems(self) -> list[str]:
        """The same, and what keeps it from nothing but is for an operator to look at."""
        second = ["" if self.succession is None else self.succession.problem]
        if not self._broker.is_slave:
            second.append(self._broker.transactions.problem)
        return self.readiness() + list(filter(None, second)) + self._checking.problems()

    def status(self) -> dict[str, object]:
        """The node on one page, in values JSON knows."""
        broker, config, partitions = self._broker, self._broker.config, self._partitions
        status: dict[str, object] = {
            "role": "slave" if broker.is_slave else "master",
            "version": __version__,
            "pid": os.getpid(),
            "instance": broker.instance,
            "broker_id": config.broker_id,
            "address": broker.address,
            "http_port": self.http_port,
            "config": str(config.path),
            "config_checksum": config.checksum,
            "lenient": self.is_lenient,
            "log_format": self.log_format,
            "data_path": str(config.data_path),
            "uptime_seconds": round(self._uptime_seconds, 3),
            "connections": broker.connection_count,
            "requests": {
                "put": broker.counters.put,
                "get": broker.counters.get,
                "received_bytes": broker.counters.bytes_in,
                "sent_bytes": broker.counters.bytes_out,
            },
            "topics": len({topic for topic, _ in partitions}),
            "partitions": len(partitions),
            "messages": sum(partition.log.record_count for partition in partitions.values()),
            "bytes": sum(partition.log.statistics().size_bytes for partition in partitions.values()),
            "disk_free_bytes": self._disk.free_bytes,
            "problems": self.problems(),
            "quarantine": self._quarantine(),
            "scrub": self._checking.status(),
            "puts_refused": broker.gate.reason,
            "fenced": broker.gate.fenced is not None,
            "handed_over": broker.gate.is_given_up,
        }
        if self.decision is not None:
            status["decision"] = attrs.asdict(self.decision) | {"sentence": self.decision.sentence}
        registration = self._membership.report()
        if registration is not None:
            status["registry"] = {
                "servers": registration.servers,
                "connected": registration.is_connected,
                "registered": registration.is_registered,
                "problem": registration.problem,
                "session": registration.session,
                "topics": registration.topics,
            }
        if self._embedded is not None:
            statistics = self._embedded.statistics
            status["embedded_registry"] = {
                "port": self._embedded.port,
                "failure": self._embedded.failure,
                "connections": 0 if statistics is None else statistics.connections,
                "sessions": 0 if statistics is None else statistics.sessions,
                "nodes": 0 if statistics is None else statistics.nodes,
            }
        if not broker.is_slave:
            status["transactions"] = transactions_status(broker)
        if slaves := slaves_status(broker):
            status["slaves"] = slaves
        if self.pair is not None:
            status["pair"] = {"slave": self.pair.slave_address, "problem": self.pair.problem}
        if self._slave is not None:
            status["replication"] = replication_status(self._slave.report(), with_partitions=False)
        if self._config_sync is not None:
            status["config_sync"] = _config_sync_status(self._config_sync.report())
        return status

    async def slaves(self) -> dict[str, object]:
        """What a master knows of its slaves by the registry, as a part of the status; empty for a slave."""
        if self._broker.is_slave:
            return {}
        checksum = self._broker.config.checksum
        return {
            "registered_slaves": [
                {
                    "slave_id": slave.slave_id,
                    "address": format_place(slave.address),
                    "merged_checksum": slave.merged_checksum,
                    "drift": None if slave.merged_checksum is None else slave.merged_checksum != checksum,
                }
                for slave in await self._membership.slaves()
            ]
        }

    def slave_status(self) -> dict[str, object]:
        """Everything about the replication; empty on a master."""
        if self._slave is None:
            return {}
        status = replication_status(self._slave.report(), with_partitions=True)
        if self._config_sync is not None:
            status["config_sync"] = _config_sync_status(self._config_sync.report())
        return {**status, "quarantine": self._quarantine()}

    def topics(self) -> dict[str, object]:
        """Every partition with its offsets, and the sections that have none."""
        partitions = self._partitions
        with_messages = {topic for topic, _number in partitions}
        return {
            "topics": [
                {
                    "topic": topic,
                    **partition_fields(number, partition),
                    **({"closed": True} if self._broker.is_closed(topic, number) else {}),
                }
                for (topic, number), partition in sorted(partitions.items())
            ],
            "without_messages": [
                section.name for section in self._broker.config.topics if section.name not in with_messages
            ],
        }

    def metrics(self) -> BrokerSnapshot:
        """Everything a scrape shows."""
        broker, counters, commits = self._broker, self._broker.counters, self._broker.committer.statistics
        return BrokerSnapshot(
            version=__version__,
            broker_id=broker.config.broker_id,
            role="slave" if broker.is_slave else "master",
            uptime_seconds=self._uptime_seconds,
            ready=not self.readiness(),
            put_requests=counters.put,
            get_requests=counters.get,
            offset_requests=counters.offset,
            get_misses=counters.get_miss,
            put_failures=counters.put_failed,
            received_bytes=counters.bytes_in,
            sent_bytes=counters.bytes_out,
            connections=broker.connection_count,
            inflight_bytes=broker.inflight_bytes,
            fsync_count=commits.flushes,
            fsync_seconds=commits.flush_seconds,
            recovery=self._recovery(),
            disk_free_bytes=((str(broker.config.data_path), self._disk.free_bytes),),
            topics=self._topics(),
            partitions=tuple(
                PartitionSnapshot(
                    topic=topic,
                    partition=number,
                    start_offset=partition.log.start_offset,
                    end_offset=partition.log.end_offset,
                    flushed_offset=partition.log.flushed_offset,
                    failed=partition.log.failure is not None,
                    slaves=broker.acknowledgements.acks.reported_count((topic, number)),
                    unconfirmed_bytes=unconfirmed_bytes(broker, partition),
                )
                for (topic, number), partition in broker.partitions.items()
            ),
            acknowledgements=acknowledgement_snapshot(broker),
            replication=self._replication(),
            registry=self._registry(),
            transactions=None if broker.is_slave else transactions_snapshot(broker),
            puts_refused=bool(broker.gate.reason),
            damage=self._checking.snapshot(),
            quarantine_folders=self._quarantine_folders(),
            quarantined_messages=sum(report.records for report in self._quarantined),
        )

    def _quarantine(self) -> dict[str, object]:
        """What lies there, and what was put there since the start."""
        return {
            "folders": self._quarantine_folders(),
            "since_start": [
                {
                    "folder": f"{report.topic}-{report.partition}/{report.start_offset}-{report.end_offset}",
                    "messages": report.records,
                }
                for report in self._quarantined
            ],
        }

    @property
    def _given_up(self) -> str:
        # A master by decision is a slave by its files: so the command line calls it.
        word = "" if self.decision is None else " slave"
        return (
            f"it has given up its place as master: `metaServer follow HOST:PORT{word}` makes it the slave of "
            f"the new one; `metaServer restart{word}`, where there is none, makes it the master again"
        )

    @property
    def _quarantined(self) -> list[QuarantineReport]:
        return [] if self._slave is None else self._slave.quarantined

    def _quarantine_folders(self) -> int:
        paths = self._broker.config.data_paths
        try:
            return sum(len(quarantine_folders(self._filesystem, path)) for path in paths)
        except OSError:
            return 0  # Somebody is tidying up there; the next look tells.

    def _topics(self) -> tuple[TopicSnapshot, ...]:
        traffic = self._broker.traffic
        return tuple(
            TopicSnapshot(
                topic=topic,
                received_messages=counts.messages,
                received_bytes=counts.bytes_in,
                get_requests=counts.gets,
                sent_bytes=counts.bytes_out,
            )
            for topic, counts in traffic.items()
            if topic not in INTERNAL_TOPICS
        )

    def _recovery(self) -> RecoverySnapshot:
        reports = self._store.reports
        return RecoverySnapshot(
            seconds=sum(report.seconds for report in reports),
            scanned_bytes=sum(report.bytes_scanned for report in reports),
            scanned_records=sum(report.records_scanned for report in reports),
            cut_bytes=sum(report.bytes_cut for report in reports),
            damaged_ranges=sum(len(report.damaged_ranges) for report in reports),
            failed_partitions=len(self._store.failed),
        )

    def _replication(self) -> ReplicationSnapshot | None:
        if self._slave is None:
            return None
        report = self._slave.report()
        return ReplicationSnapshot(
            connected=report.is_connected,
            lag_bytes=report.lag_bytes,
            lag_messages=report.lag_messages,
            lag_seconds=report.lag_seconds,
            diverged_partitions=sum(r.state is ReplicaState.STOPPED for r in report.partitions),
            copied_bytes=report.catch_up.copied_bytes,
            catch_up_seconds=report.estimated_seconds,
            gaps=self._slave.skips,
        )

    def _registry(self) -> RegistrySnapshot | None:
        if self._embedded is None or (statistics := self._embedded.statistics) is None:
            return None
        return RegistrySnapshot(
            connections=statistics.connections,
            sessions=statistics.sessions,
            watches=statistics.watches,
            nodes=statistics.nodes,
            zxid=statistics.zxid,
            log_bytes=statistics.log_bytes,
            failed=bool(self._embedded.failure),
        )

    @property
    def _partitions(self) -> dict[tuple[str, int], Partition]:
        """Those of clients."""
        return {name: found for name, found in self._broker.partitions.items() if not found.is_internal}

    @property
    def _uptime_seconds(self) -> float:
        return self._broker.clock.monotonic_seconds() - self._broker.started_monotonic_seconds


def partition_fields(number: int, partition: Partition) -> dict[str, object]:
    """A partition of a topic in values JSON knows."""
    log = partition.log
    return {
        "partition": number,
        "start_offset": log.start_offset,
        "end_offset": partition.readable_offset,
        "messages": log.record_count,
        "failed": None if log.failure is None else str(log.failure),
    }


def _config_sync_status(report: ConfigSyncReport) -> dict[str, object]:
    return {
        "enabled": report.is_enabled,
        "master_checksum": report.master_checksum,
        "merged_checksum": report.merged_checksum,
        "drift": report.has_drift,
        "problem": report.problem,
        "needs_restart": list(report.needs_restart),
    }


def replication_status(report: SlaveReport, *, with_partitions: bool) -> dict[str, object]:
    """A slave's report in values JSON knows."""
    status: dict[str, object] = {
        "master": report.master_address,
        "master_promoted": report.master_promoted,
        "connected": report.is_connected,
        "problem": report.problem,
        "search_problem": report.search_problem,
        "lag_bytes": report.lag_bytes,
        "lag_messages": report.lag_messages,
        "lag_seconds": round(report.lag_seconds, 3),
        "heard_seconds": report.heard_wall_seconds,
        "link": None if report.link is None else attrs.asdict(report.link),
        "upstream": [attrs.asdict(hop) | {"role": hop.role} for hop in report.upstream],
        "partitions": len(report.partitions),
        "stopped": sum(replica.state is ReplicaState.STOPPED for replica in report.partitions),
        "catch_up": {
            "left_bytes": report.catch_up.left_bytes,
            "bytes_per_second": round(report.catch_up.pace.bytes_per_second),
            "estimated_seconds": report.estimated_seconds,
            "limit_bytes_per_second": report.catch_up.limit_bytes_per_second,
        },
    }
    if with_partitions:
        status["requests"] = report.requests
        status["details"] = [
            {
                "topic": replica.name.topic,
                "partition": replica.name.partition,
                "state": replica.state.value,
                "reason": replica.reason,
                "start_offset": replica.local_start,
                "end_offset": replica.local_end,
                "master_end_offset": replica.master_end,
                "lag_bytes": replica.lag_bytes,
                "lag_messages": replica.lag_messages,
                "lag_seconds": round(replica.lag_seconds, 3),
                "gaps": [list(gap) for gap in replica.gaps],
            }
            for replica in report.partitions
        ]
    return status
