"""Transactions of the Java client: what it is told by our broker is what the original tells it."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.test_java_client import session_of
from tests.support import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import StartBroker
    from tests.interop.original import ZooKeeperProcess
    from tests.support import BrokerProcess

pytestmark = pytest.mark.java

TOPICS = "[topic=orders]\n"
SETTINGS: dict[str, Any] = {"numPartitions": 3, "unflushThreshold": 1, "unflushInterval": 50}
COMMITTED = [
    *(f"local-{number}" for number in range(3)),
    *(f"two-phases-{number}" for number in range(3)),
    *(f"one-phase-{number}" for number in range(3)),
]


def bodies(broker: BrokerProcess) -> list[str]:
    return sorted(
        record.data.decode() for partition in range(3) for record in broker.read_all("orders", partition)
    )


@pytest.mark.scenario(39, 40, 41, 54, 55, 60)
def test_local_and_distributed_transactions(
    java_classpath: str,
    zookeeper: ZooKeeperProcess,
    start_java: StartBroker,
    start_ours: StartBroker,
    tmp_path: Path,
) -> None:
    java = start_java(topics=TOPICS, **SETTINGS)
    (root,) = re.findall(r"^zk\.zkRoot=(.*)$", java.server_file.read_text(encoding="utf-8"), re.MULTILINE)
    of_java = session_of(
        "TransactionSession", java_classpath, tmp_path, zookeeper.address, root, str(java.port), "all"
    )
    eventually(lambda: bodies(java) == sorted(COMMITTED), "the commits of the Java broker are to be read")
    assert java.stop() == 0

    ours = start_ours(topics=TOPICS, **SETTINGS)
    root = f"/{uuid.uuid4()}"
    arguments = (zookeeper.address, root, str(ours.port), "all", "register")
    of_ours = session_of("TransactionSession", java_classpath, tmp_path, *arguments)
    assert bodies(ours) == sorted(COMMITTED)
    assert ours.stop() == 0
    assert of_ours == of_java
    assert "prepare | 0" in of_ours


def test_a_transaction_manager_decides_over_a_database_and_the_broker(
    java_classpath: str, zookeeper: ZooKeeperProcess, start_ours: StartBroker, tmp_path: Path
) -> None:
    ours = start_ours("transfer", topics=TOPICS, **SETTINGS)
    arguments = (zookeeper.address, f"/{uuid.uuid4()}", str(ours.port))
    said = session_of("DatabaseTransfer", java_classpath, tmp_path, *arguments)
    assert said == ["committed", "rolled back", "rollback only", "row | committed", "end"]
    assert bodies(ours) == [f"committed {number}" for number in range(3)]
    statistics = dict(line.split(" ", 1) for line in ours.statistics())
    assert statistics["tx_xa_begin"] == "3"
    assert ours.status()["transactions"]["prepared"] == 0
    assert "XID:" not in ours.ask(b"transaction null null RECOVER 1\r\n").text
