"""kazoo, as our own clients use it, against the embedded registry and a real ZooKeeper."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import BadVersionError, NodeExistsError, NoNodeError, RolledBackError
from kazoo.protocol.states import KazooState

from tests.support import WAIT_SECONDS_MAX, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.registry.ensembles import Ensemble


@pytest.fixture
def connect(ensemble: Ensemble) -> Iterator[Callable[[], KazooClient]]:
    clients = []

    def start() -> KazooClient:
        client = KazooClient(ensemble.address, timeout=4.0)
        clients.append(client)
        client.start(WAIT_SECONDS_MAX)
        return client

    yield start
    for client in clients:
        client.stop()
        client.close()


def test_nodes(connect: Callable[[], KazooClient], root: str) -> None:
    client = connect()
    assert client.create(f"{root}/a/b/c", b"data", makepath=True) == f"{root}/a/b/c"
    with pytest.raises(NodeExistsError):
        client.create(f"{root}/a/b/c")
    data, found = client.get(f"{root}/a/b/c")
    assert (data, found.version) == (b"data", 0)
    client.set(f"{root}/a/b/c", b"more", version=0)
    with pytest.raises(BadVersionError):
        client.set(f"{root}/a/b/c", b"more", version=0)
    children, found = client.get_children(f"{root}/a", include_data=True)
    assert (children, found.numChildren) == (["b"], 1)
    client.delete(f"{root}/a", recursive=True)
    with pytest.raises(NoNodeError):
        client.get(f"{root}/a")
    assert client.sync(root) == root


def test_transactions(connect: Callable[[], KazooClient], root: str) -> None:
    client = connect()
    transaction = client.transaction()
    transaction.create(f"{root}/a", b"1")
    transaction.set_data(f"{root}/a", b"2")
    transaction.check(f"{root}/a", 1)
    created, changed, checked = transaction.commit()
    assert (created, changed.version, checked) == (f"{root}/a", 1, True)
    transaction = client.transaction()
    transaction.delete(f"{root}/a")
    transaction.delete(f"{root}/b")
    first, second = transaction.commit()
    assert isinstance(first, RolledBackError)
    assert isinstance(second, NoNodeError)
    assert client.exists(f"{root}/a")


def test_recipes(connect: Callable[[], KazooClient], root: str) -> None:
    first, second = connect(), connect()
    lock = first.Lock(f"{root}/lock", "first")
    other = second.Lock(f"{root}/lock", "second")
    lock.acquire(timeout=WAIT_SECONDS_MAX)
    assert not other.acquire(blocking=False)
    got_it = threading.Event()

    def wait_for_it() -> None:
        if other.acquire(timeout=WAIT_SECONDS_MAX):
            got_it.set()

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    lock.release()
    assert got_it.wait(WAIT_SECONDS_MAX)
    waiting.join()
    assert other.contenders() == ["second"]
    other.release()


def test_members_of_a_group(connect: Callable[[], KazooClient], root: str) -> None:
    """What a consumer group does: ephemeral members, and all hear when one goes."""
    first, second = connect(), connect()
    seen: list[list[str]] = []
    for number, client in enumerate((first, second)):
        client.create(f"{root}/ids/{number}", b"topic", ephemeral=True, makepath=True)
    first.ChildrenWatch(f"{root}/ids", lambda children: seen.append(sorted(children)))
    assert seen[-1] == ["0", "1"]
    second.stop()
    eventually(lambda: seen[-1] == ["0"], "the loss of a member is told")


def test_client_survives_a_restart_with_session_and_watches(
    connect: Callable[[], KazooClient], ensemble: Ensemble, root: str
) -> None:
    client = connect()
    other = connect()
    states: list[str] = []
    client.add_listener(states.append)
    client.create(f"{root}/mine", ephemeral=True)
    seen: list[bytes] = []
    client.DataWatch(f"{root}/mine", lambda data, _stat: seen.append(data))
    before = client.client_id
    ensemble.kill()
    ensemble.start()
    eventually(lambda: client.connected and other.connected, "both clients are back")
    assert client.client_id == before
    assert KazooState.LOST not in states
    assert other.retry(other.exists, f"{root}/mine")
    other.retry(other.set, f"{root}/mine", b"new")
    eventually(lambda: seen[-1] == b"new", "the watch was set again")
