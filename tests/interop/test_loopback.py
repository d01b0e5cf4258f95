"""The Java client may say ``localhost`` for its machine's address; it does so before it speaks to a broker."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.interop.original import java_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.interop.conftest import StartBroker
    from tests.interop.original import ZooKeeperProcess
    from tests.interop.place import Place

pytestmark = pytest.mark.java

SECONDS_MAX = 90.0


def outcome(classpath: str, directory: Path, start: Callable[[str], tuple[str, str]]) -> list[str]:
    """What a client has of a broker that announces its machine's address and is started with it.

    ``start`` returns where the broker is registered: the address and the root.
    """
    with subprocess.Popen(
        java_command(classpath, directory, "LoopbackSession"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
    ) as session:
        try:
            assert session.stdout is not None
            host = session.stdout.readline().removeprefix("> ").strip()
            said, _ = session.communicate(" ".join(start(host)) + "\n", SECONDS_MAX)
        finally:
            session.kill()
    lines = [line[2:] for line in said.splitlines() if line.startswith("> ")]
    assert lines[-1:] == ["end"], said
    return lines


@pytest.mark.scenario(71)
def test_an_address_rewritten_to_localhost_is_the_clients_own(
    place: Place,
    zookeeper: ZooKeeperProcess,
    start_java: StartBroker,
    java_classpath: str,
    tmp_path: Path,
) -> None:
    def java(host: str) -> tuple[str, str]:
        broker = start_java(hostName=host)
        found = re.search(r"^zk\.zkRoot=(.*)$", broker.server_file.read_text(encoding="utf-8"), re.MULTILINE)
        assert found is not None
        return zookeeper.address, found[1]

    def ours(host: str) -> tuple[str, str]:
        place.broker("[topic=test]\n", hostName=host)
        return place.registry.address, place.root

    of_java = outcome(java_classpath, tmp_path, java)
    assert outcome(java_classpath, tmp_path, ours) == of_java
    # 1.4.6.2 connects to localhost and then waits for the address that it has not connected to.
    assert of_java[0].startswith("java.lang.IllegalStateException: ")
