"""Spring's part of the Java client: its beans find our brokers, its template sends, its containers listen."""

from __future__ import annotations

import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.interop.original import JAVA_SOURCES, java_command

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.place import Place

pytestmark = pytest.mark.java

SECONDS_MAX = 180.0
TOPICS = "[topic=trades]\n[topic=orders]\n[topic=refunds]\n"


def members(place: Place, group: str) -> list[str]:
    """The topics that each member of a group has subscribed to."""
    with place.spy() as spy:
        path = f"/consumers/{group}/ids"
        return [spy.get(f"{path}/{child}")[0].decode() for child in spy.get_children(path)]


@pytest.mark.scenario(25, 88)
def test_a_template_sends_and_containers_listen(place: Place, java_classpath: str, tmp_path: Path) -> None:
    place.broker(TOPICS, numPartitions=3)
    arguments = (place.registry.address, place.root, str(JAVA_SOURCES / "spring.xml"))
    with subprocess.Popen(
        java_command(java_classpath, tmp_path, "SpringSession", *arguments),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    ) as session:
        assert session.stdout is not None
        watchdog = threading.Timer(SECONDS_MAX, session.kill)
        watchdog.start()
        try:
            said: list[str] = []
            for line in session.stdout:
                said.append(line)
                if line == "> listening\n":
                    break
            else:
                raise AssertionError("".join(said)[-8000:])
            assert members(place, "spring") == ["trades"]
            assert [sorted(one.split(",")) for one in members(place, "spring-shared")] == [
                ["orders", "refunds"]
            ]
            rest, _ = session.communicate("\n")
        finally:
            watchdog.cancel()
            session.kill()
    assert session.returncode == 0, rest[-8000:]
    lines = [line[2:] for line in ("".join(said) + rest).splitlines() if line.startswith("> ")]
    assert lines == [
        "objects | 100 sent, 100 received, last 99 größe",
        "callback | true",
        "callback | true",
        "rejected | [no object of Java's]",
        "shared | orders true [7 null]",
        "shared | refunds true [7 null]",
        "shared | true",
        "refused | false true",
        "refused | body and payload",
        "listening",
        "end",
    ]
    assert members(place, "spring") == members(place, "spring-shared") == []
