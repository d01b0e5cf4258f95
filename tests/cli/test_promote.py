"""promote and follow: a slave takes over and says what is missing; both keep their roles over restarts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kazoo.client import KazooClient

from metaserver.cli.exit_codes import ExitCode
from metaserver.node.role import Decision
from tests.cli.conftest import received, send
from tests.support import eventually
from tools.ports import free_port

if TYPE_CHECKING:
    from tests.cli.conftest import Home

RECORD_BYTES = 20 + 9
"""Of ``message N``."""


def texts(first: int, last: int) -> list[str]:
    return [f"message {number}" for number in range(first, last)]


def address(home: Home, *role: str) -> str:
    return str(home.status(*role)["address"])


def replica_of(home: Home, topic: str) -> dict[str, Any] | None:
    """What the slave says of the only partition of a topic; None where it knows none."""
    details = json.loads(home.run("slave-status", "--json").out)["details"]
    return next((found for found in details if found["topic"] == topic), None)


def lag_of(home: Home, topic: str) -> int | None:
    found = replica_of(home, topic)
    return None if found is None else int(found["lag_bytes"])


def wait_copied(home: Home, end: int) -> None:
    def is_copied() -> bool:
        found = replica_of(home, "test")
        return found is not None and found["end_offset"] == end

    eventually(is_copied, "the copy")


def test_no_second_master_beside_a_living_one(home: Home) -> None:
    home.start_pair()
    # The slave is ready before it has connected.
    eventually(lambda: json.loads(home.run("slave-status", "--json").out)["connected"], "the connection")
    ran = home.run("promote")
    assert ran.code == ExitCode.FAILED
    assert f"the slave is connected to its master 127.0.0.1:{home.port}" in ran.err
    assert f"the master 127.0.0.1:{home.port} answers" in ran.err
    assert home.status("slave")["role"] == "slave"
    assert not (home.base / "data" / "slave" / "role.json").exists()
    assert home.run("promote", "local").code == ExitCode.FAILED
    forced = home.run("promote", "--force")
    assert forced.code == 0, forced.err
    assert "going on, as --force says" in forced.err
    assert home.status("slave")["role"] == "master"


def test_a_slave_takes_over_and_the_old_master_rejoins(home: Home) -> None:
    home.start_pair()
    slave = home.slave_port
    send(home.port, texts(0, 5))
    wait_copied(home, 5 * RECORD_BYTES)
    # The slave is away while the master takes three more.
    home.kill("slave")
    send(home.port, texts(5, 8))
    home.kill()
    never_ran = home.run("promote", "slave")
    assert never_ran.code == 0, never_ran.err
    assert "what the master had taken is not known, because the slave was not running" in never_ran.out
    assert "registered as master in" in never_ran.out
    assert home.port_of("slave") == slave
    send(slave, ["new"])

    assert home.run("stop", "slave").code == 0
    started = home.run("start", "slave")
    assert started.out.startswith(f"master ready at 127.0.0.1:{slave} ")
    assert f"in place of 127.0.0.1:{home.port}: it is master" in started.err
    assert "  decided        promoted at" in home.run("status", "slave").out
    assert home.run("slave-status").code == ExitCode.FAILED
    assert home.run("reload", "slave").out == "reloaded; nothing has changed\n"

    followed = home.run("follow", f"127.0.0.1:{slave}")
    assert followed.code == 0, followed.err
    assert followed.out.startswith(f"slave ready at 127.0.0.1:{home.port} ")
    eventually(
        lambda: received(home.port) == [*texts(0, 5), "new"], "the old master has what the new one has"
    )
    shown = home.run("quarantine", "show", f"test-0/{5 * RECORD_BYTES}-{8 * RECORD_BYTES}").out
    assert [line.split()[-1] for line in shown.splitlines()[3:6]] == ["5", "6", "7"]
    assert home.run("restart").out.count("slave ready") == 1
    assert home.status()["role"] == "slave"

    # And back: the promoted one steps back, and its files say again what it is.
    assert home.run("stop").code == 0
    assert home.run("promote", "local").code == ExitCode.FAILED
    assert home.run("stop", "slave").code == 0
    back = home.run("promote", "local")
    assert back.code == 0, back.err
    assert home.run("follow", f"127.0.0.1:{home.port}", "slave").code == 0
    assert not (home.base / "data" / "slave" / "role.json").exists()
    assert home.status("slave")["role"] == "slave"
    send(home.port, ["again"])
    eventually(lambda: received(slave) == [*texts(0, 5), "new", "again"], "the slave follows again")


def test_what_is_missing_is_told_exactly(home: Home) -> None:
    home.configure(serverPort=free_port())
    home.start()
    send(home.port, texts(0, 10))
    # The slave copies up to a damaged record, and knows how much more there is.
    (segment,) = (home.base / "data" / "master" / "test-0").glob("*.meta")
    with segment.open("r+b") as file:
        file.seek(6 * RECORD_BYTES + 20)
        file.write(b"M")
    home.start_slave()
    wait_copied(home, 6 * RECORD_BYTES)
    # Or the master's registry, which the slave's registration writes to, is behind as well.
    home.wait_registered("slave")
    eventually(lambda: lag_of(home, "__registry") == 0, "the copy of the registry")
    home.kill()
    eventually(lambda: not home.status("slave")["replication"]["connected"], "the slave notices")
    ran = home.run("promote")
    assert ran.code == 0, ran.err
    (row,) = [line.split() for line in ran.out.splitlines() if line.startswith("test ")]
    assert row == ["test", "0", str(6 * RECORD_BYTES), str(10 * RECORD_BYTES), str(4 * RECORD_BYTES), "~4"]
    assert "missing of what was known: 116 bytes, about 4 messages, in 1 of 2 partitions" in ran.out
    assert "last heard from the master at 20" in ran.out
    decision = json.loads((home.base / "data" / "slave" / "role.json").read_text(encoding="utf-8"))
    assert (decision["role"], decision["master_port"]) == ("master", home.port)
    (noted,) = [found for found in decision["report"]["partitions"] if found["topic"] == "test"]
    assert noted["missing_messages"] == 4


@pytest.mark.parametrize("is_handover", [False, True])
def test_json_is_all_that_is_on_standard_output(
    home: Home, monkeypatch: pytest.MonkeyPatch, *, is_handover: bool
) -> None:
    monkeypatch.setattr("metaserver.cli.promote.wait_for_handover", lambda *_: None)
    home.start_pair()
    home.kill()
    eventually(lambda: not home.status("slave")["replication"]["connected"], "the slave notices")
    ran = home.run("promote", "--json", *(["--after-handover"] if is_handover else []))
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["master"] == f"127.0.0.1:{home.port}"
    for text in (
        "waiting for" if is_handover else "does not answer",
        "slave stopped",
        "master ready at",
        "registered as master in",
    ):
        assert text in ran.err


def test_a_slave_that_has_found_no_master_is_promoted_by_force(home: Home) -> None:
    # Master and registry have died, and the slave was started after that.
    home.slave_file.write_text(
        f"slaveId=0\nregistryAddress=127.0.0.1:{free_port()}\nserverPort=0\ndashboardHttpPort=0\n"
        "dataPath=data/slave\n",
        encoding="utf-8",
    )
    assert home.run("start", "slave").code == 0
    ran = home.run("promote")
    assert ran.code == ExitCode.FAILED
    assert "nothing is known of the master" in ran.err
    waited = home.run("promote", "--after-handover")
    assert waited.code == ExitCode.FAILED
    assert "the slave has found no master" in waited.err
    assert home.status("slave")["role"] == "slave"
    forced = home.run("promote", "--force", "--register-timeout", "0.1")
    assert "going on, as --force says" in forced.err
    assert forced.code == ExitCode.TIMEOUT
    assert "it is master and takes messages, but stands in no registry yet" in forced.err
    assert "because the slave has not reached it since it was started" in forced.out
    found = home.status("slave")
    assert found["role"] == "master"
    assert "in place of a master it had not found" in found["decision"]["sentence"]
    send(home.port_of("slave"), ["taken"])


def test_the_registry_comes_along(home: Home) -> None:
    home.start_pair()
    home.wait_registered("slave")
    registry = home.status()["embedded_registry"]["port"]
    client = KazooClient(f"127.0.0.1:{registry}")
    client.start()
    client.create("/meta/consumers/group/offsets/test/0-0", b"-1-145", makepath=True)
    client.stop()
    client.close()

    copy = home.base / "data" / "slave" / "__registry-0"

    def is_copied() -> bool:
        return any(b"-1-145" in segment.read_bytes() for segment in copy.glob("*.meta"))

    eventually(is_copied, "the copy of the registry")
    home.kill()
    eventually(lambda: not home.status("slave")["replication"]["connected"], "the slave notices")
    assert home.run("promote").code == 0
    client = KazooClient(f"127.0.0.1:{home.status('slave')['embedded_registry']['port']}")
    client.start()
    assert client.get("/meta/consumers/group/offsets/test/0-0")[0] == b"-1-145"
    assert client.get("/meta/brokers/ids/0/master")[0] == b"meta://127.0.0.1:%d" % home.slave_port
    client.stop()
    client.close()


def test_a_group_that_had_come_further_than_the_new_master_is_brought_back(home: Home) -> None:
    home.start_pair()
    home.wait_registered("slave")
    send(home.port, texts(0, 3))
    wait_copied(home, 3 * RECORD_BYTES)
    group, path = f"{2**62}-{5 * RECORD_BYTES}", "/meta/consumers/%s/offsets/test/0-0"
    registry = home.status()["embedded_registry"]["port"]
    client = KazooClient(f"127.0.0.1:{registry}")
    client.start()
    client.create(path % "ahead", group.encode(), makepath=True)
    client.create(path % "behind", b"1-%d" % RECORD_BYTES, makepath=True)
    client.stop()
    client.close()
    copy = home.base / "data" / "slave" / "__registry-0"
    eventually(
        lambda: any(b"behind" in segment.read_bytes() for segment in copy.glob("*.meta")),
        "the copy of the registry",
    )
    home.kill()
    eventually(lambda: not home.status("slave")["replication"]["connected"], "the slave notices")
    assert home.run("promote").code == 0
    # Behind the start by a moment, and before clients are told of its topics.
    home.wait_registered("slave")
    client = KazooClient(f"127.0.0.1:{home.status('slave')['embedded_registry']['port']}")
    client.start()
    assert client.get(path % "ahead")[0] == b"-1-%d" % (3 * RECORD_BYTES)
    assert client.get(path % "behind")[0] == b"1-%d" % RECORD_BYTES
    client.stop()
    client.close()


def test_a_restart_without_slave_is_enough_as_in_metaq(home: Home) -> None:
    # As MetaQ has it the slave lives in a folder of its own, with the data path of its server.ini.
    home.configure(serverPort=free_port(), dataPath="data/slave")
    home.port = free_port()
    home.slave_file.write_text(f"slaveId=0\nmasterAddress=127.0.0.1:{home.port}\n", encoding="utf-8")
    assert home.run("start", "slave").code == 0
    assert home.run("stop", "slave").code == 0
    assert home.run("restart").code == 0
    send(home.port_of(), ["taken"])


def test_a_node_is_started_again_with_what_it_was_started_with(home: Home) -> None:
    home.configure(serverPort=free_port(), no_such_key=1)
    assert home.run("start", "--lenient", "--log-format", "json").code == 0
    home.port = home.port_of()
    home.configure_slave()
    assert home.run("start", "slave", "--lenient").code == 0
    eventually(lambda: home.status("slave")["replication"]["connected"], "the slave has its master")
    changed = home.run("switchover")
    assert changed.code == 0, changed.err
    master, slave = home.status("slave"), home.status()
    assert (master["role"], master["lenient"], master["log_format"]) == ("master", True, "text")
    assert (slave["role"], slave["lenient"], slave["log_format"]) == ("slave", True, "json")
    home.kill("slave")
    promoted = home.run("promote", "local", "--force")
    assert promoted.code == 0, promoted.err
    assert (home.status()["role"], home.status()["lenient"]) == ("master", True)

    # How it was started nobody knows any more: a decision must not be left beside a node that does not start.
    home.kill()
    decision = (home.base / "data" / "slave" / "role.json").read_bytes()
    followed = home.run("follow", f"127.0.0.1:{home.port}", "slave", "--force")
    assert followed.code == ExitCode.CONFIGURATION
    assert "no_such_key" in followed.err
    assert "nothing was changed" in followed.err
    assert (home.base / "data" / "slave" / "role.json").read_bytes() == decision


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param("{", "cannot be read", id="torn"),
        pytest.param(
            '{"role": "slave", "master_host": "host", "master_port": "8123", "time": "now"}',
            "master_port is '8123'",
            id="a text for a number",
        ),
        pytest.param(
            '{"role": "slave", "master_host": null, "master_port": 8123, "time": "now"}',
            "master_host is None",
            id="nobody to follow",
        ),
    ],
)
def test_a_decision_that_cannot_be_read_stops_the_start(home: Home, content: str, problem: str) -> None:
    data = home.base / "data" / "master"
    data.mkdir(parents=True)
    (data / "role.json").write_text(content, encoding="utf-8")
    ran = home.run("start")
    assert ran.code == ExitCode.FAILED
    assert f"{data / 'role.json'}: {problem}" in ran.err
    assert "it says whether this node is master or slave" in ran.err


def test_a_start_that_fails_by_what_was_decided_says_so(home: Home) -> None:
    port = free_port()
    home.configure(serverPort=port)
    data = home.base / "data" / "master"
    Decision(role="slave", master_host="127.0.0.1", master_port=port, time="2026-11-25").save(data)
    ran = home.run("start")
    assert ran.code == ExitCode.FAILED
    assert f"{data / 'role.json'} makes this node a slave: told at 2026-11-25 to follow" in ran.err
    assert "`metaServer follow HOST:PORT` makes it the slave of another master" in ran.err


def test_a_node_does_not_follow_itself(home: Home) -> None:
    home.start()
    for host in ("127.0.0.1", "localhost"):
        ran = home.run("follow", f"{host}:{home.port}")
        assert ran.code == ExitCode.USAGE
        assert "is this node itself" in ran.err
    assert home.status()["role"] == "master"
    assert not (home.base / "data" / "master" / "role.json").exists()


def test_what_a_slave_that_has_heard_nothing_is_behind_by_is_not_known(home: Home) -> None:
    home.port = free_port()
    home.configure_slave()
    assert home.run("start", "slave").code == 0
    for verb in (["slave-status"], ["status", "slave"]):
        ran = home.run(*verb)
        assert "not known: it has heard nothing of a master since it was started" in ran.out
        assert "0 bytes, 0 messages" not in ran.out
    promoted = home.run("promote", "--register-timeout", "30")
    assert promoted.code == 0, promoted.err
    assert "missing of what was known" not in promoted.out
    assert "because the slave has not reached it since it was started" in promoted.out


def test_a_master_at_an_ipv6_address_is_named_as_one_writes_it(home: Home) -> None:
    port = free_port()
    home.slave_file.write_text(
        f"slaveId=0\nmasterAddress=[::1]:{port}\nserverPort=0\ndashboardHttpPort=0\ndataPath=data/slave\n",
        encoding="utf-8",
    )
    ran = home.run("promote", "slave")
    assert ran.code == 0, ran.err
    assert f"the master [::1]:{port} does not answer" in ran.out
    decision = home.status("slave")["decision"]
    assert (decision["master_host"], decision["master_port"]) == ("::1", port)
    assert decision["report"]["master"] == f"[::1]:{port}"
    assert f"in place of [::1]:{port}: it is master" in decision["sentence"]


def test_who_is_to_be_followed_must_answer(home: Home) -> None:
    port = free_port()
    assert home.run("follow", f"127.0.0.1:{port}").code == ExitCode.UNREACHABLE
    assert home.run("follow", "nowhere").code == ExitCode.USAGE
