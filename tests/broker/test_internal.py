"""The broker's own topic: whatever the configuration says, it is nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaserver.broker import Partition, Retention
from metaserver.config import parse_server_config
from metaserver.names import REGISTRY_LOG, PartitionId, Topic, TopicPartition

if TYPE_CHECKING:
    from metaserver.config import ServerConfig


class Log:
    """Remembers whether retention looked at it."""

    end_offset = 7

    def __init__(self) -> None:
        self.retained = 0

    def delete_expired(self, *_policy: object) -> list[str]:
        self.retained += 1
        return []


class Clock:
    def wall_seconds(self) -> float:
        return 0.0

    def monotonic_seconds(self) -> float:
        return 0.0


def config(topics: str = "[topic=*]\n", threshold: int = 1000) -> ServerConfig:
    required = "brokerId=0\nnumPartitions=1\nmaxSegmentSize=4096\nmaxTransferSize=4096\n"
    flush = f"unflushThreshold={threshold}\nunflushInterval=1000\nstat=true\n"
    return parse_server_config(
        f"[system]\n{required}{flush}{topics}", source="f", base_directory=Path("/base")
    )


def partition(name: TopicPartition) -> Partition:
    log: Any = Log()
    return Partition.of(name, log, config())


def test_it_has_no_configuration() -> None:
    found = partition(REGISTRY_LOG)
    for _ in range(2):
        assert found.is_internal
        assert not found.is_configured
        assert found.is_group_commit, "a slave's copy is on its disk before it is called so"
        assert not found.config.stat
        found.configure(config("[topic=a]\n[topic=_*]\n"))


def test_no_slave_is_waited_for() -> None:
    """Whatever [system] says of topics without a section."""
    log: Any = Log()
    waits = config("ackLevel=slave\n[topic=a]\n", threshold=0)
    assert Partition.of(REGISTRY_LOG, log, waits).ack_rule is None
    assert Partition.of(TopicPartition(Topic("a"), PartitionId(0)), log, waits).ack_rule is not None


def test_others_follow_their_section() -> None:
    found = partition(TopicPartition(Topic("a"), PartitionId(0)))
    assert (found.is_internal, found.is_configured, found.is_group_commit) == (False, True, False)
    found.configure(config("[topic=b]\n"))
    assert not found.is_configured


async def test_retention_passes_over_it() -> None:
    own, other = partition(REGISTRY_LOG), partition(TopicPartition(Topic("a"), PartitionId(0)))
    nobody: Any = None
    await Retention(nobody, Clock(), float).clean([own, other])
    logs: list[Any] = [own.log, other.log]
    assert [log.retained for log in logs] == [0, 1]
