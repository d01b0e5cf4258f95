"""The paths of MetaQ's dashboard, for programs that read it; people are led to the console.

Source: reference stats-http-dashboard section 3. With a JSON content type in the request a page is an object
with MetaQ's members; what has no meaning here is told in our words (the runtime is Python's). Reload and skip
need a token of the role admin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import attrs
import trio
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.routing import Route

from metaserver import __version__
from metaserver.client.group_report import report_group
from metaserver.client.groups import read_group
from metaserver.client.servers import format_address
from metaserver.config.users import Role
from metaserver.errors import ClientError
from metaserver.http.asking import Query, json_response, topic_of
from metaserver.http.broker_api import reload
from metaserver.http.console.pages import thread_stacks
from metaserver.http.console.rendering import describe_bytes, describe_seconds
from metaserver.http.groups_api import GroupsApi, Reset, group_of
from metaserver.http.local_broker import LocalBroker
from metaserver.http.problems import HEADERS, ProblemError
from metaserver.http.topics_api import topic_content, topics_content

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor

_LOG_LINES: Final = 20
_NOT_KNOWN: Final = "N/A"


@attrs.define(eq=False)
class Dashboard:
    """Of one broker."""

    _door: BrokerDoor
    _access: Access
    _groups: GroupsApi
    _status: Callable[[], dict[str, object]]

    def routes(self) -> list[Route]:
        """Where MetaQ has them."""
        pages: list[tuple[str, str, Callable[[Request], Awaitable[dict[str, Any]]]]] = [
            ("/", "/console/", self._index),
            ("/dashboard", "/console/", self._dashboard),
            ("/logging", "/console/log", self._logging),
            ("/cluster", "/console/replicas", self._cluster),
            ("/java-properties", "/console/process", self._properties),
            ("/thread-dump", "/console/process", self._thread_dump),
            ("/config", "/console/config", self._config),
            ("/topics", "/console/topics", self._topics),
            ("/topics/{topic}", "/console/topics/{topic}", self._topic),
            ("/stats", "/console/stats", self._stats),
            ("/stats/{item}", "/console/stats?item={item}", self._stats),
        ]
        skip = "/topics/{topic}/groups/{group}/partitions/{partition}/skip"
        return [
            *(Route(path, self._page(console, content)) for path, console, content in pages),
            Route("/reload-config", self.reload_config, methods=["POST"]),
            Route(skip, self.skip, methods=["POST"]),
        ]

    def _page(
        self, console: str, content: Callable[[Request], Awaitable[dict[str, Any]]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def page(request: Request) -> Response:
            if not request.headers.get("content-type", "").partition(";")[0].strip().endswith("json"):
                words = {name: quote(str(value), safe="") for name, value in request.path_params.items()}
                return RedirectResponse(console.format_map(words), 307)
            self._access.admit(request, Role.READ)
            return await json_response(await content(request), is_long=True)

        return page

    async def reload_config(self, request: Request) -> Response:
        """In MetaQ's words where it has succeeded; why not, where it has not."""
        self._access.admit(request, Role.ADMIN)
        await reload(self._door)
        return PlainTextResponse("Reload config successfully.", headers=HEADERS)

    async def skip(self, request: Request) -> Response:
        """The group goes on at the end of one partition; refused while somebody owns one."""
        self._access.admit(request, Role.ADMIN)
        reset = Reset(
            to="end",
            topic=topic_of(request),
            partitions=frozenset([_partition_name(request.path_params["partition"], self._door)]),
            executes=True,
        )
        (move,) = await self._groups.move(group_of(request), reset)
        text = "success" if move["written"] else "somebody else has committed meanwhile; look again"
        return PlainTextResponse(text, headers=HEADERS)

    async def _index(self, _request: Request) -> dict[str, Any]:
        return {"broker_id": self._door.config.broker_id, "version": __version__}

    async def _dashboard(self, _request: Request) -> dict[str, Any]:
        process, status = self._door.process(), self._status()
        return {
            "instance": {
                "start": f"{describe_seconds(float(str(status['uptime_seconds'])))} ago",
                "host": process["host"],
                "data": process["data"],
                "data_log": process["data_log"],
                "cwd": process["cwd"],
            },
            "version": {
                "metaq": __version__,
                "id": status["broker_id"],
                "uri": f"meta://{status['address']}",
            },
            "jvm": {
                "runtime": process["runtime"],
                "processors": process["processors"],
                "args": process["arguments"],
            },
            "system": {
                "sys_memory": _size(process, "system_memory_bytes"),
                "sys_memory_used": _size(process, "system_memory_used_bytes"),
                "swap_space": _size(process, "swap_bytes"),
                "ss_used": _size(process, "swap_used_bytes"),
                "fdc": process["descriptors_max"],
                "fdc_used": process["descriptors"],
                "jvm_memory_max": _size(process, "system_memory_bytes"),
                "jvm_memory_total": _size(process, "memory_max_bytes"),
                "jvm_memory_used": _size(process, "memory_bytes"),
            },
        }

    async def _logging(self, _request: Request) -> dict[str, Any]:
        return {"logs": list(self._door.log_lines())[-_LOG_LINES:]}

    async def _cluster(self, _request: Request) -> dict[str, Any]:
        status = self._status()
        nodes: dict[int, list[dict[str, object]]] = {}
        try:
            brokers = (await self._door.session()).cluster.brokers
        except ClientError as error:
            raise ProblemError(503, f"the registry does not answer: {error}") from error
        for replica, address in brokers.items():
            is_own = format_address(*address) == status["address"]
            host = str(status["address"]).rpartition(":")[0]
            nodes.setdefault(replica.broker_id, []).append(
                {
                    # Only its own is known without asking every broker for its configuration.
                    "dashboard-uri": f"http://{host}:{status['http_port']}" if is_own else None,
                    "slave": replica.slave_id is not None,
                    "broker-uri": f"meta://{format_address(*address)}",
                }
            )
        return {
            "current": f"meta://{status['address']}",
            "nodes": [{"id": number, "brokers": found} for number, found in sorted(nodes.items())],
        }

    async def _properties(self, _request: Request) -> dict[str, Any]:
        return {"props": {key: str(value) for key, value in self._door.process().items()}}

    async def _thread_dump(self, _request: Request) -> dict[str, Any]:
        stacks = await trio.to_thread.run_sync(thread_stacks)
        return {"threads": [f"{name}\n{stack}" for name, stack in stacks]}

    async def _config(self, _request: Request) -> dict[str, Any]:
        loaded = describe_seconds(self._door.config_loaded_seconds())
        text = self._door.config.source_bytes.decode("utf-8", "replace")
        return {"config": text, "lastLoaded": f"{loaded} ago"}

    async def _topics(self, _request: Request) -> dict[str, Any]:
        found = [content for content in await topics_content(self._door) if content["partitions"]]
        return {"topics": [await self._topic_members(content) for content in found]}

    async def _topic(self, request: Request) -> dict[str, Any]:
        topic = topic_of(request)
        group = Query.of(request, "group").optional("group")
        members: dict[str, Any] = {"topic": await self._topic_members(topic_content(self._door, topic))}
        if group is not None:
            section = self._door.config.topic_config(topic)
            found = None if section is None else dict(section.group_filters).get(group)
            members |= {
                "group": group,
                "group-filter": "null" if found is None else str(found),
                "pending-stats": await self._pending(group, topic),
            }
        return members

    async def _topic_members(self, content: dict[str, object]) -> dict[str, Any]:
        topic = str(content["topic"])
        report = await LocalBroker(self._door).stats(topic)
        real_time = dict(
            line.removeprefix("topic_realtime_").split(" ", 1)
            for line in report.split("\r\n")
            if line.startswith("topic_realtime_")
        )
        messages, size = int(str(content["messages"])), int(str(content["bytes"]))
        partitions: Any = content["partitions"]
        config: Any = content["config"]
        return {
            "topic": topic,
            "partitions": len(partitions),
            "messageCount": messages,
            "messageBytes": size,
            "avgMsgSize": size // messages if messages else _NOT_KNOWN,
            **{
                name: "NO" if (text := real_time.get(key, "null")) == "null" else text
                for name, key in (
                    ("puts", "put"),
                    ("putFailed", "put_failed"),
                    ("gets", "get"),
                    ("getMissed", "get_miss"),
                )
            },
            "topicConfig": {"topic": topic, **config},
        }

    async def _pending(self, name: str, topic: str) -> list[dict[str, Any]]:
        try:
            session = await self._door.session()
            group = await read_group(session.network.discovery, name)
            report = None if group is None else await report_group(session, group, 1024 * 1024)
        except ClientError as error:
            raise ProblemError(503, f"the registry does not answer: {error}") from error
        own = self._door.config.broker_id
        found = [] if report is None else report.partitions
        parts = [one for one in found if one.partition.topic == topic and one.partition.broker_id == own]
        if not parts:
            return [{"error": f"group {name} has nothing to do with topic {topic}"}]
        return [
            {
                "partition": str(one.partition.in_topic),
                "owner": one.owner,
                "pending-bytes": one.lag_bytes,
                "pending-messages": _NOT_KNOWN if one.backlog is None else one.backlog.messages,
                "consumed-bytes": max(0, (one.position or 0) - (one.start_offset or 0)),
                "consumed-messages": _NOT_KNOWN,
            }
            for one in parts
        ]

    async def _stats(self, request: Request) -> dict[str, Any]:
        item = request.path_params.get("item", "")
        if item == "reset":
            raise ProblemError(403, "a page shows statistics and does not reset them")
        return {"result": await LocalBroker(self._door).stats(item)}


def _partition_name(text: str, door: BrokerDoor) -> str:
    """``B-P``, or the number alone, which is one of this broker's."""
    return f"{door.config.broker_id}-{text}" if text.isascii() and text.isdigit() else text


def _size(process: dict[str, object], key: str) -> str:
    return describe_bytes(float(str(process[key])))
