"""A master and a slave for tests of the session: real processes on ports that stay theirs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.request import urlopen

import attrs

from tests.support import WAIT_SECONDS_MAX, BrokerProcess
from tools.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

_SENT = re.compile(r'^metaserver_topic_sent_bytes_total\{topic="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE)


@attrs.define(eq=False)
class Brokers:
    """A master that hosts the registry, and, where it is started, a slave."""

    base: Path
    partitions: int = 4
    topics: tuple[str, ...] = ("test",)
    settings: dict[str, object] = attrs.Factory(dict)
    master: BrokerProcess = attrs.field(init=False)
    slave: BrokerProcess = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        sections = "".join(f"[topic={topic}]\nnumPartitions={self.partitions}\n\n" for topic in self.topics)
        registry = f"[zookeeper]\nregistryPort={free_port()}\nzk.zkSyncTimeMs=100\n"
        self.master = BrokerProcess(
            self.base / "master",
            settings={"serverPort": free_port(), **self.settings},
            topics=f"{sections}{registry}",
        )

    @property
    def servers(self) -> str:
        return f"metaq://127.0.0.1:{self.master.port}"

    def start(self, *, with_slave: bool = False) -> None:
        self.master.start()
        self.master.wait_registered()
        if with_slave:
            self.slave = BrokerProcess(
                self.base / "slave",
                settings={"serverPort": free_port(), **self.settings},
                topics=self.master.topics,
                slave_of=self.master.port,
            )
            self.slave.start()
            self.slave.wait_registered()

    def end(self) -> None:
        """For the end of a test: nobody is left, and nobody complained."""
        nodes = [self.master, self.slave] if hasattr(self, "slave") else [self.master]
        for node in reversed(nodes):
            node.make_sure_it_is_gone()
        for node in nodes:
            assert "Traceback" not in node.log, node.log[-4000:]


def sent_bytes(node: BrokerProcess, topic: str) -> int:
    """How many bytes of a topic the broker has given to readers, slaves among them."""
    url = f"http://127.0.0.1:{node.status()['http_port']}/metrics"
    with urlopen(url, timeout=WAIT_SECONDS_MAX) as answer:
        counts = dict(_SENT.findall(answer.read().decode()))
    return int(float(counts.get(topic, "0")))
