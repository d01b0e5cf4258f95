"""What a client sees, frame by frame, of the embedded registry and of a real ZooKeeper."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from kazoo.protocol.serialization import Auth
from kazoo.security import make_acl, make_digest_acl

from tests.registry.wire import (
    ACL,
    Check,
    Create,
    Create2,
    Delete,
    EventFrame,
    Exists,
    GetACL,
    GetChildren,
    GetChildren2,
    GetData,
    RawRequest,
    Session,
    SessionEndedError,
    SetACL,
    SetData,
    Sync,
    Transaction,
    set_watches,
    stat,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.registry.ensembles import Ensemble

EPHEMERAL, SEQUENTIAL = 1, 2
OK, RUNTIME_INCONSISTENCY, UNIMPLEMENTED, BAD_ARGUMENTS = 0, -2, -6, -8
NO_NODE, NO_AUTH, BAD_VERSION, NO_CHILDREN_FOR_EPHEMERALS = -101, -102, -103, -108
NODE_EXISTS, NOT_EMPTY, INVALID_ACL, AUTH_FAILED = -110, -111, -114, -115
CREATED, DELETED, CHANGED, CHILDREN = 1, 2, 3, 4


@pytest.fixture
def session(ensemble: Ensemble) -> Iterator[Session]:
    with Session(ensemble.port) as opened:
        yield opened


@pytest.fixture
def other(ensemble: Ensemble) -> Iterator[Session]:
    with Session(ensemble.port) as opened:
        yield opened


def create(session: Session, path: str, data: bytes = b"", flags: int = 0) -> str:
    reply = session.ask(Create(path, data, ACL, flags))
    assert reply.code == OK
    return reply.body[4:].decode()


def names(body: bytes) -> set[str]:
    count, position, found = int.from_bytes(body[:4], "big"), 4, set()
    for _ in range(count):
        size = int.from_bytes(body[position : position + 4], "big")
        found.add(body[position + 4 : position + 4 + size].decode())
        position += 4 + size
    return found


# Sessions.


def test_timeouts_are_negotiated_between_2_and_20_ticks(ensemble: Ensemble) -> None:
    for asked, given in ((1, 400), (1500, 1500), (3_600_000, 4000)):
        with Session(ensemble.port, timeout_ms=asked) as opened:
            assert opened.timeout_ms == given
            assert opened.session_id != 0
            assert len(opened.password) == 16
            opened.close()


def test_the_read_only_byte_is_answered_to_those_who_send_it(ensemble: Ensemble) -> None:
    with Session(ensemble.port) as modern, Session(ensemble.port, read_only_byte=False) as old:
        assert modern.read_only_reply == b"\0"
        assert old.read_only_reply == b""


def test_session_moves_to_a_new_connection(ensemble: Ensemble, session: Session, root: str) -> None:
    create(session, f"{root}/mine", flags=EPHEMERAL)
    with session.resume(ensemble.port) as again:
        assert again.session_id == session.session_id
        assert again.password == session.password
        session.expect_end()
        reply = again.ask(Exists(f"{root}/mine", None))
        assert stat(reply.body).owner == session.session_id


def test_session_is_not_given_to_who_does_not_know_its_password(ensemble: Ensemble, session: Session) -> None:
    with Session(ensemble.port, session_id=session.session_id, password=b"x" * 16) as thief:
        assert (thief.session_id, thief.timeout_ms) == (0, 0)
        thief.expect_end()


def test_closed_session_cannot_be_resumed_and_takes_its_ephemerals(
    ensemble: Ensemble, session: Session, other: Session, root: str
) -> None:
    create(session, f"{root}/mine", flags=EPHEMERAL)
    other.ask(Exists(f"{root}/mine", True))
    session.close()
    assert other.next() == EventFrame(DELETED, f"{root}/mine")
    with session.resume(ensemble.port) as again:
        assert again.session_id == 0
        again.expect_end()


def test_session_without_a_sign_of_life_expires(ensemble: Ensemble, other: Session, root: str) -> None:
    with Session(ensemble.port, timeout_ms=400) as silent:
        create(silent, f"{root}/a", flags=EPHEMERAL)
        create(silent, f"{root}/b", flags=EPHEMERAL)
        other.ask(Exists(f"{root}/a", True))
        other.ask(GetChildren(f"{root}", True))
        frames = {other.next(), other.next()}
        assert frames == {EventFrame(DELETED, f"{root}/a"), EventFrame(CHILDREN, root)}
        assert other.ask(Exists(f"{root}/b", None)).code == NO_NODE
        silent.expect_end()
        with silent.resume(ensemble.port) as again:
            assert again.session_id == 0


def test_a_server_that_knows_less_than_the_client_does_not_serve_it(ensemble: Ensemble) -> None:
    with pytest.raises(SessionEndedError):
        Session(ensemble.port, last_zxid=2**62)


def test_pings_and_syncs(session: Session, root: str) -> None:
    events, reply = session.ping()
    assert (events, reply.xid, reply.code, reply.body) == ([], -2, OK, b"")
    assert session.ask(Sync(root)).body == string(root)


def test_unknown_operations_are_refused(session: Session, root: str) -> None:
    data = string(f"{root}/a") + b"\0\0\0\0" + (1).to_bytes(4, "big") + (31).to_bytes(4, "big")
    data += string("world") + string("anyone")
    assert session.ask(RawRequest(21, data + b"\0\0\0\5" + b"\0" * 8)).code == UNIMPLEMENTED


@pytest.mark.parametrize("length", [0x7FFFFFFF, 0x100000 + 4096, 0xFFFFFFFF])
def test_frames_that_cannot_be_end_the_connection(ensemble: Ensemble, length: int) -> None:
    with Session(ensemble.port) as doomed:
        doomed.send_bytes(length.to_bytes(4, "big") + b"1234")
        doomed.expect_end()


# Nodes.


def test_create_and_stat(session: Session, root: str) -> None:
    assert create(session, f"{root}/a", b"data") == f"{root}/a"
    found = stat(session.ask(Exists(f"{root}/a", None)).body)
    assert found.created == found.modified == found.children_changed
    assert (found.version, found.children_version, found.acl_version) == (0, 0, 0)
    assert (found.owner, found.size, found.children) == (0, 4, 0)
    data = session.ask(GetData(f"{root}/a", None)).body
    assert data[:8] == b"\0\0\0\4data"
    assert stat(data[8:]) == found


def test_create2_returns_the_stat(session: Session, root: str) -> None:
    reply = session.ask(Create2(f"{root}/a", b"12", ACL, EPHEMERAL))
    path = string(f"{root}/a")
    assert reply.body[: len(path)] == path
    assert stat(reply.body[len(path) :]).owner == session.session_id


def test_null_data_stays_null(session: Session, root: str) -> None:
    create(session, f"{root}/null", None)  # type: ignore[arg-type] # kazoo's type is wider than ours
    create(session, f"{root}/empty", b"")
    assert session.ask(GetData(f"{root}/null", None)).body[:4] == b"\xff\xff\xff\xff"
    assert session.ask(GetData(f"{root}/empty", None)).body[:4] == b"\0\0\0\0"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("a", BAD_ARGUMENTS),
        ("/", NODE_EXISTS),
        ("{root}", NODE_EXISTS),
        ("{root}/", BAD_ARGUMENTS),
        ("{root}//a", NO_NODE),
        ("{root}/.", BAD_ARGUMENTS),
        ("{root}/..", BAD_ARGUMENTS),
        ("{root}/a/b", NO_NODE),
        ("{root}/a\x01", BAD_ARGUMENTS),
        ("{root}/a\0", BAD_ARGUMENTS),
        ("{root}/\x7f", BAD_ARGUMENTS),
        ("{root}/…", OK),
        ("{root}/.a", OK),
    ],
)
def test_which_paths_can_be_created(session: Session, root: str, path: str, code: int) -> None:
    assert session.ask(Create(path.format(root=root), b"", ACL, 0)).code == code


def test_sequential_numbers_count_all_children_ever_made(session: Session, root: str) -> None:
    parent = create(session, f"{root}/p")
    assert create(session, f"{parent}/n-", flags=SEQUENTIAL) == f"{parent}/n-0000000000"
    create(session, f"{parent}/plain")
    assert create(session, f"{parent}/n-", flags=SEQUENTIAL) == f"{parent}/n-0000000002"
    assert session.ask(Delete(f"{parent}/n-0000000002", -1)).code == OK
    last = create(session, f"{parent}/", flags=SEQUENTIAL | EPHEMERAL)
    assert last == f"{parent}/0000000003"
    assert stat(session.ask(Exists(last, None)).body).owner == session.session_id
    found = stat(session.ask(Exists(parent, None)).body)
    assert (found.children_version, found.children) == (5, 3)


def test_delete(session: Session, root: str) -> None:
    create(session, f"{root}/a")
    create(session, f"{root}/a/b")
    assert session.ask(Delete(f"{root}/a", -1)).code == NOT_EMPTY
    assert session.ask(Delete(f"{root}/a/b", 1)).code == BAD_VERSION
    assert session.ask(Delete(f"{root}/a/b", 0)).code == OK
    assert session.ask(Delete(f"{root}/a/b", 0)).code == NO_NODE
    assert session.ask(Delete(f"{root}/x/y", -1)).code == NO_NODE
    found = stat(session.ask(Exists(f"{root}/a", None)).body)
    assert (found.children_version, found.children) == (2, 0)
    assert found.children_changed > found.created
    for path in ("/", "/zookeeper", "/zookeeper/quota", "a"):
        assert session.ask(Delete(path, -1)).code == BAD_ARGUMENTS


def test_set_data_and_versions(session: Session, root: str) -> None:
    path = create(session, f"{root}/a")
    first = stat(session.ask(SetData(path, b"1", 0)).body)
    assert (first.version, first.size) == (1, 1)
    assert first.modified > first.created
    assert session.ask(SetData(path, b"2", 0)).code == BAD_VERSION
    assert stat(session.ask(SetData(path, b"22", -1)).body).version == 2
    assert session.ask(SetData(f"{root}/none", b"", -1)).code == NO_NODE
    assert session.ask(GetData(f"{root}/none", None)).code == NO_NODE


def test_children(session: Session, root: str) -> None:
    for name in "abc":
        create(session, f"{root}/{name}")
    assert names(session.ask(GetChildren(root, None)).body) == {"a", "b", "c"}
    reply = session.ask(GetChildren2(root, None))
    assert names(reply.body) == {"a", "b", "c"}
    assert stat(reply.body[-68:]).children == 3
    assert session.ask(GetChildren(f"{root}/none", None)).code == NO_NODE
    assert "zookeeper" in names(session.ask(GetChildren("/", None)).body)


def test_ephemerals_have_no_children(session: Session, root: str) -> None:
    create(session, f"{root}/e", flags=EPHEMERAL)
    assert session.ask(Create(f"{root}/e/a", b"", ACL, 0)).code == NO_CHILDREN_FOR_EPHEMERALS


def test_large_data(session: Session, root: str) -> None:
    data = bytes(range(256)) * 4000
    create(session, f"{root}/large", data)
    assert session.ask(GetData(f"{root}/large", None)).body[4:-68] == data


def test_ephemerals_of_the_session(session: Session, root: str) -> None:
    create(session, f"{root}/a", flags=EPHEMERAL)
    create(session, f"{root}/b", flags=EPHEMERAL)
    create(session, f"{root}/c")
    assert names(session.ask(RawRequest(103, string(f"{root}"))).body) == {f"{root}/a", f"{root}/b"}
    assert names(session.ask(RawRequest(103, string(f"{root}/b"))).body) == {f"{root}/b"}


def test_count_of_descendants(session: Session, root: str) -> None:
    create(session, f"{root}/a")
    create(session, f"{root}/a/b")
    create(session, f"{root}x")
    assert session.ask(RawRequest(104, string(root))).body == b"\0\0\0\2"


# Access lists.


def test_access_lists(session: Session, other: Session, root: str) -> None:
    assert session.ask(Create(f"{root}/a", b"", [], 0)).code == INVALID_ACL
    acl = [make_digest_acl("user", "secret", all=True), make_acl("world", "anyone", read=True)]
    assert session.ask(Create(f"{root}/a", b"", acl, 0)).code == OK
    assert session.ask(SetData(f"{root}/a", b"1", -1)).code == NO_AUTH
    assert session.ask(Create(f"{root}/a/b", b"1", ACL, 0)).code == NO_AUTH
    assert session.ask(SetACL(f"{root}/a", ACL, -1)).code == NO_AUTH
    assert session.ask(GetData(f"{root}/a", None)).code == OK
    assert b"user:x" in session.ask(GetACL(f"{root}/a")).body
    assert session.ask(Auth(0, "digest", "user:secret"), xid=-4).code == OK
    assert session.ask(SetData(f"{root}/a", b"1", -1)).code == OK
    assert b"user:x" not in session.ask(GetACL(f"{root}/a")).body
    assert stat(session.ask(SetACL(f"{root}/a", acl[:1], 0)).body).acl_version == 1
    assert session.ask(SetACL(f"{root}/a", ACL, 0)).code == BAD_VERSION
    assert other.ask(GetData(f"{root}/a", None)).code == NO_AUTH
    assert other.ask(GetChildren(f"{root}/a", None)).code == NO_AUTH
    assert other.ask(GetACL(f"{root}/a")).code == NO_AUTH
    assert other.ask(Exists(f"{root}/a", None)).code == OK
    assert other.ask(Delete(f"{root}/a", -1)).code == OK  # The parent's list decides.


def test_unknown_schemes_end_the_connection(session: Session) -> None:
    assert session.ask(Auth(0, "nonsense", "x"), xid=-4).code == AUTH_FAILED
    session.expect_end()


# Watches.


def test_an_event_comes_before_the_reply_to_the_write_that_causes_it(session: Session, root: str) -> None:
    path = create(session, f"{root}/a")
    session.ask(GetData(path, True))
    session.send(SetData(path, b"1", -1))
    events, reply = session.until_reply()
    assert (events, reply.code) == ([EventFrame(CHANGED, path)], OK)


def test_an_event_comes_before_any_reply_that_shows_the_change(
    session: Session, other: Session, root: str
) -> None:
    path = create(session, f"{root}/a")
    for number in range(50):
        assert other.ask(GetData(path, True)).code == OK
        session.send(SetData(path, b"%d" % number, -1))
        while True:
            other.send(GetData(path, None))
            events, reply = other.until_reply()
            data = reply.body[4:-68]
            if events:
                assert data == b"%d" % number
                break
            assert data != b"%d" % number
        assert session.until_reply()[1].code == OK


def test_watches_fire_once(session: Session, other: Session, root: str) -> None:
    path = create(session, f"{root}/a")
    other.ask(GetData(path, True))
    other.ask(Exists(path, True))
    for data in (b"1", b"2"):
        session.ask(SetData(path, data, -1))
    assert other.ping()[0] == [EventFrame(CHANGED, path)]
    session.ask(SetData(path, b"3", -1))
    assert other.ping()[0] == []


def test_exists_watches_what_is_not_there(session: Session, other: Session, root: str) -> None:
    path = f"{root}/later"
    assert other.ask(Exists(path, True)).code == NO_NODE
    assert other.ask(GetData(path, True)).code == NO_NODE
    create(session, path)
    assert other.ping()[0] == [EventFrame(CREATED, path)]
    session.ask(SetData(path, b"", -1))
    assert other.ping()[0] == []


def test_child_watches(session: Session, other: Session, root: str) -> None:
    other.ask(GetChildren(root, True))
    path = create(session, f"{root}/a")
    assert other.ping()[0] == [EventFrame(CHILDREN, root)]
    other.ask(GetChildren2(root, True))
    session.ask(SetData(path, b"", -1))
    create(session, f"{root}/a/b")
    assert other.ping()[0] == []
    session.ask(Delete(f"{root}/a/b", -1))
    session.ask(Delete(path, -1))
    assert other.ping()[0] == [EventFrame(CHILDREN, root)]


def test_deletion_is_told_once_to_who_watches_data_and_children(
    session: Session, other: Session, root: str
) -> None:
    path = create(session, f"{root}/a")
    other.ask(GetData(path, True))
    other.ask(GetChildren(path, True))
    other.ask(GetChildren(root, True))
    session.ask(Delete(path, -1))
    assert other.ping()[0] == [EventFrame(DELETED, path), EventFrame(CHILDREN, root)]


def test_a_refused_multi_fires_nothing_and_a_done_one_fires_in_order(
    session: Session, other: Session, root: str
) -> None:
    path = create(session, f"{root}/a")
    other.ask(GetData(path, True))
    other.ask(GetChildren(root, True))
    session.ask(Transaction([SetData(path, b"1", -1), Create(f"{root}/b", b"", ACL, 0), Check(path, 7)]))
    assert other.ping()[0] == []
    session.ask(Transaction([SetData(path, b"1", -1), Create(f"{root}/b", b"", ACL, 0), Check(path, 1)]))
    assert other.ping()[0] == [EventFrame(CHANGED, path), EventFrame(CHILDREN, root)]


def test_watches_go_with_the_connection_and_are_set_again(
    ensemble: Ensemble, session: Session, other: Session, root: str
) -> None:
    for name in ("changed", "gone", "children", "same"):
        create(other, f"{root}/{name}")
    seen = session.ping()[1].zxid
    other.ask(SetData(f"{root}/changed", b"1", -1))
    other.ask(Delete(f"{root}/gone", -1))
    create(other, f"{root}/children/a")
    create(other, f"{root}/new")
    with session.resume(ensemble.port, last_zxid=seen) as again:
        request = set_watches(
            seen,
            data=[f"{root}/same", f"{root}/changed", f"{root}/gone"],
            exist=[f"{root}/new", f"{root}/never"],
            children=[f"{root}/children", f"{root}/same", f"{root}/gone"],
        )
        number = again.send(request, xid=-8)
        events, reply = again.until_reply()
        assert (reply.xid, reply.code) == (number, OK)
        assert sorted(events) == [
            EventFrame(CREATED, f"{root}/new"),
            EventFrame(DELETED, f"{root}/gone"),
            EventFrame(DELETED, f"{root}/gone"),
            EventFrame(CHANGED, f"{root}/changed"),
            EventFrame(CHILDREN, f"{root}/children"),
        ]
        other.ask(SetData(f"{root}/same", b"1", -1))
        create(other, f"{root}/never")
        create(other, f"{root}/same/a")
        assert again.ping()[0] == [
            EventFrame(CHANGED, f"{root}/same"),
            EventFrame(CREATED, f"{root}/never"),
            EventFrame(CHILDREN, f"{root}/same"),
        ]


def test_watches_can_be_taken_back(session: Session, other: Session, root: str) -> None:
    def take_back(operation: int, watcher_type: int) -> int:
        return session.ask(RawRequest(operation, string(root) + watcher_type.to_bytes(4, "big"))).code

    assert take_back(18, 3) == -121
    session.ask(GetData(root, True))
    session.ask(GetChildren(root, True))
    assert take_back(17, 1) == OK
    assert take_back(18, 1) == OK
    assert take_back(17, 1) == -121
    create(other, f"{root}/a")
    assert session.ping()[0] == []
    assert take_back(18, 3) == OK
    other.ask(SetData(root, b"", -1))
    assert session.ping()[0] == []


# Multi.


def results(body: bytes) -> list[tuple[int, int]]:
    """Kind and error of each result; bodies are skipped by kind."""
    found: list[tuple[int, int]] = []
    position = 0
    while True:
        kind = int.from_bytes(body[position : position + 4], "big", signed=True)
        is_done = body[position + 4] != 0
        code = int.from_bytes(body[position + 5 : position + 9], "big", signed=True)
        position += 9
        if is_done:
            assert position == len(body)
            return found
        found.append((kind, code))
        if kind in (1, 15):
            position += 4 + int.from_bytes(body[position : position + 4], "big")
        if kind == -1:
            assert int.from_bytes(body[position : position + 4], "big", signed=True) == code
            position += 4
        if kind in (5, 15):
            position += 68


def test_multi_sees_its_own_changes(session: Session, root: str) -> None:
    reply = session.ask(
        Transaction(
            [
                Create(f"{root}/a", b"", ACL, 0),
                Create(f"{root}/a/n", b"", ACL, SEQUENTIAL),
                Create(f"{root}/a/n", b"", ACL, SEQUENTIAL),
                SetData(f"{root}/a", b"1", 0),
                Check(f"{root}/a", 1),
                Delete(f"{root}/a/n0000000000", 0),
            ]
        )
    )
    assert results(reply.body) == [(1, 0), (1, 0), (1, 0), (5, 0), (13, 0), (2, 0)]
    found = stat(session.ask(Exists(f"{root}/a", None)).body)
    assert found.created == found.modified == found.children_changed
    assert (found.version, found.children_version, found.children) == (1, 3, 1)


def test_refused_multi_changes_nothing(session: Session, root: str) -> None:
    create(session, f"{root}/a", b"old")
    create(session, f"{root}/a/b", flags=EPHEMERAL)
    before = session.ask(GetData(f"{root}/a", None)).body, session.ask(Exists(root, None)).body
    reply = session.ask(
        Transaction(
            [
                SetData(f"{root}/a", b"1", 0),
                Delete(f"{root}/a/b", -1),
                Delete(f"{root}/a", 1),
                Create(f"{root}/c", b"", ACL, 0),
                Delete(f"{root}/none", -1),
                Create(f"{root}/d", b"", ACL, 0),
                Delete(f"{root}/none", -1),
            ]
        )
    )
    assert reply.code == OK
    codes = [OK, OK, OK, OK, NO_NODE, RUNTIME_INCONSISTENCY, RUNTIME_INCONSISTENCY]
    assert results(reply.body) == [(-1, code) for code in codes]
    assert (session.ask(GetData(f"{root}/a", None)).body, session.ask(Exists(root, None)).body) == before
    assert names(session.ask(RawRequest(103, string(root))).body) == {f"{root}/a/b"}


def test_multi_of_nothing(session: Session) -> None:
    reply = session.ask(Transaction([]))
    assert (reply.code, results(reply.body)) == (OK, [])


# Restarts.


def test_sessions_and_nodes_outlive_the_server(ensemble: Ensemble, root: str) -> None:
    with Session(ensemble.port) as before:
        create(before, f"{root}/kept", b"data")
        create(before, f"{root}/mine", flags=EPHEMERAL)
        number = create(before, f"{root}/n", flags=SEQUENTIAL)
        found = before.ask(GetData(f"{root}/kept", None)).body
        seen = before.ping()[1].zxid
    ensemble.kill()
    ensemble.start()
    with before.resume(ensemble.port, last_zxid=seen) as after:
        assert after.session_id == before.session_id
        assert after.ask(GetData(f"{root}/kept", None)).body == found
        assert stat(after.ask(Exists(f"{root}/mine", None)).body).owner == before.session_id
        following = create(after, f"{root}/n", flags=SEQUENTIAL)
        assert int(following[-10:]) == int(number[-10:]) + 1
        with Session(ensemble.port) as watcher:
            watcher.ask(Exists(f"{root}/mine", True))
            after.close()
            assert watcher.next() == EventFrame(DELETED, f"{root}/mine")


def test_session_that_does_not_come_back_expires_after_a_restart(ensemble: Ensemble, root: str) -> None:
    with Session(ensemble.port, timeout_ms=400) as lost:
        create(lost, f"{root}/mine", flags=EPHEMERAL)
    ensemble.kill()
    ensemble.start()
    with Session(ensemble.port) as watcher:
        if watcher.ask(Exists(f"{root}/mine", True)).code == OK:
            assert watcher.next() == EventFrame(DELETED, f"{root}/mine")
