"""ZooKeeper's own command line client against the embedded registry."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.registry.ensembles import ZOOKEEPER_JAR, ZOOKEEPER_MISSING, has_zookeeper
from tests.registry.wire import ACL, Create, GetChildren, GetData, Session

if TYPE_CHECKING:
    from tests.registry.ensembles import Embedded

pytestmark = [pytest.mark.java, pytest.mark.skipif(not has_zookeeper(), reason=ZOOKEEPER_MISSING)]

_SCRIPT = """\
create /java first
create -s /java/n numbered
create -e /java/e ephemeral
set -v 0 /java second
get -s /java
get -w /java
set /java third
ls -R /java
getAcl /java
whoami
getAllChildrenNumber /java
deleteall /java/n0000000000
delete /java
get /nothing
"""


def test_the_command_line_client(embedded: Embedded) -> None:
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", str(ZOOKEEPER_JAR)]
    run = subprocess.run(
        [*command, "org.apache.zookeeper.ZooKeeperMain", "-server", embedded.address],
        input=_SCRIPT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    output = run.stdout + run.stderr
    for expected in (
        "Created /java\n",
        "Created /java/n0000000000\n",
        "Created /java/e\n",
        "dataVersion = 1\n",
        "numChildren = 2\n",
        "type:NodeDataChanged path:/java\n",
        "/java/e\n/java/n0000000000\n",
        "'world,'anyone\n: cdrwa\n",
        "ip: 127.0.0.1\n",
        "Node not empty: /java\n",
        "Node does not exist: /nothing\n",
    ):
        assert expected in output, output
    with Session(embedded.port) as session:
        assert session.ask(GetData("/java", None)).body.startswith(b"\0\0\0\5third")
        assert session.ask(GetChildren("/java", None)).code == 0
        assert session.ask(Create("/java/n", b"", ACL, 2)).body.endswith(b"/java/n0000000002")
