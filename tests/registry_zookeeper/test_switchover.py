"""A planned change with a real ZooKeeper: the name changes hands, and producers follow it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.client import ProducerOptions, SessionOptions, open_session
from tests.support import ROOT, WAIT_SECONDS_MAX, BrokerProcess
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.registry_zookeeper.zookeeper_server import Kazoo, ZooKeeperServer


@pytest.fixture
def base(tmp_path: Path, server: ZooKeeperServer, root: str) -> Iterator[Path]:
    """An installation with a master and a slave, both running; others have two seconds to notice a stop."""
    ports = free_port(), free_port()
    registry = f"[zookeeper]\nzk.zkConnect={server.address}\nzk.zkRoot={root}\nzk.zkSyncTimeMs=2000\n"
    settings: dict[str, object] = {"serverPort": ports[0], "dataPath": "data/master"}
    BrokerProcess(tmp_path).configure(settings, f"[topic=test]\n{registry}")
    (tmp_path / "conf" / "async_slave.properties").write_text(
        f"slaveId=0\nmasterAddress=127.0.0.1:{ports[0]}\nserverPort={ports[1]}\ndashboardHttpPort=0\n"
        "dataPath=data/slave\n",
        encoding="utf-8",
    )
    for role in ((), ("slave",)):
        assert metaserver(tmp_path, "start", *role).returncode == 0
    yield tmp_path
    for role in (("slave",), ()):
        metaserver(tmp_path, "stop", *role, "--force")


def metaserver(base: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "metaserver", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * WAIT_SECONDS_MAX,
    )


def test_producers_follow_the_name(base: Path, server: ZooKeeperServer, spy: Kazoo, root: str) -> None:
    sent: list[bytes] = []
    masters: list[bytes] = []

    async def change() -> None:
        options = SessionOptions(root=root)
        async with open_session(f"zookeeper://{server.address}", options) as session:
            async with session.producer(ProducerOptions(retry_unknown=True)) as producer:
                for _ in range(3):
                    async with trio.open_nursery() as nursery:

                        async def send_on() -> None:
                            while True:
                                payload = b"%d" % len(sent)
                                with trio.CancelScope(shield=True):
                                    await producer.send("test", payload)
                                sent.append(payload)
                                await trio.lowlevel.checkpoint()

                        nursery.start_soon(send_on)
                        ran = await trio.to_thread.run_sync(metaserver, base, "switchover")
                        assert ran.returncode == 0, ran.stderr
                        masters.append(spy.get(f"{root}/brokers/ids/0/master")[0])
                        nursery.cancel_scope.cancel()
            found: Counter[bytes] = Counter()
            (partition,) = await session.partitions("test")
            offset = end = 0
            # The slave that answers may be a moment behind.
            with trio.fail_after(WAIT_SECONDS_MAX):
                while found.total() < len(sent) or offset < end:
                    got = await session.fetch(partition, offset, wait_ms=100)
                    found.update(message.payload for message in got.messages)
                    offset, end = got.next_offset, got.end_offset
        assert found == Counter(sent)

    trio.run(change)
    assert masters[0] == masters[2] != masters[1]
