"""Questions to running nodes, and check-config."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli.administration import query_stats
from metaserver.cli.catch_up import watch
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure
from metaserver.cli.target import Address
from metaserver.errors import BrokerUnreachableError, ReplyError
from tests.support import eventually
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Home, Ran

    Call = Callable[..., Ran]


@pytest.fixture(autouse=True)
def speak_of_the_pair(pair: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE_DIR", str(pair.base))


def test_slave_status_has_metaqs_lines_and_ours(pair: Home, topic: str, call: Call) -> None:
    assert pair.run("produce", topic, stdin="one\ntwo\n").code == 0
    size = 2 * (20 + 3)

    def replica() -> dict[str, object]:
        details = json.loads(call("slave-status", "--json").out)["details"]
        return next((found for found in details if found["topic"] == topic), {})

    eventually(lambda: replica().get("end_offset") == size, "the copy")
    eventually(lambda: replica()["state"] == "caught up", "the end of copying")
    assert replica()["lag_bytes"] == replica()["lag_messages"] == replica()["lag_seconds"] == 0
    lines = call("slave-status").out.splitlines()
    assert lines[0] == "Subscriber handler:running"
    assert lines[1].startswith("Replicate partitions:")
    assert f"  {topic}:1" in lines
    assert "Replicate runner:running" in lines
    assert "Replicate status:yes" in lines
    assert f"master 127.0.0.1:{pair.port}, connected" in lines
    # The registry's own log changes now and then.
    eventually(lambda: "nothing is left to copy" in call("slave-status").out, "the end of all copying")
    assert any(
        line.split() == [topic, "0", "caught", "up", str(size), str(size), "0", "0", "0.000"]
        for line in lines
    )


def status(
    left: int, rate: int = 0, seconds: float | None = None, limit: int = 0, stopped: int = 0
) -> dict[str, Any]:
    catch_up = {
        "left_bytes": left,
        "bytes_per_second": rate,
        "estimated_seconds": seconds,
        "limit_bytes_per_second": limit,
    }
    return {"connected": True, "master": "m:1", "problem": "", "stopped": stopped, "catch_up": catch_up}


def test_watching_ends_when_nothing_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    away = status(5) | {"connected": False, "problem": "gone"}
    answers = [away, status(3 * 2**30, 2**20, 3072.0, 2**20), status(100, 5), status(0)]
    pauses: list[float] = []
    watch(lambda: answers.pop(0), pauses.append)
    assert capsys.readouterr().out.splitlines() == [
        "not connected to the master m:1: gone",
        "3.0 GiB left, 1.0 MiB/s, about 51 min 12 s (limit 1.0 MiB/s)",
        "100 bytes left, 5 bytes/s, it does not become less",
        "nothing is left to copy",
    ]
    assert (answers, pauses) == ([], [1.0] * 3)
    with pytest.raises(Failure, match="have stopped"):
        watch(lambda: status(0, stopped=1), pauses.append)


def test_watching_ends_when_the_slave_is_promoted(capsys: pytest.CaptureFixture[str]) -> None:
    answers = [status(100, 5), {}]
    with pytest.raises(Failure, match="is master since it was promoted"):
        watch(lambda: answers.pop(0), lambda _: None)
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_watching_a_slave_that_has_everything(pair: Home, call: Call) -> None:
    eventually(lambda: json.loads(call("slave-status", "--json").out)["lag_bytes"] == 0, "no lag")
    ran = call("slave-status", "--watch")
    assert (ran.code, ran.out.splitlines()[-1], ran.err) == (0, "nothing is left to copy", "")
    assert call("slave-status", "--watch", "--json").code == ExitCode.USAGE


def test_stats_over_the_port_as_metaq_has_it(pair: Home, topic: str, call: Call) -> None:
    assert f"port {pair.port}" in call("stats").out.splitlines()
    assert f"port {pair.slave_port}" in call("stats", "slave").out.splitlines()
    pair.run("produce", topic, stdin="one\n")
    plain = call("stats", topic).out
    assert plain.splitlines()[:2] == ["STATS", topic]
    assert "message_count 1" in plain
    assert call("stats", "-item", topic).out.splitlines()[1] == topic
    assert call("stats", "-config", pair.server_file, "-item", topic).out.splitlines()[1] == topic
    assert "none.ini" in call("stats", "-config", pair.base / "none.ini").err
    assert call("stats", "-host", "127.0.0.1", "-port", pair.slave_port).out.splitlines()[3] == (
        f"port {pair.slave_port}"
    )
    assert call("stats", "-item", "slave").out.splitlines()[1:3] == ["slave", "resultCode 1"]
    assert call("stats", "one", "-item", "two").code == ExitCode.USAGE


def test_a_broker_that_is_not_there(call: Call) -> None:
    port = free_port()
    ran = call("stats", "-host", "127.0.0.1", "-port", port)
    assert (ran.code, f"broker 127.0.0.1:{port} cannot be reached" in ran.err) == (ExitCode.UNREACHABLE, True)


@pytest.mark.parametrize(
    "words", [["stats"], ["consume", "test"], ["produce", "test"], ["groups"], ["topics", "--cluster"]]
)
def test_where_ones_own_broker_is_not_running_it_is_said_how_to_start_it(
    home: Home, words: list[str]
) -> None:
    home.configure(serverPort=free_port())
    ran = home.run(*words)
    assert ran.code == ExitCode.UNREACHABLE
    assert "cannot be reached: Connection refused" in ran.err
    assert ran.err.endswith("is not running; start it with `metaServer start`\n")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", BrokerUnreachableError),
        (b"hello\r\n", BrokerUnreachableError),
        (b"result 500 2 1\r\nno", ReplyError),
        (b"value 0 1\r\n", ReplyError),
    ],
)
def test_answers_that_are_no_statistics(answer: bytes, error: type[Exception]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(error):
            query_stats(Address("127.0.0.1", listener.getsockname()[1]), "")
        thread.join()


def test_topics_here_and_elsewhere(pair: Home, topic: str, call: Call) -> None:
    pair.run("produce", topic, stdin="one\ntwo\n")
    here = json.loads(call("topics", "--json").out)
    (found,) = (entry for entry in here["topics"] if entry["topic"] == topic)
    assert (found["start_offset"], found["end_offset"], found["messages"]) == (0, 46, 2)
    assert "empty" in here["without_messages"]
    there = json.loads(call("topics", "--json", "--server", f"127.0.0.1:{pair.port}").out)
    assert found | {"messages": None} in there["topics"]
    assert there["without_messages"] == here["without_messages"]
    assert any(line.split() == [topic, "0", "0", "46", "46", "2"] for line in call("topics").out.splitlines())
    assert call("topics", "--server", "nowhere").code == ExitCode.USAGE
    ran = call("topics", topic, "--server", f"127.0.0.1:{pair.port}")
    assert ran.code == ExitCode.USAGE
    assert f"topics {topic} asks all brokers of the cluster" in ran.err


def test_reload_changes_topics_and_names_what_waits(
    home: Home, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BASE_DIR", str(home.base))
    home.start()
    home.start_slave()
    assert call("reload").out == "reloaded; nothing has changed\n"
    assert call("reload", "slave").out == "reloaded; nothing has changed\n"
    home.configure(topics="[topic=fresh]\n", maxConnections=10)
    assert call("reload").out == (
        "topics added: fresh\ntopics removed: test\nthese change with the next start: maxConnections\n"
    )
    assert home.run("produce", "fresh", stdin="x\n").code == 0
    home.configure(topics="[topic=fresh]\nnumPartitions=x\n")
    ran = call("reload")
    assert ran.code == ExitCode.CONFIGURATION
    assert ran.err.startswith(f"metaServer: {home.server_file}:")
    assert "numPartitions" in ran.err
    home.server_file.write_text("[topic=fresh]\ndataPath=elsewhere\n", encoding="utf-8")
    assert call("reload").code == ExitCode.CONFIGURATION
    assert home.status()["running"]


def test_a_slave_keeps_its_own_data_path_through_a_reload(home: Home) -> None:
    topics = f"[topic=test]\ndataPath={home.base}/data/own\n"
    home.configure(topics=topics)
    home.start()
    home.start_slave()
    assert home.run("reload", "slave").out == "reloaded; nothing has changed\n"
    assert home.run("produce", "test", stdin="x\n").code == 0
    copy = home.base / "data" / "slave" / "test-0" / f"{0:020d}.meta"
    eventually(lambda: copy.exists() and copy.stat().st_size == 21, "the copy in the slave's own folder")


def test_check_config_lists_every_problem_of_every_file(home: Home, call: Call) -> None:
    good = home.server_file
    bad = home.base / "conf" / "bad.ini"
    text = good.read_text(encoding="utf-8")
    bad.write_text(text.replace("brokerId=0", "brokerId=-1\nserverPrt=1\nmaxSegmentSize=x"), encoding="utf-8")
    slave = home.base / "conf" / "bad.properties"
    slave.write_text("slaveId=x\n", encoding="utf-8")
    ran = call("check-config", good, bad, slave)
    assert ran.code == ExitCode.CONFIGURATION
    lines = ran.out.splitlines()
    assert lines[0] == f"{good}: no problems"
    assert [str(line).partition(":")[0] for line in lines[1:]] == [str(bad)] * (len(lines) - 2) + [str(slave)]
    assert all(any(key in line for line in lines) for key in ("brokerId", "serverPrt", "slaveId"))
    assert ran.err == f"metaServer: {len(lines) - 1} problems\n"
    assert call("check-config", home.base / "none.ini").code == ExitCode.CONFIGURATION
    good.write_text(text.replace("brokerId=0", "brokerId=1\nbrokerId=0"), encoding="utf-8")
    warning = (
        f"metaServer: {good}:2: [system] brokerId: counts for nothing: line 3 sets the key again, to '0'\n"
    )
    ran = call("check-config", good)
    assert (ran.code, ran.out, ran.err) == (0, f"{good}: no problems\n", warning)
    started = home.run("start")
    assert (started.code, started.err) == (0, warning)


def test_check_config_of_the_installation(pair: Home, call: Call) -> None:
    ran = call("check-config")
    assert (ran.code, ran.out) == (
        0,
        f"{pair.server_file}: no problems\n{pair.slave_file}: no problems\n",
    )
