"""``/api/v1/groups``: how far groups are, consuming for one, committing, and moving one.

Offsets are in the registry, where members of all languages have them. A consumer over HTTP is no member: it
gets what nobody owns, from where the group stands, and commits with the version it was told. So two of them
may get the same messages, but neither can move the group back behind the other's commit: the second is
answered 409.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final

import attrs
import trio

from metaserver.client.consumer import check_group
from metaserver.client.group_moves import Move, find_moves, write_moves
from metaserver.client.group_report import (
    group_fields,
    readable_partitions,
    report_group,
    report_groups,
    summary_fields,
)
from metaserver.client.groups import read_group, write_offsets
from metaserver.client.message_fields import message_fields
from metaserver.client.partition import Partition
from metaserver.client.starting_point import parse_starting_point
from metaserver.config.users import Role
from metaserver.errors import ClientError, ConfigError, DiscoveryError, ZooKeeperError
from metaserver.http.asking import Query, json_response, read_json, topic_of
from metaserver.http.problems import ProblemError
from metaserver.names import MAX_OFFSET, is_valid_topic
from metaserver.registry.paths import BrokerPartition, StoredOffset

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from metaserver.client import ReceivedMessage, Session
    from metaserver.client.fetching import FetchReport
    from metaserver.client.group_report import GroupReport
    from metaserver.client.groups import Group
    from metaserver.http.access import Access
    from metaserver.http.source import BrokerDoor, HttpLimits
    from metaserver.http.waiting import WaitingRoom

_SCAN_BYTES: Final = 4 * 1024 * 1024
"""Messages of a group's backlog are counted so far in each partition; beyond, they are estimated."""
_FETCH_BYTES: Final = 128 * 1024
_WAITING_PARTITIONS_MAX: Final = 64
_BODY_BYTES_MAX: Final = 1024 * 1024
_MESSAGES_MAX: Final = 10_000
_PAUSE_SECONDS: Final = 0.25
"""Before the next look at a partition that answers at once."""


@attrs.frozen
class _Stand:
    """Where a group stands in one partition."""

    partition: Partition
    offset: int | None
    message_id: int
    version: int | None
    """Of the node; None: there is none yet."""
    owner: str | None


@attrs.define
class GroupsApi:
    """Of the cluster one broker is in."""

    _door: BrokerDoor
    _access: Access
    _limits: HttpLimits
    _waiting: WaitingRoom
    _turns: Iterator[int] = attrs.Factory(count)
    """Consuming begins with another partition each time."""

    async def groups(self, request: Request) -> Response:
        """Every group, with its lag in bytes."""
        self._access.admit(request, Role.READ)
        Query.of(request)
        return await json_response({"groups": [summary_fields(one) for one in await self.reports()]})

    async def group(self, request: Request) -> Response:
        """One of them, with its members, and its lag in messages and seconds."""
        self._access.admit(request, Role.READ)
        Query.of(request)
        return await json_response(group_fields(await self.report(group_of(request))))

    async def consume(self, request: Request) -> Response:
        """Messages of a topic from where the group stands, waiting for some."""
        self._access.admit(request, Role.READ)
        group, topic = group_of(request), topic_of(request)
        query = Query.of(request, "partition", "from", "max_messages", "wait_ms")
        count_max = query.integer("max_messages", 500, 1, _MESSAGES_MAX)
        wait_ms = query.integer("wait_ms", 0, 0, self._door.config.max_long_poll_ms)
        start = query.text("from", "start")
        if start not in ("start", "end"):
            raise ProblemError(
                400, "from must be start or end: where a group begins that has not committed yet"
            )
        with _cluster_errors():
            session = await self._door.session()
            stands = await self._stands(session, group, topic, query.optional("partition"))
            free = [stand for stand in stands if stand.owner is None]
            taken = await self._take(session, free, start, count_max, wait_ms)
        content = await trio.to_thread.run_sync(
            _messages, [message for found in taken for message in found.messages]
        )
        return await json_response(
            {
                "group": group,
                "topic": topic,
                "messages": content,
                "positions": [found.position() for found in taken],
                "owned": [
                    {"partition": str(stand.partition.in_topic), "owner": stand.owner}
                    for stand in stands
                    if stand.owner is not None
                ],
            },
            is_long=True,
        )

    async def commit(self, request: Request) -> Response:
        """Store how far a group has come."""
        self._access.admit(request, Role.WRITE)
        group = group_of(request)
        content = await read_json(request, _BODY_BYTES_MAX, self._limits.body_seconds)
        targets = _targets(content)
        with _cluster_errors():
            session = await self._door.session()
            conflicts = set(await write_offsets(session.network.discovery, group, targets))
        committed = [_name(partition) for partition in targets if partition not in conflicts]
        if conflicts:
            raise ProblemError(
                409,
                f"somebody else has committed for group {group} meanwhile: consume again",
                {"conflicts": [_name(partition) for partition in sorted(conflicts)], "committed": committed},
            )
        return await json_response({"group": group, "committed": committed})

    async def reset(self, request: Request) -> Response:
        """Move a group; without ``execute`` only tell where it would go."""
        self._access.admit(request, Role.ADMIN)
        group = group_of(request)
        content = await read_json(request, _BODY_BYTES_MAX, self._limits.body_seconds)
        moves = await self.move(group, Reset.parse(content))
        return await json_response({"group": group, "partitions": moves})

    async def reports(self) -> list[GroupReport]:
        """Of all groups; raises ProblemError."""
        with _cluster_errors():
            return await report_groups(await self._door.session())

    async def report(self, name: str) -> GroupReport:
        """Of one group; raises ProblemError."""
        with _cluster_errors():
            session = await self._door.session()
            return await report_group(session, await _known_group(session, name), _SCAN_BYTES)

    async def move(self, name: str, reset: Reset) -> list[dict[str, object]]:
        """Carry out a reset, or a rehearsal of it; what becomes of each partition. Raises ProblemError."""
        with _cluster_errors():
            session = await self._door.session()
            group = await _known_group(session, name)
            members = sorted(set(group.members) | set(group.owners.values()))
            if reset.executes and not reset.forces and members:
                raise ProblemError(
                    409,
                    f"group {name} has members ({', '.join(members)}): stop them first, or use force",
                    {"members": members},
                )
            moves = [Move(one, group.offsets.get(one)) for one in await _chosen(session, group, reset)]
            await find_moves(session, moves, parse_starting_point(reset.to))
            problems = [f"{move.partition}: {move.problem}" for move in moves if move.problem is not None]
            if problems:
                raise ProblemError(409, f"{'; '.join(problems)}; nothing was changed")
            if reset.executes:
                await write_moves(session, name, moves, forces=reset.forces)
        return [_move_content(move) for move in moves]

    async def _stands(self, session: Session, group: str, topic: str, only: str | None) -> list[_Stand]:
        partitions = await session.partitions(topic)
        if only is not None:
            partitions = tuple(one for one in partitions if str(one.in_topic) == only)
        if not partitions:
            what = f"topic {topic}" if only is None else f"partition {only} of topic {topic}"
            raise ProblemError(404, f"no broker announces {what}")
        discovery = session.network.discovery
        layout, nodes = discovery.layout, discovery.connected()
        offset_paths = {layout.offset(group, topic, one.in_topic): one for one in partitions}
        owner_paths = {layout.owner(group, topic, one.in_topic): one for one in partitions}
        read = await nodes.read([*offset_paths, *owner_paths])
        owners = {owner_paths[path]: read[path] for path in owner_paths}
        stands = []
        for path, partition in offset_paths.items():
            node, owner = read[path], owners[partition]
            stored = None if node is None else StoredOffset.parse(node.data)
            if node is not None and node.data and stored is None:
                raise ProblemError(
                    409,
                    f"the offset of {partition} holds {node.data[:60]!r}, no offset: reset the group",
                )
            stands.append(
                _Stand(
                    partition,
                    None if stored is None else stored.offset,
                    -1 if stored is None or stored.message_id is None else stored.message_id,
                    None if node is None else node.version,
                    None if owner is None else owner.data.decode("utf-8", "replace"),
                )
            )
        return stands

    async def _take(
        self, session: Session, stands: Sequence[_Stand], start: str, count_max: int, wait_ms: int
    ) -> list[_Taken]:
        """What is there, of one partition after another; else the first that comes within ``wait_ms``."""
        if not stands:
            return []
        first = next(self._turns) % len(stands)
        taken: list[_Taken] = []
        left = count_max
        failure: ClientError | None = None
        positions: dict[Partition, int] = {}
        for stand in [*stands[first:], *stands[:first]]:
            begin = stand.offset if stand.offset is not None else (0 if start == "start" else MAX_OFFSET)
            try:
                report = await session.fetch(stand.partition, begin, size_max=_FETCH_BYTES)
            except ClientError as error:
                failure = error
                continue
            positions[stand.partition] = report.next_offset
            if report.messages:
                taken.append(_Taken.of(stand, report, left))
                left -= len(taken[-1].messages)
                if left == 0:
                    break
        if not taken and not positions and failure is not None:
            raise failure
        waiting = [stand for stand in stands if stand.partition in positions][:_WAITING_PARTITIONS_MAX]
        if taken or not wait_ms or not waiting:
            return taken
        with self._waiting.enter():
            return await _first_that_comes(session, waiting, positions, count_max, wait_ms)


@attrs.frozen
class _Taken:
    """What was fetched of one partition."""

    stand: _Stand
    messages: tuple[ReceivedMessage, ...]

    @classmethod
    def of(cls, stand: _Stand, report: FetchReport, count_max: int) -> _Taken:
        return cls(stand, report.messages[:count_max])

    def position(self) -> dict[str, object]:
        """What is committed when the messages have been dealt with."""
        last = self.messages[-1]
        return {
            "topic": self.stand.partition.topic,
            "partition": str(self.stand.partition.in_topic),
            "offset": last.next_offset,
            "id": last.message_id,
            "version": self.stand.version,
        }


async def _first_that_comes(
    session: Session,
    stands: Sequence[_Stand],
    positions: Mapping[Partition, int],
    count_max: int,
    wait_ms: int,
) -> list[_Taken]:
    taken: list[_Taken] = []
    with trio.move_on_after(wait_ms / 1000):
        async with trio.open_nursery() as nursery:

            async def wait(stand: _Stand) -> None:
                offset = positions[stand.partition]
                while not taken:
                    try:
                        report = await session.fetch(
                            stand.partition, offset, size_max=_FETCH_BYTES, wait_ms=wait_ms
                        )
                    except ClientError:
                        await trio.sleep(_PAUSE_SECONDS)
                        continue
                    if report.messages and not taken:
                        taken.append(_Taken.of(stand, report, count_max))
                        nursery.cancel_scope.cancel()
                    # A partition without messages, and a broker without the long poll, answer at once.
                    await trio.sleep(_PAUSE_SECONDS)

            for stand in stands:
                nursery.start_soon(wait, stand)
    return taken


@attrs.frozen(kw_only=True)
class Reset:
    """Where a group is to go."""

    to: str
    topic: str | None = None
    partitions: frozenset[str] = frozenset()
    """``B-P``; none: all of them."""
    executes: bool = False
    forces: bool = False

    @classmethod
    def parse(cls, content: Any) -> Reset:  # noqa: ANN401 - whatever came
        """From the body of a request; raises ProblemError."""
        known = {"to", "topic", "partitions", "execute", "force"}
        if not isinstance(content, dict) or not set(content) <= known:
            raise ProblemError(400, f"the body is an object with {', '.join(sorted(known))}")
        to, topic, partitions = content.get("to"), content.get("topic"), content.get("partitions", [])
        flags = content.get("execute", False), content.get("force", False)
        if not isinstance(to, str):
            raise ProblemError(
                400, "to says where: start, end, an offset, a time, or how long ago, like -10m"
            )
        if topic is not None and not isinstance(topic, str):
            raise ProblemError(400, "topic must be a text")
        if not isinstance(partitions, list) or not all(isinstance(one, str) for one in partitions):
            raise ProblemError(400, 'partitions must be a list of BROKER-PARTITION, ["0-1"]')
        if not all(isinstance(flag, bool) for flag in flags):
            raise ProblemError(400, "execute and force are true or false")
        return cls(to=to, topic=topic, partitions=frozenset(partitions), executes=flags[0], forces=flags[1])


def group_of(request: Request) -> str:
    """The group in the path; raises ProblemError where that is none."""
    group: str = request.path_params["group"]
    try:
        check_group(group)
    except ConfigError as error:
        raise ProblemError(404, str(error)) from None
    if group in (".", "..") or not group.isprintable():
        raise ProblemError(404, f"{group!r} is no group; letters, digits, - and _ are fine")
    return group


@contextmanager
def _cluster_errors() -> Iterator[None]:
    """What the client library raises, as a problem."""
    try:
        yield
    except ConfigError as error:
        raise ProblemError(400, str(error)) from error
    except (DiscoveryError, ZooKeeperError) as error:
        raise ProblemError(503, f"the registry does not answer: {error}") from error
    except ClientError as error:
        raise ProblemError(503, str(error)) from error


async def _known_group(session: Session, name: str) -> Group:
    group = await read_group(session.network.discovery, name)
    if group is None:
        raise ProblemError(404, f"the registry knows no group {name!r}")
    return group


async def _chosen(session: Session, group: Group, reset: Reset) -> list[Partition]:
    if reset.topic is not None and reset.topic not in group.topics:
        raise ProblemError(404, f"group {group.name} has nothing to do with topic {reset.topic!r}")
    topics = group.topics if reset.topic is None else [reset.topic]
    found = sorted(await readable_partitions(session, topics))
    missing = reset.partitions - {str(partition.in_topic) for partition in found}
    if missing:
        raise ProblemError(404, f"no broker announces partition {', '.join(sorted(missing))}")
    chosen = [one for one in found if not reset.partitions or str(one.in_topic) in reset.partitions]
    if not chosen:
        raise ProblemError(404, f"group {group.name} has no partition that a broker announces")
    return chosen


def _move_content(move: Move) -> dict[str, object]:
    stored = None if move.node is None else move.node.stored
    return {
        "topic": move.partition.topic,
        "partition": str(move.partition.in_topic),
        "from": None if stored is None else stored.offset,
        "to": move.offset,
        "bytes": None if stored is None else move.offset - stored.offset,
        "id": move.message_id,
        "written": move.is_written,
    }


def _targets(content: Any) -> dict[Partition, tuple[StoredOffset, int | None]]:  # noqa: ANN401
    """What is to be committed; raises ProblemError."""
    positions = content.get("positions") if isinstance(content, dict) else None
    if not isinstance(positions, list) or not positions or set(content) != {"positions"}:
        raise ProblemError(400, 'the body must be {"positions": […]}, as consuming has told them')
    targets: dict[Partition, tuple[StoredOffset, int | None]] = {}
    for index, position in enumerate(positions):
        where = f"positions[{index}]"
        if not isinstance(position, dict) or set(position) != {
            "topic",
            "partition",
            "offset",
            "id",
            "version",
        }:
            raise ProblemError(400, f"{where} must have topic, partition, offset, id and version")
        topic, name, version = position["topic"], position["partition"], position["version"]
        parsed = BrokerPartition.parse(name) if isinstance(name, str) else None
        if not isinstance(topic, str) or not is_valid_topic(topic) or parsed is None:
            raise ProblemError(400, f"{where}: {str(topic)[:60]!r} {str(name)[:40]!r} is no partition")
        offset, message_id = position["offset"], position["id"]
        numbers = [offset, message_id, *([] if version is None else [version])]
        if not all(type(one) is int and -(2**63) <= one <= MAX_OFFSET for one in numbers) or offset < 0:
            raise ProblemError(
                400, f"{where}: offset, id and version are numbers, version null for the first"
            )
        if version is not None and version < 0:
            raise ProblemError(400, f"{where}: version must be the one that consuming has told")
        partition = Partition(topic, parsed.broker_id, parsed.partition)
        if partition in targets:
            raise ProblemError(400, f"{where}: {partition} comes twice")
        targets[partition] = (StoredOffset(offset, message_id), version)
    return targets


def _messages(messages: Iterable[ReceivedMessage]) -> list[dict[str, object]]:
    return [
        {**message_fields(message, str(message.partition.in_topic)), "next_offset": message.next_offset}
        for message in messages
    ]


def _name(partition: Partition) -> dict[str, str]:
    return {"topic": partition.topic, "partition": str(partition.in_topic)}
