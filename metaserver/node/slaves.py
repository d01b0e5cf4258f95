"""What a broker knows of the slaves that report to it, as its status and its metrics show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.errors import StorageError
from metaserver.message import HEADER, HEADER_SIZE, message_id_to_seconds
from metaserver.metrics import AcknowledgementSnapshot, SlaveSnapshot

if TYPE_CHECKING:
    from metaserver.broker import Broker
    from metaserver.broker.partition import Partition
    from metaserver.broker.replica_acks import Slave


@attrs.frozen
class _Lag:
    """One partition of clients that a slave has not all of on its disk."""

    partition: Partition
    disk_offset: int

    @property
    def size_bytes(self) -> int:
        return self.partition.readable_offset - self.disk_offset


def slaves_status(broker: Broker) -> list[dict[str, object]]:
    """Every slave that reports, or has reported lately, in values JSON knows."""
    now = broker.clock.monotonic_seconds()
    found: list[dict[str, object]] = []
    for slave in sorted(broker.acknowledgements.acks.slaves, key=lambda slave: slave.name):
        is_connected, lags = slave.connection is not None, _lags(broker, slave)
        found.append(
            {
                "slave_group": slave.name.group,
                "slave_id": slave.name.number,
                "connected": is_connected,
                "silent_seconds": round(now - slave.heard_seconds, 3),
                "partitions": len(slave.positions),
                "lag_bytes": sum(lag.size_bytes for lag in lags) if is_connected else None,
                "lag_seconds": round(_age_seconds(broker, lags), 3) if is_connected else None,
            }
        )
    return found


def acknowledgement_snapshot(broker: Broker) -> AcknowledgementSnapshot:
    """For a scrape."""
    acknowledgements = broker.acknowledgements
    return AcknowledgementSnapshot(
        waiting_puts=acknowledgements.acks.waiting_count,
        timeouts=tuple((str(level), count) for level, count in acknowledgements.timeouts.items()),
        refusals=tuple((str(level), count) for level, count in acknowledgements.refusals.items()),
        slaves=tuple(
            SlaveSnapshot(
                group=slave.name.group,
                number=slave.name.number,
                connected=slave.connection is not None,
                lag_bytes=sum(lag.size_bytes for lag in _lags(broker, slave)),
            )
            for slave in acknowledgements.acks.slaves
        ),
    )


def unconfirmed_bytes(broker: Broker, partition: Partition) -> int | None:
    """What not enough slaves have; None where puts wait for no slave."""
    rule = partition.ack_rule
    if rule is None:
        return None
    key = (partition.name.topic, partition.name.partition)
    confirmed = broker.acknowledgements.acks.confirmed_offset(key, rule)
    return partition.readable_offset - max(confirmed, partition.log.start_offset)


def _lags(broker: Broker, slave: Slave) -> list[_Lag]:
    """The partitions of clients that the slave reports and does not have all of."""
    found = [_Lag(broker.partitions[key], position.disk_offset) for key, position in slave.positions.items()]
    return [lag for lag in found if lag.size_bytes > 0 and not lag.partition.is_internal]


def _age_seconds(broker: Broker, lags: list[_Lag]) -> float:
    """How old the oldest message is that the slave lacks; by its id, which carries its time."""
    ages = [broker.clock.wall_seconds() - written for lag in lags if (written := _time_at(lag)) is not None]
    return max(0.0, *ages) if ages else 0.0


def _time_at(lag: _Lag) -> float | None:
    offset = max(lag.disk_offset, lag.partition.log.start_offset)
    try:
        log_slice = lag.partition.log.read(offset, HEADER_SIZE, lag.partition.readable_offset)
    except StorageError:
        return None
    try:
        header = log_slice.read()
    except OSError:
        return None
    finally:
        log_slice.release()
    return message_id_to_seconds(HEADER.unpack(header)[2]) if len(header) == HEADER_SIZE else None
