"""Offsets in the registry: the suite of all storages, and what only this one does."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from typing import TYPE_CHECKING

import anyio
import pytest

from metaserver.client.discovery import Discovery
from metaserver.client.offsets_registry import RegistryOffsets
from metaserver.client.partition import Partition
from metaserver.client.servers import Servers
from metaserver.errors import (
    ConnectionLostError,
    NodeFailedError,
    OffsetConflictError,
    OffsetStorageError,
    OffsetUnreadableError,
)
from metaserver.registry.paths import StoredOffset
from tests.client.offset_storage_suite import OffsetStorageSuite
from tests.client.registry_fake import FakeNodes, FakeRegistry
from tests.registry.ensembles import Embedded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from tests.client.offset_storage_suite import Make

    Run = Callable[[Callable[[], Awaitable[None]]], None]

T00, T01, T02 = (Partition("t", 0, number) for number in range(3))
PATH = "/meta/consumers/g/offsets/t"
NAMES = ["g", "G-1_x", "two words", "ünï日本", 'it\'s "quoted" \\ `here`', "x" * 200]

_roots = count()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    found = Embedded(tmp_path_factory.mktemp("registry") / "data")
    found.start()
    yield found
    found.make_sure_it_is_gone()


class TestRegistry(OffsetStorageSuite):
    """With the embedded registry, through kazoo, on trio and on asyncio."""

    @pytest.fixture
    def make(self, registry: Embedded) -> Make:
        root = f"/offsets{next(_roots)}"

        @asynccontextmanager
        async def make() -> AsyncIterator[RegistryOffsets]:
            discovery = Discovery(Servers.parse(f"zookeeper://{registry.address}{root}"), 10.0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(discovery.run)
                await discovery.wait_read(20.0)
                storage = RegistryOffsets(discovery)
                yield storage
                await storage.aclose()
                tasks.cancel_scope.cancel()

        return make

    def test_groups_and_topics_of_any_characters(self, run: Run, make: Make) -> None:
        """Of those that may stand in a path."""

        async def test() -> None:
            async with make() as storage:
                for number, name in enumerate(NAMES):
                    await storage.store(name, {Partition(name, 0, 0): StoredOffset(number, number)})
                for number, name in enumerate(NAMES):
                    asked = [Partition(topic, 0, 0) for topic in NAMES]
                    expected = {Partition(name, 0, 0): StoredOffset(number, number)}
                    assert await storage.load(name, asked) == expected

        run(test)

    def test_two_storages_at_one_place_at_once(self, run: Run, make: Make) -> None:
        """Of one partition only one may commit: whoever did not write last is told, and writes nothing."""

        async def test() -> None:
            async with make() as one, make() as two:
                for storage in (one, two):
                    assert await storage.load("g", [T00]) == {}
                await one.store("g", {T00: StoredOffset(5, 5), T01: StoredOffset(1, 1)})
                with pytest.raises(OffsetConflictError) as caught:
                    await two.store("g", {T00: StoredOffset(3, 3), T02: StoredOffset(2, 2)})
                assert caught.value.partitions == (T00,)
                assert await one.load("g", [T00, T01, T02]) == {
                    T00: StoredOffset(5, 5),
                    T01: StoredOffset(1, 1),
                    T02: StoredOffset(2, 2),
                }
                await two.load("g", [T00])
                await two.store("g", {T00: StoredOffset(7, 7)})

        run(test)

    def test_many_tasks_share_one_storage(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                for number in range(10):
                    async with anyio.create_task_group() as tasks:
                        for task in range(5):
                            offset = StoredOffset(10 * number + task, 0)
                            tasks.start_soon(storage.store, "g", {T00: offset})
                await storage.store("g", {T00: StoredOffset(1000, 0)})
                assert await storage.load("g", [T00]) == {T00: StoredOffset(1000, 0)}

        run(test)


class Place:
    """A storage on a registry in memory."""

    def __init__(self) -> None:
        self.registry = FakeRegistry()
        self.storage, self.nodes = self.open()

    def open(self) -> tuple[RegistryOffsets, FakeNodes]:
        discovery = Discovery(Servers.parse("zookeeper://fake:1"), 10.0)
        nodes = self.registry.open(discovery.wake)
        discovery._nodes = nodes.as_nodes()
        return RegistryOffsets(discovery), nodes

    @property
    def held(self) -> dict[str, bytes]:
        return self.registry.below(PATH)


def lose_answer(nodes: FakeNodes) -> None:
    def lose(call: str) -> None:
        if call == "write":
            nodes.after = lambda _call: None
            raise ConnectionLostError("fake", "the answer was lost")

    nodes.after = lose


async def test_the_form_is_that_of_java() -> None:
    place = Place()
    await place.storage.store("g", {T00: StoredOffset(70, 7), T01: StoredOffset(80, -1)})
    assert place.held == {"0-0": b"7-70", "0-1": b"-1-80"}
    place.registry.put(f"{PATH}/0-2", b"90")
    place.registry.put(f"{PATH}/0-1", b"")
    assert await place.storage.load("g", [T00, T01, T02]) == {
        T00: StoredOffset(70, 7),
        T02: StoredOffset(90, None),
    }


async def test_damage_is_told_with_its_place_and_nobody_guesses() -> None:
    place = Place()
    place.registry.put(f"{PATH}/0-0", b"seven")
    place.registry.put(f"{PATH}/0-1", b"1-10")
    place.registry.put(f"{PATH}/0-2", b"\xff")
    with pytest.raises(OffsetUnreadableError, match=r"0-0 holds b'seven'.*0-2.*repair it") as caught:
        await place.storage.load("g", [T00, T01, T02])
    assert caught.value.partitions == (T00, T02)
    assert await place.storage.load("g", [T01]) == {T01: StoredOffset(10, 1)}


async def test_an_offset_that_others_wrote_stays() -> None:
    place = Place()
    await place.storage.load("g", [T00])
    place.registry.put(f"{PATH}/0-0", b"9-99")
    for _ in range(2):
        with pytest.raises(OffsetConflictError, match="somebody else"):
            await place.storage.store("g", {T00: StoredOffset(1, 1)})
    assert place.held == {"0-0": b"9-99"}


async def test_a_node_that_was_removed_is_made_again() -> None:
    place = Place()
    await place.storage.store("g", {T00: StoredOffset(1, 1)})
    del place.registry.nodes[f"{PATH}/0-0"]
    await place.storage.store("g", {T00: StoredOffset(2, 2)})
    assert place.held == {"0-0": b"2-2"}


@pytest.mark.parametrize("is_new", [False, True])
async def test_a_write_whose_answer_was_lost_is_recognised(is_new: bool) -> None:
    place = Place()
    if not is_new:
        await place.storage.store("g", {T00: StoredOffset(1, 1)})
    else:
        await place.storage.load("g", [T00])
    lose_answer(place.nodes)
    with pytest.raises(OffsetStorageError, match="the answer was lost"):
        await place.storage.store("g", {T00: StoredOffset(2, 2)})
    assert place.held == {"0-0": b"2-2"}
    await place.storage.store("g", {T00: StoredOffset(3, 3)})
    await place.storage.store("g", {T00: StoredOffset(4, 4)})
    assert place.held == {"0-0": b"4-4"}


async def test_of_several_lost_answers_each_is_recognised() -> None:
    place = Place()
    await place.storage.load("g", [T00])
    for offset in (1, 2, 3):
        lose_answer(place.nodes)
        with pytest.raises(OffsetStorageError):
            await place.storage.store("g", {T00: StoredOffset(offset, 0)})
    await place.storage.store("g", {T00: StoredOffset(4, 0)})
    assert place.held == {"0-0": b"0-4"}


async def test_what_others_wrote_behind_a_lost_answer_is_a_conflict() -> None:
    place = Place()
    await place.storage.load("g", [T00])
    lose_answer(place.nodes)
    with pytest.raises(OffsetStorageError):
        await place.storage.store("g", {T00: StoredOffset(1, 0)})
    place.registry.put(f"{PATH}/0-0", b"0-50")
    with pytest.raises(OffsetConflictError):
        await place.storage.store("g", {T00: StoredOffset(2, 0)})
    assert place.held == {"0-0": b"0-50"}


async def test_without_a_connection_nothing_is_known() -> None:
    place = Place()
    place.nodes.disconnect()
    with pytest.raises(OffsetStorageError, match="not connected"):
        await place.storage.load("g", [T00])
    with pytest.raises(OffsetStorageError, match="not connected"):
        await place.storage.store("g", {T00: StoredOffset(1, 1)})
    place.nodes.connect()
    await place.storage.store("g", {T00: StoredOffset(2, 2)})
    assert place.held == {"0-0": b"2-2"}


async def test_what_the_registry_refuses_is_told() -> None:
    place = Place()

    def refuse(call: str) -> None:
        raise NodeFailedError(f"{PATH}/0-0", "NoAuth")

    place.nodes.before = refuse
    with pytest.raises(OffsetStorageError, match="NoAuth"):
        await place.storage.store("g", {T00: StoredOffset(1, 1)})
