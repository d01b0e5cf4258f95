"""Random histories of two sessions look the same on the embedded registry and on a real ZooKeeper."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.registry.wire import (
    ACL,
    STAT,
    Check,
    Create,
    Delete,
    EventFrame,
    Exists,
    GetChildren2,
    GetData,
    ReplyFrame,
    Session,
    SetData,
    Transaction,
    stat,
)

if TYPE_CHECKING:
    from tests.registry.ensembles import Embedded, Ensemble, ZooKeeper

_numbers = itertools.count(1)

paths = st.sampled_from(["", "/a", "/b", "/a/a", "/a/b", "/b/a", "/a/a/a", "/a0000000000", "/a0000000001"])
versions = st.sampled_from([-1, -1, 0, 1, 2])
data = st.sampled_from([b"", b"1", b"22", None])


@attrs.frozen
class Step:
    """One request of one session, or its end."""

    session: int
    kind: str
    path: str = ""
    version: int = -1
    data: bytes | None = None
    flags: int = 0
    watch: bool = False
    parts: tuple[Step, ...] = ()


def changes(session: st.SearchStrategy[int]) -> st.SearchStrategy[Step]:
    return st.one_of(
        st.builds(Step, session, st.just("create"), paths, data=data, flags=st.integers(0, 3)),
        st.builds(Step, session, st.just("create"), paths, data=data),
        st.builds(Step, session, st.just("delete"), paths, version=versions),
        st.builds(Step, session, st.just("set"), paths, version=versions, data=data),
    )


checks = st.builds(Step, st.just(0), st.just("check"), paths, version=versions)
sessions = st.integers(0, 1)
reads = st.builds(Step, sessions, st.sampled_from(["exists", "get", "children"]), paths, watch=st.booleans())
multis = st.builds(
    Step,
    sessions,
    st.just("multi"),
    parts=st.lists(st.one_of(changes(st.just(0)), checks), min_size=1, max_size=4).map(tuple),
)
steps = st.one_of(
    changes(sessions), changes(sessions), reads, reads, multis, st.builds(Step, sessions, st.just("end"))
)


def request_of(step: Step, root: str) -> Any:  # noqa: ANN401 - kazoo's classes share no type
    path = root + step.path
    match step.kind:
        case "create":
            return Create(path, step.data, ACL, step.flags)
        case "delete":
            return Delete(path, step.version)
        case "set":
            return SetData(path, step.data, step.version)
        case "check":
            return Check(path, step.version)
        case "exists":
            return Exists(path, step.watch)
        case "get":
            return GetData(path, step.watch)
        case "children":
            return GetChildren2(path, step.watch)
        case _:
            return Transaction([request_of(part, root) for part in step.parts])


class History:
    """What the two sessions saw, without what differs between any two servers: times and numbers."""

    def __init__(self, port: int, root: str) -> None:
        self._port = port
        self._root = root
        self._sessions = [Session(port), Session(port)]
        self._owners = {0: 0}
        for session in self._sessions:
            self._owners[session.session_id] = len(self._owners)
        self._seen: list[Any] = []
        self._zxids: set[int] = set()
        self._sessions[0].ask(Create(root, b"", ACL, 0))

    def do(self, step: Step) -> None:
        session = self._sessions[step.session]
        if step.kind == "end":
            self._note("ended", sorted(session.close()))
            opened = self._sessions[step.session] = Session(self._port)
            self._owners[opened.session_id] = len(self._owners)
        else:
            session.send(request_of(step, self._root))
            events, reply = session.until_reply()
            self._note(step.kind, events, reply.code, self._describe(step, reply))
        for other in self._sessions:
            # Several ephemeral nodes of one session go in no certain order.
            events = other.ping()[0]
            self._note("events", sorted(events) if step.kind == "end" else events)

    def close(self) -> list[Any]:
        for session in self._sessions:
            session.close()
        order = {zxid: index for index, zxid in enumerate(sorted(self._zxids))}
        return [_rank(entry, order) for entry in self._seen]

    def _note(self, what: str, events: list[EventFrame], *more: object) -> None:
        told = [(event.kind, event.path.removeprefix(self._root)) for event in events]
        self._seen.append((what, told, *more))

    def _describe(self, step: Step, reply: ReplyFrame) -> object:
        body = reply.body
        if reply.code != 0 or step.kind == "delete":
            return body
        if step.kind == "create":
            return body[4:].removeprefix(self._root.encode())
        if step.kind == "multi":
            return self._describe_multi(step, body)
        rest, found = body[: -STAT.size], stat(body[-STAT.size :])
        self._zxids |= {found.created, found.modified, found.children_changed}
        if step.kind == "children":
            count, names, position = int.from_bytes(rest[:4], "big"), set(), 4
            for _ in range(count):
                size = int.from_bytes(rest[position : position + 4], "big")
                names.add(rest[position + 4 : position + 4 + size])
                position += 4 + size
            return names, self._known(found)
        return rest, self._known(found)

    def _known(self, found: Any) -> object:  # noqa: ANN401
        return found._replace(owner=self._owners[found.owner])

    def _describe_multi(self, step: Step, body: bytes) -> list[object]:
        described: list[object] = []
        position = 0
        for _ in step.parts:
            kind = int.from_bytes(body[position : position + 4], "big", signed=True)
            code = int.from_bytes(body[position + 5 : position + 9], "big", signed=True)
            position += 9
            result: object = b""
            if kind == 1:
                size = int.from_bytes(body[position : position + 4], "big")
                result = body[position + 4 : position + 4 + size].removeprefix(self._root.encode())
                position += 4 + size
            elif kind == 5:
                found = stat(body[position : position + STAT.size])
                self._zxids |= {found.created, found.modified, found.children_changed}
                result = self._known(found)
                position += STAT.size
            elif kind == -1:
                position += 4
            described.append((kind, code, result))
        assert body[position + 4] == 1
        return described


def _rank(entry: Any, order: dict[int, int]) -> Any:  # noqa: ANN401
    if hasattr(entry, "_replace"):
        return entry._replace(
            created=order[entry.created],
            modified=order[entry.modified],
            children_changed=order[entry.children_changed],
        )
    if isinstance(entry, (tuple, list)):
        return [_rank(part, order) for part in entry]
    return entry


def history(ensemble: Ensemble, root: str, script: list[Step]) -> list[Any]:
    played = History(ensemble.port, root)
    for step in script:
        played.do(step)
    return played.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(script=st.lists(steps, min_size=10, max_size=30))
def test_random_histories_agree(embedded: Embedded, zookeeper: ZooKeeper, script: list[Step]) -> None:
    root = f"/history{next(_numbers)}"
    assert history(embedded, root, script) == history(zookeeper, root, script)
