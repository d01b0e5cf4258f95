"""What is done to several at once is done in an order that no address or hash decides: runs can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import attrs

from metaserver.broker import Partition
from metaserver.config import parse_server_config
from metaserver.names import PartitionId, Topic, TopicPartition
from metaserver.protocol import LocalKey
from metaserver.transactions import Limits, TransactionTable

COUNT = 10


@attrs.define(eq=False)
class Sink:
    number: int
    closed: list[int]

    def __hash__(self) -> int:
        """In a set, the last comes first."""
        return COUNT - self.number

    def close_after_replies(self) -> None:
        self.closed.append(self.number)

    def flush(self) -> None:
        pass


class Log:
    end_offset = 7


def test_connections_are_ended_in_the_order_in_which_they_asked_for_epochs() -> None:
    text = "[system]\nbrokerId=0\nnumPartitions=1\nunflushThreshold=0\nunflushInterval=1000\n"
    text += "maxSegmentSize=4096\nmaxTransferSize=4096\n[topic=a]\n"
    config = parse_server_config(text, source="f", base_directory=Path("/base"))
    partition = Partition.of(TopicPartition(Topic("a"), PartitionId(0)), cast("Any", Log()), config)
    closed: list[int] = []
    sinks: list[Any] = [Sink(number, closed) for number in range(COUNT)]
    for sink in sinks:
        partition.told_epochs[sink] = None
    partition.epochs_changed()
    assert closed == list(range(COUNT))


def test_transactions_of_a_connection_that_is_gone_are_rolled_back_in_the_order_they_were_opened() -> None:
    table, owner = TransactionTable(Limits(open_max=100, bytes_max=1000)), object()
    begun = [table.begin(LocalKey("s", number), owner, number, 0.0) for number in range(100)]
    assert table.owned(owner) == begun
