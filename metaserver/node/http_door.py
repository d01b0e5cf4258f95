"""What HTTP may ask of the node: a ``BrokerDoor`` over the parts of one process."""

from __future__ import annotations

import os
import platform
import resource
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from metaserver.client import connect
from metaserver.client.servers import Servers
from metaserver.http import TopicTraffic, Traffic
from metaserver.names import REGISTRY_TOPIC
from metaserver.node.reporting import partition_fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from metaserver.broker import Broker
    from metaserver.client import Session
    from metaserver.config import ServerConfig
    from metaserver.config.users import Users
    from metaserver.logs import RecentLines
    from metaserver.node.cluster_session import ClusterSession
    from metaserver.node.local_requests import LocalRequests
    from metaserver.node.reporting import Reporter
    from metaserver.protocol import Command, Result, Value


@attrs.define(eq=False)
class HttpDoor:
    """See BrokerDoor."""

    _broker: Broker
    _reporter: Reporter
    _requests: LocalRequests
    _cluster: ClusterSession
    _recent: RecentLines
    _reload: Callable[[], Awaitable[dict[str, list[str]]]]
    users: Users | None
    """See BrokerDoor; replaced by a reload."""
    loaded_seconds: float
    """When the configuration was read, on the broker's monotonic clock."""

    @property
    def config(self) -> ServerConfig:
        """See BrokerDoor."""
        return self._broker.config

    async def ask(self, command: Command) -> Result | Value:
        """See BrokerDoor."""
        return await self._requests.ask(command)

    async def session(self) -> Session:
        """See BrokerDoor."""
        return await self._cluster.get()

    async def reload(self) -> dict[str, list[str]]:
        """See BrokerDoor."""
        return await self._reload()

    async def replicas(self) -> dict[str, object]:
        """See BrokerDoor."""
        status = self._reporter.status()
        return {
            "role": status["role"],
            "address": status["address"],
            "config_checksum": status["config_checksum"],
            "slaves": status.get("slaves", []),
            "pair": status.get("pair"),
            **await self._reporter.slaves(),
            "replication": self._reporter.slave_status() or None,
        }

    async def peer_config(self, address: str) -> bytes:
        """See BrokerDoor."""
        (place,) = Servers.parse(f"metaq://{address}").addresses
        async with connect(*place) as link:
            return (await link.stats("config")).encode()

    def traffic(self) -> Traffic:
        """See BrokerDoor."""
        counters, topics = self._broker.counters, self._broker.traffic.values()
        return Traffic(
            put_messages=sum(topic.messages for topic in topics),
            put_bytes=sum(topic.bytes_in for topic in topics),
            get_requests=counters.get,
            got_bytes=sum(topic.bytes_out for topic in topics),
            put_failures=counters.put_failed,
            connections=self._broker.connection_count,
            fsyncs=self._broker.committer.statistics.flushes,
        )

    def topic_traffic(self, topic: str) -> TopicTraffic:
        """See BrokerDoor."""
        found = self._broker.traffic.get(topic)
        if found is None:
            return TopicTraffic()
        return TopicTraffic(
            messages=found.messages, bytes_in=found.bytes_in, gets=found.gets, bytes_out=found.bytes_out
        )

    def topics_with_traffic(self) -> Collection[str]:
        """See BrokerDoor."""
        return self._broker.traffic.keys() - {REGISTRY_TOPIC}

    def partition_numbers(self) -> dict[str, list[int]]:
        """See BrokerDoor."""
        found: dict[str, list[int]] = {}
        for topic, number in self._broker.partitions:
            if topic != REGISTRY_TOPIC:
                found.setdefault(topic, []).append(number)
        return found

    def partition(self, topic: str, number: int) -> dict[str, object] | None:
        """See BrokerDoor."""
        found = self._broker.partitions.get((topic, number))
        return None if found is None else partition_fields(number, found)

    def process(self) -> dict[str, object]:
        """See BrokerDoor."""
        memory = _meminfo()
        soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "cwd": str(Path.cwd()),
            "data": str(self.config.data_path),
            "data_log": str(self.config.data_log_path),
            "runtime": f"{platform.python_implementation()} {platform.python_version()}",
            "platform": platform.platform(),
            "processors": os.cpu_count() or 1,
            "arguments": sys.argv[1:],
            "threads": threading.active_count(),
            "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - only counted
            "descriptors_max": soft,
            "memory_bytes": _rss_bytes(),
            "memory_max_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "system_memory_bytes": memory.get("MemTotal", 0),
            "system_memory_used_bytes": memory.get("MemTotal", 0) - memory.get("MemAvailable", 0),
            "swap_bytes": memory.get("SwapTotal", 0),
            "swap_used_bytes": memory.get("SwapTotal", 0) - memory.get("SwapFree", 0),
        }

    def log_lines(self) -> Sequence[str]:
        """See BrokerDoor."""
        return self._recent.lines

    def config_loaded_seconds(self) -> float:
        """See BrokerDoor."""
        return self._broker.clock.monotonic_seconds() - self.loaded_seconds


def _meminfo() -> dict[str, int]:
    """In bytes; empty where there is no /proc."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return {}
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines if len(words) == 3}


def _rss_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * resource.getpagesize()
