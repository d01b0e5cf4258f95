"""Two masters of one name: the one that stood still while the other took its place takes no more puts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from metaserver.control.client import call
from tests.support import ROOT, WAIT_SECONDS_MAX, BrokerProcess, eventually, put
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.registry_zookeeper.zookeeper_server import Kazoo, ZooKeeperServer


@pytest.fixture
def pair(tmp_path: Path, server: ZooKeeperServer, root: str) -> Iterator[tuple[BrokerProcess, BrokerProcess]]:
    registry = (
        f"[zookeeper]\nzk.zkConnect={server.address}\nzk.zkRoot={root}\nzk.zkSyncTimeMs=100\n"
        "zk.zkSessionTimeoutMs=1000\n"
    )
    topics = f"[topic=test]\n{registry}"
    master = BrokerProcess(tmp_path / "master", settings={"serverPort": free_port()}, topics=topics)
    master.port = int(str(master.settings["serverPort"]))
    slave = BrokerProcess(
        tmp_path / "slave", settings={"serverPort": free_port()}, topics=topics, slave_of=master.port
    )
    yield master, slave
    for broker in (slave, master):
        broker.make_sure_it_is_gone()
        assert "Traceback" not in broker.log
    metaserver("stop", slave, "--force")


def metaserver(verb: str, node: BrokerProcess, *options: str) -> subprocess.CompletedProcess[str]:
    """A command to the slave of a folder."""
    files = ("-f", str(node.server_file), f"-Fmetaslave={node.base / 'conf' / 'async_slave.properties'}")
    return subprocess.run(
        [sys.executable, "-P", "-m", "metaserver", verb, *files, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=3 * WAIT_SECONDS_MAX,
    )


def readiness(node: BrokerProcess) -> str:
    port = node.status()["http_port"]
    with pytest.raises(HTTPError) as found:
        urlopen(f"http://127.0.0.1:{port}/readyz", timeout=WAIT_SECONDS_MAX)
    with found.value as answer:
        return answer.read().decode()


def metric(node: BrokerProcess, name: str) -> float:
    url = f"http://127.0.0.1:{node.status()['http_port']}/metrics"
    with urlopen(url, timeout=WAIT_SECONDS_MAX) as answer:
        lines = answer.read().decode().splitlines()
    (value,) = (float(line.split()[1]) for line in lines if line.startswith(f"{name} "))
    return value


def test_a_master_that_slept_is_fenced(
    pair: tuple[BrokerProcess, BrokerProcess], spy: Kazoo, root: str
) -> None:
    master, slave = pair
    master.start()
    master.wait_registered()
    slave.start()
    assert master.ask(put("test", b"before", 1)).status == 200
    assert metric(master, "metaserver_puts_refused") == 0
    eventually(lambda: len(slave.read_all("test")) == 1, "the copy")

    os.kill(master.pid, signal.SIGSTOP)
    try:
        # The link of the slave has not noticed anything yet, so it takes --force.
        refused = metaserver("promote", slave)
        assert "is connected to its master" in refused.stderr
        promoted = metaserver("promote", slave, "--force")
    finally:
        os.kill(master.pid, signal.SIGCONT)
    assert promoted.returncode == 0, promoted.stderr
    assert "registered as master in" in promoted.stdout
    assert spy.get(f"{root}/brokers/ids/0/master")[0] == b"meta://127.0.0.1:%d" % slave.port

    eventually(lambda: bool(master.status()["fenced"]), "the old master notices")
    with master.connect() as wire:
        for number in range(5):
            reply = wire.ask(put("test", b"late", number + 1))
            assert reply.status == 503
            # It hears of it from ZooKeeper and from the other itself, whichever is first.
            text = f"This broker is no longer the master: 127.0.0.1:{slave.port} "
            assert text in reply.text
    assert "puts are refused: This broker is no longer the master" in readiness(master)
    assert metric(master, "metaserver_puts_refused") == 1
    assert [stored.data for stored in master.read_all("test")] == [b"before"], "reads go on"
    assert slave.ask(put("test", b"after", 1)).status == 200

    # It does not take the name back when the other leaves, for that one may come back any moment.
    assert metaserver("stop", slave).returncode == 0
    eventually(lambda: not spy.exists(f"{root}/brokers/ids/0/master"), "the new master leaves")
    assert master.ask(put("test", b"late", 1)).status == 503
    assert metaserver("start", slave).returncode == 0
    assert spy.get(f"{root}/brokers/ids/0/master")[0] == b"meta://127.0.0.1:%d" % slave.port

    # A restart is what ends it, and what makes it the new one's slave.
    master.stop()
    master.slave_of = slave.port
    master.start()
    eventually(
        lambda: [stored.data for stored in master.read_all("test")] == [b"before", b"after"], "it rejoins"
    )


def test_the_second_of_two_masters_by_mistake_is_not_fenced(
    tmp_path: Path, server: ZooKeeperServer, root: str
) -> None:
    registry = f"[zookeeper]\nzk.zkConnect={server.address}\nzk.zkRoot={root}\nzk.zkSyncTimeMs=100\n"
    nodes = [BrokerProcess(tmp_path / name, topics=f"[topic=test]\n{registry}") for name in ("one", "two")]
    try:
        nodes[0].start()
        nodes[0].wait_registered()
        nodes[1].start()

        def is_waiting() -> bool:
            status: dict[str, Any] = call(nodes[1].control_socket, "status", WAIT_SECONDS_MAX)
            return "another broker" in status["registry"]["problem"]

        eventually(is_waiting, "the second one finds the first")
        # Neither was registered and lost it: the first goes on, and the second would be no safer refused.
        assert [node.status()["fenced"] for node in nodes] == [False, False]
        assert nodes[0].ask(put("test", b"x", 1)).status == 200
    finally:
        for node in nodes:
            node.make_sure_it_is_gone()
