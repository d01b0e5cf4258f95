"""`metaServer transactions` with a running master."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support import NO_REGISTRY, ROOT, BrokerProcess, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = [f"XID:1:0{number}::books" for number in range(3)]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    process = BrokerProcess(
        tmp_path_factory.mktemp("broker"), topics="[topic=orders]\n", registry=NO_REGISTRY
    )
    try:
        process.start()
        with process.connect() as wire:
            for key in KEYS:
                wire.ask(f"transaction {key} null BEGIN 1\r\n".encode())
                head = f"put orders 0 {len(key)} 0 {checksum(key.encode())} {key} 2\r\n"
                wire.ask(head.encode() + key.encode())
                assert wire.ask(f"transaction {key} null PREPARE 3\r\n".encode()).text == "0"
        yield process
    finally:
        process.make_sure_it_is_gone()


def run(broker: BrokerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "metaserver", "transactions", *arguments, "-f", str(broker.server_file)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def states(broker: BrokerProcess) -> dict[str, str]:
    report = json.loads(run(broker, "list", "--json").stdout)
    return {one["key"]: one["state"] for one in report["transactions"]}


def test_listed_decided_and_forgotten(broker: BrokerProcess) -> None:
    listed = run(broker, "list")
    assert listed.returncode == 0, listed.stderr
    title, *rows, summary = listed.stdout.splitlines()
    assert title.split() == ["KEY", "STATE", "MESSAGES", "SIZE", "AGE", "PARTITIONS"]
    assert [row.split()[:3] for row in rows] == [[key, "prepared", "1"] for key in KEYS]
    assert all(row.endswith("orders-0") for row in rows)
    assert summary == "3 transactions"

    assert (
        run(broker, "commit", KEYS[0]).stdout
        == f"{KEYS[0]} is committed; its manager is told so when it asks\n"
    )
    assert run(broker, "rollback", KEYS[1]).returncode == 0
    assert states(broker) == {
        KEYS[0]: "committed by an operator",
        KEYS[1]: "rolled back by an operator",
        KEYS[2]: "prepared",
    }
    assert [record.data.decode() for record in broker.read_all("orders")] == [KEYS[0]]
    assert run(broker, "forget", KEYS[1]).stdout == f"{KEYS[1]} is forgotten\n"
    assert set(states(broker)) == {KEYS[0], KEYS[2]}

    refused = run(broker, "commit", KEYS[1])
    assert refused.returncode == 1
    assert f"XA transaction '{KEYS[1]}' has not been started." in refused.stderr
    assert "there is nothing to forget" in run(broker, "forget", KEYS[2]).stderr
    assert "is no transaction key" in run(broker, "rollback", "nonsense").stderr
