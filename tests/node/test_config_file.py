from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from metaserver.node.config_file import VERSIONS_MAX, replace_file

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "server.ini"
    path.write_bytes(b"0")
    path.chmod(0o640)
    return path


def held(path: Path) -> dict[str, bytes]:
    return {found.name.removeprefix(path.name): found.read_bytes() for found in path.parent.iterdir()}


def test_the_versions_before_stay(path: Path) -> None:
    for number in range(1, VERSIONS_MAX + 3):
        replace_file(path, b"%d" % number, keep_old=True)
    assert held(path) == {"": b"7", ".1": b"6", ".2": b"5", ".3": b"4", ".4": b"3", ".5": b"2"}
    assert {found.stat().st_mode & 0o777 for found in path.parent.iterdir()} == {0o640}


def test_one_that_need_not_be_kept(path: Path) -> None:
    replace_file(path, b"1", keep_old=False)
    assert held(path) == {"": b"1"}


def test_a_link_stays_one(path: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "server.ini"
    link.symlink_to(path)
    replace_file(link, b"1", keep_old=True)
    assert link.is_symlink()
    assert link.read_bytes() == path.read_bytes() == b"1"
    assert path.with_name("server.ini.1").read_bytes() == b"0"


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_failed_write_leaves_the_old_file(
    path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    calls = 0
    sync = os.fsync

    def fail(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, b"1", keep_old=True)
    assert path.read_bytes() == b"0"
    assert not list(path.parent.glob("*.new"))


def test_the_new_name_comes_after_the_bytes_are_on_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story: list[str] = []
    sync, replace = os.fsync, os.replace

    def tell_sync(descriptor: int) -> None:
        story.append("sync")
        sync(descriptor)

    def tell_replace(source: Path, target: Path) -> None:
        story.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", tell_sync)
    monkeypatch.setattr(os, "replace", tell_replace)
    replace_file(path, b"1", keep_old=False)
    assert story == ["sync", "rename", "sync"]
