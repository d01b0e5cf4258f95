"""One file of offsets in turns: ours, Java's, ours."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from metaserver.client.offsets import FileOffsets
from metaserver.client.partition import Partition
from metaserver.registry.paths import StoredOffset
from tests.interop.original import java_command

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.java

SECONDS_MAX = 90.0


def run_java(classpath: str, directory: Path, *arguments: str) -> list[str]:
    ended = subprocess.run(
        java_command(classpath, directory, "OffsetFile", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=SECONDS_MAX,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    return [line[2:] for line in ended.stdout.splitlines() if line.startswith("> ")]


async def test_the_java_client_reads_our_file_and_we_read_its(java_classpath: str, tmp_path: Path) -> None:
    storage = FileOffsets(tmp_path / "offsets")
    zero, one, other = Partition("orders", 0, 0), Partition("orders", 0, 1), Partition("orders", 1, 0)
    await storage.store("ü", {zero: StoredOffset(2**53 + 1, 5), one: StoredOffset(7, None)})
    await storage.store("g", {other: StoredOffset(9, 10)})
    assert run_java(java_classpath, tmp_path, str(storage.path), "ü") == [str(2**53 + 1), "7", "end"]
    assert await storage.load("ü", [zero, one]) == {
        zero: StoredOffset(2**53 + 2, -77),
        one: StoredOffset(8, -78),
    }
    # It knows no ids of what it did not commit itself.
    assert await storage.load("g", [other]) == {other: StoredOffset(9, -1)}
    await storage.store("ü", {one: StoredOffset(100, 101)})
    assert run_java(java_classpath, tmp_path, str(storage.path), "ü") == [str(2**53 + 2), "100", "end"]
