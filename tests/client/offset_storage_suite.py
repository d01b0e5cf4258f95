"""What every storage of offsets must do; a class of tests that others inherit (docs/offset-storages.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import anyio
import pytest

from metaserver.client.partition import Partition
from metaserver.registry.paths import StoredOffset

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from metaserver.client.offsets import OffsetStorage

    Run = Callable[[Callable[[], Awaitable[None]]], None]
    Make: TypeAlias = Callable[[], AbstractAsyncContextManager[OffsetStorage]]

T00 = Partition("t", 0, 0)
T01 = Partition("t", 0, 1)
T10 = Partition("t", 1, 0)
U00 = Partition("u", 0, 0)
GROUPS = [
    "g",
    "G-1@x.y",
    "two words",
    "ünï日本🙂",
    'it\'s "quoted" \\ `here`',
    "%s %(group_id)s :group_id ?1 [offset] TABLE_HERE",
    "line\nbreak\ttab",
    "x" * 200,
]


class OffsetStorageSuite:
    """Give it a fixture ``make``: each call opens one more storage on the same, at first empty, place."""

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError

    def test_a_group_that_never_committed_has_no_offsets(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                assert await storage.load("g", [T00, U00]) == {}
                assert await storage.load("g", []) == {}

        run(test)

    def test_what_is_stored_is_loaded_and_nothing_else(self, run: Run, make: Make) -> None:
        async def test() -> None:
            stored = {T00: StoredOffset(7, 70), T10: StoredOffset(8, 80), U00: StoredOffset(9, 90)}
            async with make() as storage:
                await storage.store("g", stored)
                assert await storage.load("g", [T00, T01, T10, U00]) == stored
                assert await storage.load("g", [T10, T01]) == {T10: StoredOffset(8, 80)}
                assert await storage.load("other", [T00]) == {}

        run(test)

    def test_a_commit_changes_what_it_names_and_nothing_else(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                await storage.store("g", {T00: StoredOffset(1, 1), T01: StoredOffset(2, 2)})
                await storage.store("h", {T00: StoredOffset(3, 3)})
                await storage.store("g", {T01: StoredOffset(20, 22), U00: StoredOffset(4, 4)})
                await storage.store("g", {})
                assert await storage.load("g", [T00, T01, U00]) == {
                    T00: StoredOffset(1, 1),
                    T01: StoredOffset(20, 22),
                    U00: StoredOffset(4, 4),
                }
                assert await storage.load("h", [T00, T01, U00]) == {T00: StoredOffset(3, 3)}

        run(test)

    def test_the_same_once_more_and_an_offset_that_goes_back(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                for at in (StoredOffset(9, 9), StoredOffset(9, 9), StoredOffset(0, -1)):
                    await storage.store("g", {T00: at})
                    assert await storage.load("g", [T00]) == {T00: at}

        run(test)

    @pytest.mark.parametrize("offset", [0, 1, 2**31, 2**32 + 1, 2**53 + 1, 2**63 - 1])
    @pytest.mark.parametrize("message_id", [-(2**63), -5, -1, 0, 2**53 + 1, 2**63 - 1])
    def test_numbers_of_64_bits(self, run: Run, make: Make, offset: int, message_id: int) -> None:
        async def test() -> None:
            async with make() as storage:
                await storage.store("g", {T00: StoredOffset(offset, message_id)})
                assert await storage.load("g", [T00]) == {T00: StoredOffset(offset, message_id)}

        run(test)

    def test_an_id_that_is_not_known(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                await storage.store("g", {T00: StoredOffset(5, 6)})
                await storage.store("g", {T00: StoredOffset(7, None)})
                assert (await storage.load("g", [T00]))[T00] in (StoredOffset(7, None), StoredOffset(7, -1))

        run(test)

    def test_groups_and_topics_of_any_characters(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                for number, name in enumerate(GROUPS):
                    await storage.store(name, {Partition(name, 0, 0): StoredOffset(number, number)})
                for number, name in enumerate(GROUPS):
                    asked = [Partition(topic, 0, 0) for topic in GROUPS]
                    assert await storage.load(name, asked) == {
                        Partition(name, 0, 0): StoredOffset(number, number)
                    }

        run(test)

    def test_it_is_there_when_the_storage_is_opened_again(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                await storage.store("g", {T00: StoredOffset(1, 2)})
            async with make() as storage:
                assert await storage.load("g", [T00]) == {T00: StoredOffset(1, 2)}
                await storage.store("g", {T01: StoredOffset(3, 4)})
            async with make() as storage:
                assert len(await storage.load("g", [T00, T01])) == 2

        run(test)

    def test_two_storages_at_one_place_at_once(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async def commit(storage: OffsetStorage, broker_id: int) -> None:
                for offset in range(8):
                    at = StoredOffset(offset, broker_id)
                    await storage.store("g", {Partition("t", broker_id, 0): at, U00: at})

            async with make() as one, make() as two, anyio.create_task_group() as tasks:
                for broker_id in range(3):
                    tasks.start_soon(commit, one, broker_id)
                    tasks.start_soon(commit, two, broker_id + 3)
            async with make() as three:
                got = await three.load("g", [U00, *(Partition("t", broker_id, 0) for broker_id in range(6))])
            assert got.pop(U00).offset == 7
            assert got == {Partition("t", number, 0): StoredOffset(7, number) for number in range(6)}

        run(test)

    def test_commits_of_one_task_after_another_stay_in_order(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                async with anyio.create_task_group() as tasks:
                    for broker_id in range(5):
                        offsets = {Partition("t", broker_id, 0): StoredOffset(1, 1)}
                        tasks.start_soon(storage.store, "g", offsets)
                await storage.store("g", {T00: StoredOffset(2, 2)})
                got = await storage.load("g", [Partition("t", broker_id, 0) for broker_id in range(5)])
                assert [at.offset for _, at in sorted(got.items())] == [2, 1, 1, 1, 1]

        run(test)

    def test_cancelled_before_it_begins(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                await storage.store("g", {T00: StoredOffset(1, 1)})
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await storage.store("g", {T00: StoredOffset(2, 2), T01: StoredOffset(2, 2)})
                got = await storage.load("g", [T00, T01])
                assert got in ({T00: StoredOffset(1, 1)}, dict.fromkeys([T00, T01], StoredOffset(2, 2)))
                await storage.store("g", {T00: StoredOffset(3, 3)})
                assert (await storage.load("g", [T00]))[T00] == StoredOffset(3, 3)

        run(test)

    def test_closing_twice(self, run: Run, make: Make) -> None:
        async def test() -> None:
            async with make() as storage:
                await storage.store("g", {T00: StoredOffset(1, 1)})
                await storage.aclose()
                await storage.aclose()

        run(test)
