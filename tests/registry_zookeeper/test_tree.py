"""One suite for the tree in memory and the real one: what a registrar relies on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.errors import ConnectionLostError, NodeFailedError
from metaserver.registry.link import TreeSettings
from metaserver.registry.registration import Create, Delete, ExistingNode, Retire, Store, Write
from metaserver.registry.zookeeper import KazooTree, NodeTree
from tests.registry_zookeeper.fake_tree import FakeZooKeeper

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.registry_zookeeper.zookeeper_server import ZooKeeperServer

OpenTree = Callable[[Callable[[], None]], NodeTree]


@pytest.fixture(params=["fake", "real"])
def open_tree(request: pytest.FixtureRequest) -> OpenTree:
    if request.param == "fake":
        return FakeZooKeeper().open
    server: ZooKeeperServer = request.getfixturevalue("server")
    return partial(
        KazooTree.open,
        TreeSettings(servers=server.address, session_timeout_seconds=2.0, connection_timeout_seconds=2.0),
    )


@asynccontextmanager
async def connected(
    open_tree: OpenTree, told: Callable[[], None] = lambda: None
) -> AsyncIterator[tuple[NodeTree, int]]:
    """A tree with a session; it ends with the block."""
    change = trio.Event()

    def on_change() -> None:
        change.set()
        told()

    tree = open_tree(on_change)
    try:
        with trio.fail_after(10):
            while tree.session is None:
                await change.wait()
                change = trio.Event()
        yield tree, tree.session
    finally:
        await tree.close()


async def test_nodes_are_made_with_their_parents(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, session):
        paths = [f"{root}/x/y", f"{root}/z", f"{root}/x", root, f"{root}/none"]
        await tree.apply([Create(paths[0], b"1"), Store(paths[1], b"2")])
        assert await tree.read(paths) == {
            paths[0]: ExistingNode(b"1", session),
            paths[1]: ExistingNode(b"2", 0),
            paths[2]: ExistingNode(b"", 0),
            paths[3]: ExistingNode(b"", 0),
            paths[4]: None,
        }


async def test_writing_and_removing(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, session):
        path = f"{root}/n"
        await tree.apply([Create(path, b"1"), Create(f"{root}/other", b"")])
        await tree.apply([Write(path, b"2")])
        assert await tree.read([path]) == {path: ExistingNode(b"2", session)}
        await tree.apply([Delete(path), Create(path, b"3")])
        assert await tree.read([path]) == {path: ExistingNode(b"3", session)}
        await tree.apply([Delete(path), Delete(path), Retire(path)])
        assert await tree.read([path]) == {path: None}
        await tree.apply([Store(root, b"4"), Store(root, b"5")])
        assert await tree.read([root]) == {root: ExistingNode(b"5", 0)}


async def test_what_has_children_is_retired_to_empty_text(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, _session):
        await tree.apply([Store(root, b"address"), Create(f"{root}/child", b"")])
        await tree.apply([Retire(root)])
        assert await tree.read([root]) == {root: ExistingNode(b"", 0)}
        await tree.apply([Delete(f"{root}/child"), Retire(root)])
        assert await tree.read([root]) == {root: None}


async def test_a_failure_does_not_stop_the_other_actions(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, session):
        there, absent, last = f"{root}/there", f"{root}/absent", f"{root}/last"
        await tree.apply([Create(there, b"1")])
        with pytest.raises(NodeFailedError) as failure:
            await tree.apply([Create(there, b"2"), Write(absent, b""), Create(last, b"3")])
        assert failure.value.path == there
        assert failure.value.reason
        assert await tree.read([there, absent, last]) == {
            there: ExistingNode(b"1", session),
            absent: None,
            last: ExistingNode(b"3", session),
        }


async def test_many_at_once_keep_their_order(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, session):
        paths = [f"{root}/{number}" for number in range(350)]
        await tree.apply([Create(path, path.encode()) for path in paths])
        await tree.apply([action for path in paths for action in (Delete(path), Create(path, b"x"))])
        assert set((await tree.read(paths)).values()) == {ExistingNode(b"x", session)}


async def test_a_closed_session_takes_its_nodes_along(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, _session):
        async with connected(open_tree) as (other, other_session):
            await other.apply([Create(f"{root}/n", b""), Store(f"{root}/p", b"1")])
            found = await tree.read([f"{root}/n"])
            assert found == {f"{root}/n": ExistingNode(b"", other_session)}
        assert await tree.read([f"{root}/n", f"{root}/p"]) == {
            f"{root}/n": None,
            f"{root}/p": ExistingNode(b"1", 0),
        }
        assert other.session is None
        with pytest.raises(ConnectionLostError):
            await other.read([root])
        with pytest.raises(ConnectionLostError):
            await other.apply([Store(root, b"")])


@pytest.mark.parametrize("change", [Delete, partial(Write, data=b"2")])
async def test_a_watched_node_tells_of_its_change(
    open_tree: OpenTree, root: str, change: Callable[[str], Delete | Write]
) -> None:
    told = trio.Event()

    def tell() -> None:
        told.set()

    async with (
        connected(open_tree, tell) as (tree, _session),
        connected(open_tree) as (other, _other_session),
    ):
        path = f"{root}/n"
        await other.apply([Create(path, b"1")])
        await tree.read([path, f"{root}/none"], is_watched=True)
        told = trio.Event()
        await other.apply([change(path)])
        with trio.fail_after(10):
            await told.wait()


async def test_children(open_tree: OpenTree, root: str) -> None:
    async with connected(open_tree) as (tree, _session):
        assert await tree.children(root) == []
        await tree.apply([Create(f"{root}/b", b""), Store(f"{root}/a/x", b"")])
        assert await tree.children(root) == ["a", "b"]
