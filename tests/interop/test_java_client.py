"""The Java client with our broker: its codec, producer, consumer and browser see what they see of the original."""

from __future__ import annotations

import re
import subprocess
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.original import java_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import StartBroker
    from tests.interop.original import ZooKeeperProcess

pytestmark = pytest.mark.java

TOPICS = "[topic=orders]\n\n[topic=frames]\nnumPartitions=1\n"
SETTINGS: dict[str, Any] = {"numPartitions": 3, "maxSegmentSize": 100_000}
SESSION_SECONDS = 90.0
MESSAGES = 60


def session(classpath: str, directory: Path, *arguments: str) -> list[str]:
    return session_of("ClientSession", classpath, directory, *arguments)


def session_of(main: str, classpath: str, directory: Path, *arguments: str) -> list[str]:
    """What the session printed, the rest of its output beside it for a failure's message."""
    ended = subprocess.run(
        java_command(classpath, directory, main, *arguments),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=SESSION_SECONDS,
        check=False,
    )
    lines = [line[2:] for line in ended.stdout.splitlines() if line.startswith("> ")]
    assert ended.returncode == 0, ended.stdout[-8000:]
    assert lines[-1:] == ["end"], ended.stdout[-8000:]
    return lines


def without_addresses(lines: list[str], port: int) -> list[str]:
    lines = [line.replace(f":{port}", ":PORT") for line in lines]
    # What MetaQ does not tell.
    lines = [re.sub(r"config_origin, |instance, ", "", line) for line in lines]
    return [re.sub(r"(\| 200 )-?[0-9]{10,} ", r"\1ID ", line) for line in lines]


@pytest.mark.scenario(57, 70)
def test_a_session(
    java_classpath: str,
    zookeeper: ZooKeeperProcess,
    start_java: StartBroker,
    start_ours: StartBroker,
    tmp_path: Path,
) -> None:
    java = start_java(topics=TOPICS, **SETTINGS)
    (root,) = re.findall(r"^zk\.zkRoot=(.*)$", java.server_file.read_text(encoding="utf-8"), re.MULTILINE)
    of_java = session(java_classpath, tmp_path, zookeeper.address, root, str(java.port))
    assert java.stop() == 0

    ours = start_ours(topics=TOPICS, **SETTINGS)
    root = f"/{uuid.uuid4()}"
    of_ours = session(java_classpath, tmp_path, zookeeper.address, root, str(ours.port), "register")
    assert ours.stop() == 0

    assert sum(line.startswith("received | ") for line in of_ours) == MESSAGES
    assert without_addresses(of_ours, ours.port) == without_addresses(of_java, java.port)
