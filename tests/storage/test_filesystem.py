"""One suite for both: a simulated filesystem that passes the real one's tests is not a lie."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from metaserver.errors import DirectoryLockedError
from metaserver.storage import Point, RealFileSystem
from metaserver.storage.filesystem import make_directories
from tests.storage.faulty_filesystem import FaultyFileSystem

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaserver.message import Buffer
    from metaserver.storage import FileSystem
    from metaserver.storage.filesystem import OpenMode

POINT = Point.APPEND_WRITE


@pytest.fixture(params=["real", "simulated"])
def filesystem(request: pytest.FixtureRequest) -> FileSystem:
    return RealFileSystem() if request.param == "real" else FaultyFileSystem()


@pytest.fixture
def directory(filesystem: FileSystem, tmp_path: Path) -> Path:
    path = tmp_path / "made" / "here"
    make_directories(filesystem, path)
    return path


def test_directories_are_made_with_their_parents(filesystem: FileSystem, directory: Path) -> None:
    assert filesystem.is_directory(directory)
    assert filesystem.list_directory(directory.parent) == ["here"]
    assert not filesystem.is_directory(directory / "absent")
    make_directories(filesystem, directory)
    with pytest.raises(FileExistsError):
        filesystem.make_directory(directory, POINT)
    with pytest.raises(FileNotFoundError):
        filesystem.list_directory(directory / "absent")


def test_two_threads_that_lack_the_same_parent(tmp_path: Path) -> None:
    """As two partitions do that put something into quarantine at once: both would make its directory."""
    both_look = threading.Barrier(2)

    class Watched(RealFileSystem):
        def is_directory(self, path: Path) -> bool:
            found = super().is_directory(path)
            if path == tmp_path / "parent":
                # Both here before either goes on, unless one of them is kept from looking.
                with suppress(threading.BrokenBarrierError):
                    both_look.wait(0.2)
            return found

    names = [tmp_path / "parent" / name for name in ("one", "two")]
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(make_directories, Watched()), names))
    assert all(name.is_dir() for name in names)


def test_write_and_read_at_positions(filesystem: FileSystem, directory: Path) -> None:
    file = filesystem.open(directory / "file", "create", POINT)
    file.write([b"abc", bytearray(b"def"), memoryview(b"ghi"), b""], 0, POINT)
    file.write([b"XY"], 4, POINT)
    file.write([b"end"], 12, POINT)
    file.sync(POINT)
    assert file.read(100, 0) == b"abcdXYghi\0\0\0end"
    assert file.read(2, 3) == b"dX"
    assert file.read(2, 50) == b""
    assert file.size() == filesystem.size(directory / "file") == 15
    file.truncate(4, POINT)
    assert file.read(100, 0) == b"abcd"
    file.close()
    file.close()
    with pytest.raises(OSError):
        file.read(1, 0)


def test_modes(filesystem: FileSystem, directory: Path) -> None:
    path = directory / "file"
    modes: tuple[OpenMode, ...] = ("write", "read")
    for mode in modes:
        with pytest.raises(FileNotFoundError):
            filesystem.open(path, mode, POINT)
    first = filesystem.open(path, "create", POINT)
    first.write([b"old"], 0, POINT)
    with pytest.raises(FileExistsError):
        filesystem.open(path, "create", POINT)
    assert filesystem.open(path, "read", POINT).read(9, 0) == b"old"
    filesystem.open(path, "write", POINT).write([b"OLD"], 0, POINT)
    assert first.read(9, 0) == b"OLD"
    assert filesystem.open(path, "replace", POINT).size() == 0
    # Another name of the old file, as a crash in a rename may leave one, keeps what it had.
    assert first.read(9, 0) == b"OLD"


def test_rename_replaces_and_open_files_live_on(filesystem: FileSystem, directory: Path) -> None:
    source, target = directory / "source", directory / "target"
    filesystem.open(source, "create", POINT).write([b"new"], 0, POINT)
    old = filesystem.open(target, "create", POINT)
    old.write([b"old"], 0, POINT)
    filesystem.rename(source, target, POINT)
    filesystem.sync_directory(directory, POINT)
    assert filesystem.list_directory(directory) == ["target"]
    assert filesystem.open(target, "read", POINT).read(9, 0) == b"new"
    filesystem.remove(target, POINT)
    assert filesystem.list_directory(directory) == []
    assert old.read(9, 0) == b"old"
    with pytest.raises(FileNotFoundError):
        filesystem.remove(target, POINT)


def test_lock_names_its_owner_and_is_gone_after_release(filesystem: FileSystem, directory: Path) -> None:
    path = directory / ".lock"
    lock = filesystem.lock(path, "pid 1 on host a")
    with pytest.raises(DirectoryLockedError) as caught:
        filesystem.lock(path, "pid 2")
    assert (caught.value.path, caught.value.owner) == (directory, "pid 1 on host a")
    lock.release()
    lock.release()
    assert filesystem.list_directory(directory) == []
    filesystem.lock(path, "pid 2").release()


def test_free_space_and_time_of_change(filesystem: FileSystem, directory: Path) -> None:
    filesystem.open(directory / "file", "create", POINT).write([b"x"], 0, POINT)
    assert filesystem.free_bytes(directory) > 0
    assert filesystem.modified_seconds(directory / "file") > 1_500_000_000


def test_a_lock_file_left_behind_does_not_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("pid 77, long gone", encoding="utf-8")
    lock = RealFileSystem().lock(tmp_path / ".lock", "pid 78")
    assert (tmp_path / ".lock").read_text(encoding="utf-8") == "pid 78\n"
    lock.release()


def test_a_lock_whose_file_was_replaced_meanwhile_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ".lock"
    really_open = os.open
    opened: list[int] = []

    def open_then_lose(*arguments: object, **keywords: object) -> int:
        descriptor = really_open(*arguments, **keywords)  # type: ignore[arg-type]
        opened.append(descriptor)
        if len(opened) == 1:
            # Between open and flock the owner goes: the file we hold has no name any more.
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", open_then_lose)
    lock = RealFileSystem().lock(path, "pid 78")
    assert len(opened) == 2
    assert path.read_text(encoding="utf-8") == "pid 78\n"
    lock.release()


@pytest.mark.parametrize("written_at_most", [1, 7, 100])
def test_short_writes_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written_at_most: int
) -> None:
    really_write = os.pwritev

    def write_little(descriptor: int, buffers: Sequence[Buffer], position: int) -> int:
        data = b"".join(buffers)[:written_at_most]
        return really_write(descriptor, [data], position)

    monkeypatch.setattr(os, "pwritev", write_little)
    file = RealFileSystem().open(tmp_path / "file", "create", POINT)
    buffers = [b"%d," % number * 3 for number in range(30)] + [b""]
    file.write(buffers, 5, POINT)
    assert file.read(1000, 5) == b"".join(buffers)


def test_more_buffers_than_one_call_takes(tmp_path: Path) -> None:
    file = RealFileSystem().open(tmp_path / "file", "create", POINT)
    buffers = [b"%05d" % number for number in range(5000)]
    file.write(buffers, 0, POINT)
    assert file.read(30_000, 0) == b"".join(buffers)


def test_a_real_file_has_a_descriptor_for_sendfile(tmp_path: Path) -> None:
    file = RealFileSystem().open(tmp_path / "file", "create", POINT)
    file.write([b"content"], 0, POINT)
    assert os.pread(file.fileno(), 7, 0) == b"content"
    file.close()


def test_positioned_calls_of_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    file = RealFileSystem().open(tmp_path / "file", "create", POINT)

    def write(lane: int) -> None:
        for row in range(200):
            file.write([bytes([lane]) * 10], (row * 4 + lane) * 10, POINT)

    threads = [threading.Thread(target=write, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert file.read(8000, 0) == b"".join(bytes([lane]) * 10 for _ in range(200) for lane in range(4))


# The simulated one alone: what it forgets.


def test_a_power_cut_loses_what_was_not_synced() -> None:
    filesystem = FaultyFileSystem()
    directory = Path("/data")
    make_directories(filesystem, directory)
    kept = filesystem.open(directory / "kept", "create", POINT)
    kept.write([b"one"], 0, POINT)
    kept.sync(POINT)
    filesystem.sync_directory(directory, POINT)
    kept.write([b"two"], 3, POINT)
    lost = filesystem.open(directory / "lost", "create", POINT)
    lost.write([b"three"], 0, POINT)
    lost.sync(POINT)
    filesystem.cut_power("nothing")
    assert filesystem.list_directory(directory) == ["kept"]
    assert filesystem.read_bytes(directory / "kept") == b"one"


def test_after_a_failed_sync_the_next_one_lies() -> None:
    from tests.storage.faulty_filesystem import Fault

    filesystem = FaultyFileSystem(fault=Fault(Point.APPEND_SYNC, 0, "EIO"))
    make_directories(filesystem, Path("/data"))
    file = filesystem.open(Path("/data/file"), "create", POINT)
    filesystem.sync_directory(Path("/data"), POINT)
    file.write([b"lost"], 0, POINT)
    with pytest.raises(OSError):
        file.sync(Point.APPEND_SYNC)
    file.sync(Point.APPEND_SYNC)
    assert file.read(9, 0) == b"lost"
    filesystem.cut_power("everything")
    assert filesystem.read_bytes(Path("/data/file")) == b""
