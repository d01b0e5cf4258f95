"""The pages of the console: what each shows. What they do, if anything, is in ``actions.py``."""

from __future__ import annotations

import difflib
import sys
import threading
import traceback
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio
from starlette.responses import RedirectResponse, Response

from metaserver.client.servers import format_address
from metaserver.config.users import Role
from metaserver.errors import ClientError, ReplyError
from metaserver.http.asking import Query, topic_of
from metaserver.http.browsing import holds, offset_of_id, page_before, page_from, search
from metaserver.http.console.rendering import load_static
from metaserver.http.groups_api import GroupsApi, group_of
from metaserver.http.local_broker import LocalBroker
from metaserver.http.problems import ProblemError
from metaserver.http.topics_api import known_section, place, raise_refused, topic_content, topics_content
from metaserver.names import MAX_OFFSET

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from metaserver.client.messages import Message
    from metaserver.http.access import Access, Visitor
    from metaserver.http.console.rendering import Pages
    from metaserver.http.history import History
    from metaserver.http.source import BrokerDoor

_ROWS_MAX: Final = 500
"""Of one table; a filter finds the others."""
_MESSAGES_A_PAGE: Final = 25
_STATIC_HEADERS: Final = {"x-content-type-options": "nosniff", "cache-control": "max-age=300"}
_DIFF_BYTES_MAX: Final = 1024 * 1024


@attrs.define(eq=False)
class ConsolePages:
    """Of one broker."""

    _pages: Pages
    _door: BrokerDoor
    _access: Access
    _groups: GroupsApi
    _history: History
    _status: Callable[[], dict[str, object]]
    _static: dict[str, tuple[bytes, str]] = attrs.Factory(load_static)

    async def static(self, request: Request) -> Response:
        """A file of ours; everybody may have it."""
        self._access.look(request)
        found = self._static.get(request.path_params["name"])
        if found is None:
            raise ProblemError(404, "there is no such file")
        return Response(found[0], headers={**_STATIC_HEADERS, "content-type": found[1]})

    async def root(self, _request: Request) -> Response:
        """Where somebody begins who knows no more than the port."""
        return RedirectResponse("/console/", 307)

    async def overview(self, request: Request) -> Response:
        """The broker on one page, with charts."""
        visitor = self._admit(request)
        Query.of(request)
        last = self._history.samples[-1] if self._history.samples else None
        values = {"status": self._status(), "last": last, "process": self._door.process()}
        return await self._pages.render("overview", visitor, values)

    async def topics(self, request: Request) -> Response:
        """Every topic."""
        visitor = self._admit(request)
        text = Query.of(request, "q").text("q", "")
        found = await topics_content(self._door, text)
        rates = {topic: samples[-1] for topic, samples in self._history.of_topics.items() if samples}
        values = {"topics": found[:_ROWS_MAX], "total": len(found), "q": text, "rates": rates}
        return await self._pages.render("topics", visitor, values)

    async def topic(self, request: Request) -> Response:
        """One topic: partitions, configuration, rates."""
        visitor = self._admit(request)
        Query.of(request)
        topic = topic_of(request)
        content = topic_content(self._door, topic)
        report = await LocalBroker(self._door).stats(topic)
        lines = [line for line in report.split("\r\n") if line.startswith("topic_realtime_")]
        real_time = [line.removeprefix("topic_realtime_").split(" ", 1) for line in lines]
        partitions: Any = content["partitions"]
        values = {
            "topic": content,
            "partitions": partitions[:_ROWS_MAX],
            "total": len(partitions),
            "real_time": real_time,
        }
        return await self._pages.render("topic", visitor, values)

    async def messages(self, request: Request) -> Response:
        """The message browser."""
        visitor = self._admit(request)
        topic = topic_of(request)
        query = Query.of(request, "partition", "from", "before", "text", "id")
        section = known_section(self._door, topic)
        number = query.integer("partition", 0, 0, 99_999)
        found = await self._find(topic, number, query)
        values = {
            "topic": topic,
            "partition": number,
            "partition_count": section.partition_count,
            "text": query.text("text", ""),
            "place": query.text("from", ""),
            "id": query.text("id", ""),
            **found,
        }
        return await self._pages.render("messages", visitor, values)

    async def _find(self, topic: str, partition: int, query: Query) -> dict[str, Any]:
        """The messages of one page of the browser, and where its links lead. Raises ProblemError."""
        broker = LocalBroker(self._door)
        text, message_id = query.text("text", ""), query.text("id", "")
        start = query.text("from", "").strip()
        try:
            if message_id:
                number = query.integer("id", low=-(2**63))
                at = await offset_of_id(broker, topic, partition, number)
                if at is None:
                    return _nothing(f"no message of this partition has the id {number}")
                page = await page_from(broker, topic, partition, at, 1)
                return _shown(page.messages, page.start_offset, page.end_offset, page.next_offset)
            if text:
                offset = await place(broker, topic, partition, start or "start")
                done = await search(broker, topic, partition, offset, holds(text), _MESSAGES_A_PAGE)
                ends = await page_from(broker, topic, partition, MAX_OFFSET, 1)
                found = _shown(done.messages, ends.start_offset, done.end_offset, done.next_offset)
                found["note"] = f"looked through {done.scanned_bytes:,} bytes" + (
                    " up to the end" if done.is_complete else "; there is more to look through"
                )
                return found
            if start and start != "end":
                offset = await place(broker, topic, partition, start)
                page = await page_from(broker, topic, partition, offset, _MESSAGES_A_PAGE)
                found = _shown(page.messages, page.start_offset, page.end_offset, page.next_offset)
                if not page.messages and not page.is_last:
                    found["note"] = f"no message begins at offset {offset}"
                return found
            before = query.integer("before", MAX_OFFSET)
            page = await page_before(broker, topic, partition, before, _MESSAGES_A_PAGE)
            found = _shown(page.messages, page.start_offset, page.end_offset, page.next_offset)
            if not page.is_certain:
                found["note"] = "found by looking backwards for something that is a message"
            return found
        except ReplyError as error:
            raise_refused(error)

    async def groups(self, request: Request) -> Response:
        """Every group of the cluster."""
        visitor = self._admit(request)
        text = Query.of(request, "q").text("q", "")
        reports = [report for report in await self._groups.reports() if text in report.group.name]
        values = {"reports": reports[:_ROWS_MAX], "total": len(reports), "q": text}
        return await self._pages.render("groups", visitor, values)

    async def group(self, request: Request) -> Response:
        """One group: members, owners, lag; and moving it."""
        visitor = self._admit(request)
        Query.of(request)
        report = await self._groups.report(group_of(request))
        values = {"report": report, "moves": None, "asked": None}
        return await self._pages.render("group", visitor, values)

    async def replicas(self, request: Request) -> Response:
        """Slaves, or the master; and the brokers of the cluster."""
        visitor = self._admit(request)
        Query.of(request)
        replicas = await self._door.replicas()
        brokers, problem = await self._brokers()
        values = {"replicas": replicas, "brokers": brokers, "problem": problem}
        return await self._pages.render("replicas", visitor, values)

    async def _brokers(self) -> tuple[list[dict[str, Any]], str]:
        """Those of the registry, by number; or why they cannot be told."""
        try:
            session = await self._door.session()
        except ClientError as error:
            return [], str(error)
        own = self._door.config.broker_id
        return [
            {
                "broker_id": replica.broker_id,
                "slave_id": replica.slave_id,
                "address": format_address(*address),
                "is_of_ours": replica.broker_id == own,
            }
            for replica, address in sorted(
                session.cluster.brokers.items(),
                key=lambda entry: (
                    entry[0].broker_id,
                    -1 if entry[0].slave_id is None else entry[0].slave_id,
                ),
            )
        ], ""

    async def config(self, request: Request) -> Response:
        """``server.ini``, and where those of master and slaves differ."""
        visitor = self._admit(request)
        compared = Query.of(request, "compare").optional("compare")
        brokers, problem = await self._brokers()
        others = [one for one in brokers if one["is_of_ours"] and one["address"] != self._own_address]
        source = self._door.config.source_bytes
        difference: list[str] | None = None
        if compared is not None:
            if compared not in [one["address"] for one in others]:
                raise ProblemError(404, f"{compared[:100]} is no replica of this broker")
            try:
                with trio.fail_after(5):
                    theirs = await self._door.peer_config(compared)
            except (ClientError, trio.TooSlowError) as error:
                raise ProblemError(503, f"{compared} does not tell its configuration: {error}") from None
            difference = await trio.to_thread.run_sync(_difference, source, theirs, compared)
        replicas = await self._door.replicas()
        values = {
            "text": source.decode("utf-8", "replace"),
            "path": str(self._door.config.path),
            "checksum": self._door.config.checksum,
            "loaded_seconds": self._door.config_loaded_seconds(),
            "replicas": replicas,
            "others": others,
            "problem": problem,
            "compared": compared,
            "difference": difference,
        }
        return await self._pages.render("config", visitor, values)

    @property
    def _own_address(self) -> str:
        return str(self._status()["address"])

    async def log(self, request: Request) -> Response:
        """The last lines of the log."""
        visitor = self._admit(request)
        query = Query.of(request, "q", "level")
        text, level = query.text("q", ""), query.text("level", "")
        lines = [line for line in self._door.log_lines() if text in line and line.startswith(f"[{level}")]
        values = {"lines": lines[-_ROWS_MAX:][::-1], "q": text, "level": level}
        return await self._pages.render("log", visitor, values)

    async def stats(self, request: Request) -> Response:
        """The statistics of the protocol, as text."""
        visitor = self._admit(request)
        item = Query.of(request, "item").text("item", "")
        if item.strip() == "reset":
            raise ProblemError(403, "a page shows statistics and does not reset them")
        text = await LocalBroker(self._door).stats(item)
        values = {"item": item, "lines": text.split("\r\n")[1:-2][: 10 * _ROWS_MAX]}
        return await self._pages.render("stats", visitor, values)

    async def process(self, request: Request) -> Response:
        """The process, its machine and its threads."""
        visitor = self._admit(request)
        Query.of(request)
        threads = await trio.to_thread.run_sync(thread_stacks)
        return await self._pages.render(
            "process", visitor, {"process": self._door.process(), "threads": threads}
        )

    def _admit(self, request: Request) -> Visitor:
        return self._access.admit(request, Role.READ, is_page=True)


def _shown(messages: tuple[Message, ...], start: int, end: int, following: int) -> dict[str, Any]:
    return {
        "messages": messages,
        "start_offset": start,
        "end_offset": end,
        "next_offset": following,
        "first_offset": messages[0].offset if messages else min(following, end),
        "note": "",
    }


def _nothing(note: str) -> dict[str, Any]:
    return {**_shown((), 0, 0, 0), "note": note}


def _difference(ours: bytes, theirs: bytes, name: str) -> list[str]:
    """Line by line; in a worker thread, for it takes its time."""
    own, other = (text[:_DIFF_BYTES_MAX].decode("utf-8", "replace").splitlines() for text in (ours, theirs))
    return list(difflib.unified_diff(own, other, "this broker", name, lineterm="", n=1))


def thread_stacks() -> list[tuple[str, str]]:
    """Name and stack of each thread of the process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return [
        (names.get(number, str(number)), "".join(traceback.format_stack(frame)))
        for number, frame in sys._current_frames().items()  # noqa: SLF001 - documented, whatever its name says
    ]
