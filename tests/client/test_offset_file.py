"""The file of offsets: its format, damage, and others at the same file."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from metaserver.client.offsets import FileOffsets
from metaserver.client.partition import Partition
from metaserver.errors import OffsetStorageError
from metaserver.registry.paths import StoredOffset
from tests.support import ROOT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Run = Callable[[Callable[[], Awaitable[None]]], None]

OF_JAVA = (
    b'{"java":[{"offset":4096,"topic":"t","partition":{"partition":2,"brokerId":0},"modified":false,'
    b'"messageId":-77}],"g":[{"offset":12,"topic":"t","partition":{"partition":1,"brokerId":0},'
    b'"modified":true,"messageId":-1}]}'
)
"""Written by LocalOffsetStorage of 1.4.6.2."""
T01, T02 = Partition("t", 0, 1), Partition("t", 0, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "offsets"


def load(path: Path, group: str, *partitions: Partition) -> dict[Partition, StoredOffset]:
    return anyio.run(FileOffsets(path).load, group, partitions)


def store(path: Path, group: str, offsets: dict[Partition, StoredOffset]) -> None:
    anyio.run(FileOffsets(path).store, group, offsets)


def content(path: Path) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = json.loads(path.read_bytes())
    return groups


def test_a_file_of_the_java_client_is_read(path: Path) -> None:
    path.write_bytes(OF_JAVA)
    assert load(path, "java", T01, T02) == {T02: StoredOffset(4096, -77)}
    assert load(path, "g", T01, T02) == {T01: StoredOffset(12, -1)}


def test_the_form_of_what_is_written(path: Path) -> None:
    store(path, "gü", {T01: StoredOffset(12, 7), T02: StoredOffset(13, None)})
    place = '"topic":"t","partition":{"brokerId":0,"partition":%d}'
    assert path.read_text(encoding="ascii") == (
        f'{{"g\\u00fc":[{{{place % 1},"offset":12,"messageId":7,"modified":false}},'
        f'{{{place % 2},"offset":13,"modified":false}}]}}'
    )


@pytest.mark.parametrize("blank", [b"", b" \n"])
def test_blank_is_a_file_without_groups(path: Path, blank: bytes) -> None:
    path.write_bytes(blank)
    assert load(path, "g", T01) == {}
    store(path, "g", {T01: StoredOffset(1, 1)})
    assert load(path, "g", T01) == {T01: StoredOffset(1, 1)}


def test_what_is_not_ours_stays(path: Path) -> None:
    odd = {"topic": "u", "partition": {"brokerId": 1, "partition": 0, "acked": True}, "offset": 5, "x": [1]}
    path.write_text(
        json.dumps({"g": [odd, {**odd, "topic": "v"}], "none": None, "h": [odd]}), encoding="utf-8"
    )
    store(path, "g", {T01: StoredOffset(1, 1), Partition("u", 1, 0): StoredOffset(6, 60)})
    store(path, "none", {T01: StoredOffset(2, 2)})
    after = content(path)
    assert after["h"] == [odd]
    assert {**odd, "topic": "v"} in after["g"]
    assert {**odd, "offset": 6, "messageId": 60, "modified": False} in after["g"]
    assert len(after["g"]) == 3
    assert len(after["none"]) == 1


def test_of_two_entries_for_one_partition_the_last_counts_and_one_remains(path: Path) -> None:
    entry = {"topic": "t", "partition": {"brokerId": 0, "partition": 1}, "offset": 5}
    path.write_text(json.dumps({"g": [entry, {**entry, "offset": 4}]}), encoding="utf-8")
    assert load(path, "g", T01) == {T01: StoredOffset(4, None)}
    store(path, "g", {T01: StoredOffset(9, 9)})
    assert [entry["offset"] for entry in content(path)["g"]] == [9]


ENTRY: dict[str, Any] = {
    "topic": "t",
    "partition": {"brokerId": 0, "partition": 1},
    "offset": 5,
    "messageId": 6,
}


@pytest.mark.parametrize(
    "damaged",
    [
        OF_JAVA[:-1],
        OF_JAVA[:60],
        b"\0" * 100,
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b'{"g":{}}',
        b'{"g":[1]}',
        *(
            json.dumps({"fine": [ENTRY], "g": [entry]}).encode()
            for entry in (
                {},
                {**ENTRY, "topic": None},
                {**ENTRY, "partition": 7},
                {**ENTRY, "partition": {"brokerId": 0}},
                {**ENTRY, "partition": {"brokerId": "0", "partition": 1}},
                {**ENTRY, "offset": "5"},
                {**ENTRY, "offset": True},
                {**ENTRY, "offset": 5.5},
                {**ENTRY, "messageId": "x"},
            )
        ),
    ],
)
def test_a_damaged_file_is_named_and_left_as_it_is(path: Path, damaged: bytes) -> None:
    path.write_bytes(damaged)
    with pytest.raises(OffsetStorageError, match=f"{path}: the file is damaged: .*: repair it, or move it"):
        load(path, "fine", T01)
    with pytest.raises(OffsetStorageError, match="damaged"):
        store(path, "other", {T01: StoredOffset(1, 1)})
    assert path.read_bytes() == damaged


def test_no_directory_and_no_right(path: Path, tmp_path: Path) -> None:
    assert load(tmp_path / "none" / "offsets", "g", T01) == {}
    with pytest.raises(OffsetStorageError, match="No such file or directory"):
        store(tmp_path / "none" / "offsets", "g", {T01: StoredOffset(1, 1)})
    path.mkdir()
    with pytest.raises(OffsetStorageError, match="directory"):
        load(path, "g", T01)


def test_the_file_is_in_the_home_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    anyio.run(FileOffsets().store, "g", {T01: StoredOffset(1, 1)})
    assert load(tmp_path / ".meta_offsets", "g", T01) == {T01: StoredOffset(1, 1)}


def test_a_link_stays_a_link_and_the_mode_stays(path: Path, tmp_path: Path) -> None:
    path.write_bytes(OF_JAVA)
    path.chmod(0o640)
    link = tmp_path / "folder" / "link"
    link.parent.mkdir()
    link.symlink_to(path)
    store(link, "g", {T01: StoredOffset(1, 1)})
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert load(path, "g", T01) == {T01: StoredOffset(1, 1)}
    assert sorted(child.name for child in tmp_path.iterdir()) == ["folder", "offsets", "offsets.lock"]


def test_the_file_is_synced_then_put_in_place_then_its_directory_is_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    sync, replace = os.fsync, Path.replace

    def telling_sync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def telling_replace(self: Path, target: Path) -> Path:
        calls.append(f"replace {target.name} by {self.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", telling_sync)
    monkeypatch.setattr(Path, "replace", telling_replace)
    store(path, "g", {T01: StoredOffset(1, 1)})
    assert calls == ["sync offsets.new", "replace offsets by offsets.new", f"sync {path.parent.name}"]


def test_a_sync_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(OF_JAVA)

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OffsetStorageError, match=f"{path}: Input/output error"):
            store(path, "g", {T01: StoredOffset(1, 1)})
    assert path.read_bytes() == OF_JAVA
    store(path, "g", {T01: StoredOffset(2, 2)})
    assert load(path, "g", T01) == {T01: StoredOffset(2, 2)}


def lock(path: Path) -> int:
    descriptor = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_a_file_that_another_one_holds_is_waited_for_in_order(
    run: Run, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = lock(path)

    async def test() -> None:
        storage, tries = FileOffsets(path), []
        try_store = FileOffsets._try_store

        def counting(self: FileOffsets, group: str, offsets: dict[Partition, StoredOffset]) -> bool:
            tries.append(try_store(self, group, offsets))
            if len(tries) == 3:
                os.close(held)
            return tries[-1]

        monkeypatch.setattr(FileOffsets, "_try_store", counting)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(storage.store, "g", {T01: StoredOffset(1, 1)})
            while not tries:
                await anyio.lowlevel.checkpoint()
            await storage.store("g", {T01: StoredOffset(2, 2)})
        assert tries == [False, False, False, True, True], "the second waits for the first"
        assert await storage.load("g", [T01]) == {T01: StoredOffset(2, 2)}

    run(test)


def test_a_wait_for_the_lock_ends_with_an_error_or_a_cancellation(run: Run, path: Path) -> None:
    held = lock(path)

    async def test() -> None:
        impatient = FileOffsets(path, lock_seconds=0.0)
        with pytest.raises(OffsetStorageError, match="another process has kept it locked for 0 s"):
            await impatient.store("g", {T01: StoredOffset(1, 1)})
        patient = FileOffsets(path, lock_seconds=10_000.0)
        with anyio.move_on_after(0) as scope:
            await patient.store("g", {T01: StoredOffset(1, 1)})
        assert scope.cancelled_caught
        assert await patient.load("g", [T01]) == {}

    run(test)
    os.close(held)


_PROGRAM = """\
import sys, anyio
from metaserver.client.offsets import FileOffsets
from metaserver.client.partition import Partition
from metaserver.registry.paths import StoredOffset

async def main():
    storage = FileOffsets(sys.argv[1], lock_seconds=60)
    for offset in range(30):
        await storage.store(f"g{int(sys.argv[2]) % 2}", {Partition("t", int(sys.argv[2]), 0): StoredOffset(offset, 1)})

anyio.run(main)
"""


def test_processes_at_one_file_do_not_overwrite_each_other(path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(path)]
    processes = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(4)]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    for number in range(4):
        partition = Partition("t", number, 0)
        assert load(path, f"g{number % 2}", partition) == {partition: StoredOffset(29, 1)}


groups = st.sampled_from(["g", "h", 'ü"\\'])
partitions = st.builds(Partition, st.sampled_from(["t", "u"]), st.integers(0, 1), st.integers(0, 1))
longs = st.integers(-(2**63), 2**63 - 1)
offsets = st.dictionaries(partitions, st.builds(StoredOffset, longs, st.none() | longs), max_size=4)


class FileOffsetsMachine(RuleBasedStateMachine):
    """The file beside a dictionary, through several storages."""

    @initialize(backend=st.sampled_from(["trio", "asyncio"]))
    def begin(self, backend: str) -> None:
        self.backend = backend
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "offsets"
        self.model: dict[str, dict[Partition, StoredOffset]] = {}

    @rule(group=groups, offsets=offsets)
    def store(self, group: str, offsets: dict[Partition, StoredOffset]) -> None:
        anyio.run(FileOffsets(self.path).store, group, offsets, backend=self.backend)
        self.model.setdefault(group, {}).update(offsets)

    @rule(commits=st.lists(st.tuples(groups, offsets), max_size=4))
    def store_at_once(self, commits: list[tuple[str, dict[Partition, StoredOffset]]]) -> None:
        async def act() -> None:
            storage = FileOffsets(self.path)
            async with anyio.create_task_group() as tasks:
                for group, offsets in commits:
                    tasks.start_soon(storage.store, group, offsets)
                    await anyio.lowlevel.checkpoint()

        anyio.run(act, backend=self.backend)
        for group, offsets in commits:
            self.model.setdefault(group, {}).update(offsets)

    @rule(group=groups, wanted=st.lists(partitions, max_size=5))
    def load(self, group: str, wanted: list[Partition]) -> None:
        got = anyio.run(FileOffsets(self.path).load, group, wanted, backend=self.backend)
        known = self.model.get(group, {})
        assert got == {partition: known[partition] for partition in wanted if partition in known}

    @invariant()
    def the_file_holds_just_that(self) -> None:
        groups = content(self.path) if self.path.exists() else {}
        assert {group: len(entries) for group, entries in groups.items()} == {
            group: len(known) for group, known in self.model.items() if known
        }

    def teardown(self) -> None:
        self.directory.cleanup()


TestFileOffsetsMachine = FileOffsetsMachine.TestCase
TestFileOffsetsMachine.settings = settings(stateful_step_count=12)
