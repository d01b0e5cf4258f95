"""Messages on the client's disk, on trio and on asyncio."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import product
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.client import local_store
from metaserver.client.local_store import LocalMessage, LocalStore, StoredMessage
from metaserver.errors import LocalStoreError
from tests.support import ROOT, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Run = Callable[[Callable[[], Awaitable[None]]], None]

FULL = LocalMessage(
    topic="t",
    payload=b"\0payload\xff",
    attribute="",
    partition="3-1",
    group="g@x",
    message_id=-(2**63),
    offset=2**63 - 1,
    reason="it \udcff failed\0",
    attempts=6,
)


def told(topic: str = "t", partition: str = "", group: str = "", payload: bytes = b"") -> LocalMessage:
    return LocalMessage(topic=topic, partition=partition, group=group, payload=payload)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_a_message_comes_back_as_it_was(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path, wall_clock=lambda: 1234.5) as store:
            key = await store.add(FULL)
        async with LocalStore.open(path) as store:
            got = await store.get(key)
            fields = attrs.asdict(FULL) | {"reason": "it \\udcff failed\0"}
            assert got == StoredMessage(**fields, key=key, stored_wall_seconds=1234.5)
            bare = await store.get(await store.add(told()))
            assert bare is not None
            assert (bare.attribute, bare.message_id, bare.offset) == (None, None, None)

    run(test)


def test_the_oldest_first_and_on_from_a_key(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            keys = await store.add_many([told(payload=b"%d" % number) for number in range(5)])
            assert keys == sorted(set(keys))
            assert [message.key for message in await store.first(3)] == keys[:3]
            assert [m.payload for m in await store.first(9, after_key=keys[2])] == [b"3", b"4"]
            assert await store.first(9, after_key=keys[-1]) == []
            assert await store.first(0) == []

    run(test)


def test_some_of_them_only(run: Run, path: Path) -> None:
    async def test() -> None:
        places = list(product(("t", "u"), ("", "0-1"), ("", "g")))
        async with LocalStore.open(path) as store:
            keys = await store.add_many([told(*place) for place in places])
            for wanted in product(("t", "u", "none", None), ("", "0-1", None), ("", "g", None)):
                topic, partition, group = wanted
                expected = [
                    key
                    for place, key in zip(places, keys, strict=True)
                    if all(want in (None, there) for want, there in zip(wanted, place, strict=True))
                ]
                got = await store.first(99, topic=topic, partition=partition, group=group)
                assert [message.key for message in got] == expected
                assert await store.count(topic=topic, partition=partition, group=group) == len(expected)
            assert await store.topics() == ["t", "u"]

    run(test)


def test_what_is_removed_is_gone_and_its_key_is_not_given_again(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            one, two, three = await store.add_many([told("a"), told("b"), told("c")])
            assert await store.remove([two, three, three, 999]) == 2
            assert await store.remove([]) == 0
            assert await store.get(three) is None
            assert await store.topics() == ["a"]
            assert await store.count() == 1
        async with LocalStore.open(path) as store:
            assert [message.key for message in await store.first(9)] == [one]
            assert await store.add(told()) > three

    run(test)


def test_attempts_in_vain_are_counted(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            key = await store.add(FULL)
            assert await store.note_failure(key, "again \udc80")
            got = await store.get(key)
            assert got is not None
            assert (got.attempts, got.reason) == (7, "again \\udc80")
            assert not await store.note_failure(key + 1, "nobody")

    run(test)


def test_full_is_an_error_that_keeps_nothing_of_the_call(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path, messages_max=3) as store:
            await store.add_many([told(), told()])
            with pytest.raises(LocalStoreError, match=f"{path}: it is full: 2 messages, of 3"):
                await store.add_many([told(), told()])
            assert await store.count() == 2
            key = await store.add(told())
            with pytest.raises(LocalStoreError, match="full"):
                await store.add(told())
            await store.remove([key])
            await store.add(told())

    run(test)


def test_an_error_of_the_disk_is_told_and_the_store_goes_on(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            key = await store.add(told())
            (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
            store._connection.execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(LocalStoreError, match="disk is full"):
                await store.add(told(payload=bytes(1_000_000)))
            store._connection.execute(f"PRAGMA max_page_count = {pages * 1000}")
            assert [message.key for message in await store.first(9)] == [key]
            await store.add(told(payload=bytes(1_000_000)))

    run(test)


@pytest.mark.parametrize(
    "message",
    [
        attrs.evolve(FULL, message_id=2**63),
        attrs.evolve(FULL, topic="\udc80"),
        attrs.evolve(FULL, payload=None),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_kept_is_refused(run: Run, path: Path, message: LocalMessage) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            with pytest.raises(LocalStoreError, match=str(path)):
                await store.add_many([told(), message])
            assert await store.count() == 0
            await store.add(told())

    run(test)


def test_a_file_that_is_no_database_is_left_as_it_is(run: Run, path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)

    async def test() -> None:
        with pytest.raises(LocalStoreError, match=f"{path}: the file is damaged.*recover"):
            async with LocalStore.open(path):
                pass

    run(test)
    assert path.read_bytes() == b"not a database " * 1000


@pytest.mark.parametrize(
    ("made_by", "reason"),
    [
        ("CREATE TABLE message (key INTEGER)", "no local store"),
        ("PRAGMA application_id = 77", "no local store"),
        (f"PRAGMA application_id = {0x4D515331}; PRAGMA user_version = 2; CREATE TABLE x (y)", "format 2"),
    ],
)
def test_a_database_of_others_is_left_as_it_is(run: Run, path: Path, made_by: str, reason: str) -> None:
    with closing(sqlite3.connect(path)) as link:
        link.executescript(made_by)
    before = path.read_bytes()

    async def test() -> None:
        with pytest.raises(LocalStoreError, match=reason):
            async with LocalStore.open(path):
                pass

    run(test)
    assert path.read_bytes() == before


def test_damage_inside_is_named(run: Run, path: Path) -> None:
    async def fill() -> None:
        async with LocalStore.open(path) as store:
            await store.add_many([told(payload=bytes(3000)) for _ in range(20)])

    async def test() -> None:
        with pytest.raises(LocalStoreError, match=f"{path}: the file is damaged"):
            async with LocalStore.open(path) as store:
                await store.first(99)

    run(fill)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    run(test)


def test_no_directory(run: Run, tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(LocalStoreError, match="unable to open"):
            async with LocalStore.open(tmp_path / "none" / "store"):
                pass

    run(test)


def test_closed_is_an_error_and_so_is_a_file_that_another_one_holds(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            pass
        with pytest.raises(LocalStoreError, match="closed"):
            await store.add(told())
        monkeypatch.setattr(local_store, "BUSY_SECONDS", 0.0)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            async with LocalStore.open(path) as store:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(LocalStoreError, match="another process"):
                    await store.add(told())
                with pytest.raises(LocalStoreError, match="another process"):
                    async with LocalStore.open(path):
                        pass
                assert await store.count() == 0
                other.execute("ROLLBACK")
                await store.add(told())

    run(test)


def test_a_file_that_others_are_about_to_make_is_waited_for(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = local_store._connect

    async def test() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN EXCLUSIVE")
            outcomes = []

            def connect_and_release(path: Path) -> sqlite3.Connection | None:
                with monkeypatch.context() as patch:
                    patch.setattr(local_store, "BUSY_SECONDS", 0.0)
                    outcomes.append(connect(path))
                if len(outcomes) == 1:
                    other.execute("ROLLBACK")
                return outcomes[-1]

            monkeypatch.setattr(local_store, "_connect", connect_and_release)
            async with LocalStore.open(path) as store:
                await store.add(told())
            assert len(outcomes) == 2
            assert outcomes[0] is None

    run(test)


def test_many_stores_open_one_new_file_at_once(run: Run, path: Path) -> None:
    async def test() -> None:
        async def work(number: int) -> None:
            async with LocalStore.open(path) as store:
                for index in range(5):
                    await store.add(told(str(number), payload=b"%d" % index))

        async with anyio.create_task_group() as tasks:
            for number in range(6):
                tasks.start_soon(work, number)
        async with LocalStore.open(path) as store:
            assert await store.count() == 30
            for number in range(6):
                got = await store.first(9, topic=str(number))
                assert [message.payload for message in got] == [b"0", b"1", b"2", b"3", b"4"]

    run(test)


def test_a_cancelled_call_changes_nothing_or_is_done(run: Run, path: Path) -> None:
    async def test() -> None:
        async with LocalStore.open(path) as store:
            returned = []

            async def add() -> None:
                returned.append(await store.add(told()))

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(add)
                while not returned:
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            assert [message.key for message in await store.first(99)] == returned
            assert len(returned) < 10

    run(test)


places = st.tuples(st.sampled_from(["t", "u"]), st.sampled_from(["", "0-1"]), st.sampled_from(["", "g"]))
steps = st.one_of(
    st.lists(places, max_size=3),
    st.sets(st.integers(1, 15), max_size=4),
    st.none(),  # open it again
)


@given(st.lists(steps, max_size=12), st.sampled_from(["trio", "asyncio"]))
def test_like_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory,
    program: list[list[tuple[str, str, str]] | set[int] | None],
    backend: str,
) -> None:
    path = tmp_path_factory.mktemp("model") / "store"
    model: dict[int, tuple[str, str, str]] = {}

    async def compare(store: LocalStore) -> None:
        got = await store.first(99)
        assert [(m.key, (m.topic, m.partition, m.group)) for m in got] == sorted(model.items())
        assert await store.topics() == sorted({topic for topic, _, _ in model.values()})
        for topic, partition, group in set(model.values()):
            same = await store.count(topic=topic, partition=partition, group=group)
            assert same == list(model.values()).count((topic, partition, group))

    async def act() -> None:
        last, remaining = 0, list(program)
        while remaining:
            async with LocalStore.open(path, messages_max=8) as store:
                while remaining and (step := remaining.pop(0)) is not None:
                    if isinstance(step, set):
                        assert await store.remove(step) == len(step & model.keys())
                        for key in step:
                            model.pop(key, None)
                    elif len(model) + len(step) > 8:
                        with pytest.raises(LocalStoreError, match="full"):
                            await store.add_many([told(*place) for place in step])
                    else:
                        keys = await store.add_many([told(*place) for place in step])
                        assert keys == list(range(last + 1, last + 1 + len(step)))
                        last += len(step)
                        model.update(zip(keys, step, strict=True))
                    await compare(store)

    anyio.run(act, backend=backend)


_KILLS = 60 if os.environ.get("METASERVER_LONG") else 5
_PROGRAM = """\
import os, sys, anyio
from metaserver.client.local_store import LocalMessage, LocalStore

async def main():
    async with LocalStore.open(sys.argv[1]) as store:
        number = int(sys.argv[2])
        while True:
            key = await store.add(LocalMessage(topic="t", payload=b"%d" % number))
            os.write(1, b"+%d %d\\n" % (key, number))
            number += 1
            if number % 3 == 0:
                os.write(1, b"?%d\\n" % key)
                await store.remove([key])
                os.write(1, b"-%d\\n" % key)

anyio.run(main, backend=sys.argv[3])
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_killed_at_any_moment_it_has_what_was_added_and_not_what_was_removed(
    path: Path, backend: str
) -> None:
    added: dict[int, bytes] = {}
    removing: set[int] = set()
    removed: set[int] = set()
    for kill in range(_KILLS):
        output = path.with_suffix(f".{kill}")
        with output.open("wb") as stdout:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(path), str(len(added)), backend], cwd=ROOT, stdout=stdout
            )
        lines_min = 1 + 17 * kill

        def has_worked(output: Path = output, lines_min: int = lines_min) -> bool:
            return output.read_bytes().count(b"\n") >= lines_min

        try:
            eventually(has_worked, "some messages are added")
        finally:
            process.kill()
            process.wait()
        for line in output.read_bytes().splitlines():
            key, _, text = line[1:].partition(b" ")
            match line[:1]:
                case b"+":
                    added[int(key)] = text
                case b"?":
                    removing.add(int(key))
                case b"-":
                    removed.add(int(key))
        there = anyio.run(_everything, path, backend=backend)
        assert not there.keys() & removed
        must = added.keys() - removing
        assert {key: there.get(key) for key in must} == {key: added[key] for key in must}
        untold = there.keys() - added.keys()
        assert len(untold) <= kill + 1, "each kill hides at most one message that was added"
    assert removed


async def _everything(path: Path) -> dict[int, bytes]:
    async with LocalStore.open(path) as store:
        there = {message.key: message.payload for message in await store.first(10**6)}
        assert await store.count() == len(there)
    return there
