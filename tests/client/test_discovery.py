"""What a session follows in the registry, without one."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.errors import ConfigError, DiscoveryError
from tests.client.registry_fake import FakeRegistry
from tests.client.wires import Wires, settle

if TYPE_CHECKING:
    from trio.testing import MockClock


@pytest.mark.parametrize("topic", ["", ".", "..", "a/../b", "/", "a b", "a\r\nput t 0", "\x00", "\u3000"])
async def test_what_can_be_no_topic_is_not_followed(topic: str, autojump_clock: MockClock) -> None:
    wires = Wires()
    with pytest.raises(ConfigError, match="no topic"):
        await wires.discovery.want(["sound", topic], 1.0)
    assert wires.discovery._topics == {}


@pytest.mark.parametrize("topic", ["*", "a-b_c.d", "日本", "a..b", "%"])
async def test_what_can_be_one_is(topic: str, autojump_clock: MockClock) -> None:
    wires = Wires()
    with pytest.raises(DiscoveryError):
        await wires.discovery.want([topic], 1.0)
    assert list(wires.discovery._topics) == [topic]


async def test_what_the_registry_says_is_followed(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    wires, registry = Wires(), FakeRegistry()
    discovery = wires.discovery
    discovery._nodes = registry.open(discovery.wake).as_nodes()
    registry.put("/meta/brokers/ids/0/master", b"meta://h:1", 1)
    registry.put("/meta/brokers/ids/0/slave1", b"meta://s:2", 1)
    registry.put("/meta/brokers/ids/0/slave2", b"rubbish", 1)
    registry.put("/meta/brokers/ids/x/master", b"meta://h:1", 1)
    registry.put("/meta/brokers/topics-pub/t/0-m", b'{"numParts":2,"broker":"0-m"}', 1)
    registry.put("/meta/brokers/topics-sub/t/0-m", b'{"numParts":2,"broker":"0-m"}', 1)
    registry.put("/meta/brokers/topics-sub/t/0-s1", b'{"numParts":1,"broker":"0-s1"}', 1)
    registry.put("/meta/brokers/topics-sub/t/0-s9", b"rubbish", 1)
    nursery.start_soon(discovery.run)
    await discovery.want(["t"], 5.0)
    cluster = discovery.cluster
    assert sorted(cluster.brokers.values()) == [("h", 1), ("s", 2)]
    assert [str(p) for p in cluster.writable("t")] == ["t 0-0", "t 0-1"]
    assert [[str(r) for r in cluster.replicas(p)] for p in cluster.readable("t")] == [
        ["0-m", "0-s1"],
        ["0-m"],
    ]
    assert discovery.problem == ""
    # While the registry is away, and while it comes back, what it said last stands.
    client = registry.clients[0]
    client.disconnect()
    await trio.sleep(60.0)
    assert (discovery.cluster, bool(discovery.problem)) == (cluster, True)
    client.connect()
    await trio.sleep(1.0)
    assert (discovery.cluster, discovery.problem) == (cluster, "")
    told: list[None] = []

    def listener() -> None:
        told.append(None)

    discovery.listen(listener)
    registry.put("/meta/brokers/topics-pub/t/0-m", b'{"numParts":3,"broker":"0-m"}', 1)
    await trio.sleep(1.0)
    assert len(discovery.cluster.writable("t")) == 3
    discovery.ignore(listener)
    count = len(told)
    registry.put("/meta/brokers/ids/1/master", b"meta://o:3", 1)
    await trio.sleep(1.0)
    assert len(told) == count
    await settle()


async def test_a_name_that_is_no_number_of_a_broker_is_passed_over(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    wires, registry = Wires(), FakeRegistry()
    discovery = wires.discovery
    discovery._nodes = registry.open(discovery.wake).as_nodes()
    registry.put("/meta/brokers/ids/0/master", b"meta://h:1", 1)
    registry.put(f"/meta/brokers/ids/{'9' * 5000}/master", b"meta://o:1", 1)
    nursery.start_soon(discovery.run)
    await discovery.wait_read(5.0)
    assert list(discovery.cluster.brokers.values()) == [("h", 1)]


def test_the_loop_does_not_stand_still_while_kazoo_is_imported() -> None:
    program = """
import sys, threading, anyio
from metaserver.client.discovery import Discovery
from metaserver.client.servers import Servers

class Observer:
    def find_spec(self, name, path=None, target=None):
        if name == "kazoo.client":
            print(threading.current_thread() is threading.main_thread())

async def main():
    discovery = Discovery(Servers.parse("zookeeper://127.0.0.1:1"), 1.0)
    await (await discovery._find_registry()).close()

sys.meta_path.insert(0, Observer())
anyio.run(main)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
