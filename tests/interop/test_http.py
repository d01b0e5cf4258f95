"""MetaQ's HTTP interface as Java uses it: its HTTP, its codec, the requests of its HTTP client."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.interop.original import java_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import StartBroker

pytestmark = pytest.mark.java

SECONDS_MAX = 90.0


def test_java_puts_and_gets_over_http(java_classpath: str, start_ours: StartBroker, tmp_path: Path) -> None:
    ours = start_ours("http")
    ended = subprocess.run(
        java_command(java_classpath, tmp_path, "HttpRequests", str(ours.status()["http_port"])),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=SECONDS_MAX,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    assert [line[2:] for line in ended.stdout.splitlines() if line.startswith("> ")] == [
        "put 3",
        "put 3",
        "put 3",
        "got größe 0 null",
        "got größe 1 attribute",
        "got größe 2 null",
        "end true",
        "moved true",
    ]
