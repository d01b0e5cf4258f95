"""switchover: under load nothing acknowledged is lost, nothing is there twice, and it goes both ways."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.cli import handover, switchover
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.installation import find_installation
from metaserver.cli.output import Failure
from metaserver.cli.target import Address
from metaserver.client import ProducerOptions, Sent, open_session
from metaserver.control.client import call
from metaserver.errors import ControlError, SendError
from tests.support import WAIT_SECONDS_MAX, Wire, eventually, get, parse_records, put

if TYPE_CHECKING:
    from pathlib import Path

    from metaserver.cli.processes import Launch
    from tests.cli.conftest import Home, Ran


def start_pair(home: Home) -> None:
    home.start_pair()
    home.wait_registered()
    home.wait_registered("slave")


def read_all(port: int) -> list[bytes]:
    found: list[bytes] = []
    offset = 0
    with Wire(port) as wire:
        while (reply := wire.ask(get("test", offset, 1 << 20, 1))).status is None:
            end = 0
            while end + 20 <= len(reply.body):
                size = 20 + int.from_bytes(reply.body[end : end + 4], "big")
                if end + size > len(reply.body):
                    break
                end += size
            found += [stored.data for stored in parse_records(reply.body[:end])]
            offset += end
    return found


def control_socket(home: Home) -> Path:
    return home.base / "logs" / ".control.sock"


def test_it_is_between_two_that_run(home: Home) -> None:
    home.start()
    ran = home.run("switchover")
    assert ran.code == ExitCode.NOT_RUNNING
    assert "there is a master running; a switchover is between a master and a slave" in ran.err
    home.start_slave()
    # A slave that has stopped copying would never get everything: nothing is sealed for it.
    with Wire(home.port) as wire:
        for number in range(10):
            assert wire.ask(put("test", b"message %d" % number, number + 1)).status == 200
    assert home.run("stop", "slave").code == 0
    (segment,) = (home.base / "data" / "master" / "test-0").glob("*.meta")
    with segment.open("r+b") as file:
        file.seek(20)
        file.write(b"M")
    shutil.rmtree(home.base / "data" / "slave")
    home.start_slave()
    eventually(lambda: "has stopped" in home.run("status", "slave").out, "the slave stops copying")
    ran = home.run("switchover")
    assert ran.code == ExitCode.FAILED
    assert "replication of test-0 has stopped" in ran.err
    assert home.status()["puts_refused"] == ""


@pytest.mark.parametrize("broken", ["stop_if_running", "Decision.save"])
def test_the_old_master_goes_on_where_the_slave_does_not_give_way(
    home: Home, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: object, **_options: object) -> bool:
        raise Failure("too slow") if broken == "stop_if_running" else OSError("no room")

    start_pair(home)
    monkeypatch.setattr(f"metaserver.cli.switchover.{broken}", fail)
    ran = home.run("switchover")
    assert ran.code == ExitCode.FAILED
    assert "starting the old master again" in ran.err
    assert "nothing was changed, but the master was away for a moment" in ran.err
    assert home.status()["role"] == "master"
    assert home.status("slave")["role"] == "slave"
    assert not (home.base / "data" / "slave" / "role.json").exists()
    with Wire(home.port) as wire:
        assert wire.ask(put("test", b"taken", 1)).status == 200
    eventually(lambda: read_all(home.slave_port) == [b"taken"], "the slave follows")


def interrupt(*_: object, **_options: object) -> None:
    raise KeyboardInterrupt


def cancel_and_interrupt(_node: object, _options: object, _seconds: object, prepared: Launch) -> None:
    prepared.cancel()
    raise KeyboardInterrupt


def test_interrupted_before_the_master_has_given_up_its_place_nothing_is_changed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_pair(home)
    monkeypatch.setattr(switchover, "_has_all", interrupt)
    ran = home.run("switchover")
    assert (ran.code, ran.err) == (ExitCode.INTERRUPTED, "")
    assert home.status()["puts_refused"] == ""


def test_interrupted_when_the_master_has_given_up_its_place(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_pair(home)
    with monkeypatch.context() as patch:
        patch.setattr(switchover, "Ending", interrupt)
        ran = home.run("switchover")
    assert ran.code == ExitCode.INTERRUPTED
    assert "the master has given up its place, and no messages are taken" in ran.err
    assert "Type `metaServer restart`, and it is master again" in ran.err
    assert "`metaServer restart`, where there is none, makes it the master again" in home.run("status").out
    assert home.run("restart").code == 0
    with Wire(home.port) as wire:
        assert wire.ask(put("test", b"taken", 1)).status == 200
    eventually(lambda: read_all(home.slave_port) == [b"taken"], "the slave follows")


def test_interrupted_when_the_slave_is_to_be_master(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    start_pair(home)
    follow = f"metaServer follow 127.0.0.1:{home.slave_port}"
    with monkeypatch.context() as patch:
        patch.setattr(switchover, "start_again", cancel_and_interrupt)
        ran = home.run("switchover")
    assert ran.code == ExitCode.INTERRUPTED
    assert f"127.0.0.1:{home.slave_port} is master from now on" in ran.err
    assert f"Type `metaServer start slave`, and then `{follow}`" in ran.err
    assert home.run("start", "slave").code == 0
    assert home.run(*follow.split()[1:]).code == 0
    with Wire(home.slave_port) as wire:
        assert wire.ask(put("test", b"taken", 1)).status == 200
    eventually(lambda: read_all(home.port) == [b"taken"], "the old master follows")


def test_a_sealed_master_takes_messages_again(home: Home) -> None:
    home.start()
    home.start_slave()

    def status_of_put() -> int | None:
        with Wire(home.port) as wire:
            return wire.ask(put("test", b"x", 1)).status

    def answer(command: str, **arguments: object) -> dict[str, object]:
        return call(control_socket(home), command, WAIT_SECONDS_MAX, **arguments)

    assert status_of_put() == 200
    assert answer("seal", seconds=60)["ends"] == [{"topic": "test", "partition": 0, "end_offset": 21}]
    assert status_of_put() == 503
    assert "hands its place over" in str(home.status()["problems"])
    answer("unseal")
    assert status_of_put() == 200
    # Whoever sealed it has died: it does not stay sealed for ever.
    answer("seal", seconds=0.01)
    eventually(lambda: status_of_put() == 200, "the end of the seal")
    with pytest.raises(ControlError, match="is not sealed"):
        answer("step-down")
    answer("seal", seconds=60)
    assert {end["topic"] for end in answer("step-down")["ends"]} == {"test", "__registry"}  # type: ignore[attr-defined]
    with pytest.raises(ControlError, match="only a restart"):
        answer("unseal")
    assert status_of_put() == 503
    with pytest.raises(ControlError, match="is a slave"):
        call(home.base / "logs" / ".control-slave.sock", "seal", WAIT_SECONDS_MAX)


ENDS = [
    {"topic": "a", "partition": 0, "end_offset": 100},
    {"topic": "a", "partition": 1, "end_offset": 0},
    {"topic": "__registry", "partition": 0, "end_offset": 7},
]


@pytest.mark.parametrize(
    ("own", "has_all"),
    [
        pytest.param({("a", 0): 100, ("__registry", 0): 7}, True, id="an empty partition need not be there"),
        pytest.param({("a", 0): 99, ("__registry", 0): 7}, False, id="a byte is missing"),
        pytest.param({("a", 0): 100}, False, id="a partition is missing"),
        pytest.param({("a", 0): 101, ("__registry", 0): 7}, False, id="more than the master has"),
    ],
)
def test_the_slave_has_everything_only_when_every_end_is_equal(
    monkeypatch: pytest.MonkeyPatch, own: dict[tuple[str, int], int], *, has_all: bool
) -> None:
    """Under load a slave is nearly always equal a moment later: here it is not."""
    details = [{"topic": topic, "partition": n, "end_offset": end} for (topic, n), end in own.items()]
    monkeypatch.setattr(switchover, "ask", lambda *_: {"details": details})
    here = find_installation(None, is_slave=True)
    assert switchover._has_all(here, ENDS) is has_all
    lines = [f"{topic} part {n} min_offset 0 max_offset {end}" for (topic, n), end in own.items()]
    monkeypatch.setattr(handover, "query_stats", lambda *_: "\r\n".join(["STATS", *lines, "END"]))
    assert handover._has_all(Address("host", 1), ENDS) is has_all


def test_both_are_registered_as_what_they_are_soon_after(home: Home) -> None:
    start_pair(home)
    assert home.run("switchover").code == 0
    # Long before a session would end that nobody keeps alive: that of the slave which is master now.
    home.wait_registered("slave")
    home.wait_registered()
    assert (home.status()["problems"], home.status("slave")["problems"]) == ([], [])
    found = json.loads(home.run("topics", "test", "--cluster", "--json").out)["topics"][0]
    replicas = {one["replica"]: one["address"] for one in found["partitions"][0]["replicas"]}
    assert replicas == {"0-m": f"127.0.0.1:{home.slave_port}", "0-s0": f"127.0.0.1:{home.port}"}


def test_nothing_is_lost_and_nothing_is_there_twice(home: Home) -> None:
    start_pair(home)
    home.calls_in_process = False
    acknowledged: list[bytes] = []
    failed: list[SendError] = []

    async def send_all(servers: str, scope: trio.CancelScope) -> None:
        options = ProducerOptions(retry_unknown=True)
        number = 0
        async with open_session(servers) as session, session.producer(options) as producer:
            with scope:
                while True:
                    payload = b"%d" % number
                    number += 1
                    with trio.CancelScope(shield=True):
                        try:
                            sent = await producer.send("test", payload)
                        except SendError as error:
                            failed.append(error)
                        else:
                            assert isinstance(sent, Sent)
                            acknowledged.append(payload)
                    await trio.lowlevel.checkpoint()

    async def more(count: int) -> None:
        target = len(acknowledged) + count
        while len(acknowledged) < target:
            assert not failed, failed
            await trio.sleep(0.005)

    ran: list[Ran] = []

    async def change() -> None:
        servers = f"metaq://127.0.0.1:{home.port},127.0.0.1:{home.slave_port}"
        sending = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all, servers, sending)
            for _ in range(4):
                await more(50)
                ran.append(await trio.to_thread.run_sync(partial(home.run, "switchover")))
            await more(50)
            sending.cancel()

    trio.run(change)
    assert [one.code for one in ran] == [0] * 4, ran
    assert "no messages were taken for" in ran[0].out
    assert not failed
    # After an even number of changes everybody is what the files say.
    assert home.status()["role"] == "master"
    assert home.status("slave")["role"] == "slave"
    assert not (home.base / "data" / "slave" / "role.json").exists()
    counts = Counter(read_all(home.port))
    assert counts == Counter(acknowledged)
    eventually(lambda: read_all(home.slave_port) == read_all(home.port), "the slave has the same")
    assert home.status("slave")["quarantine"]["folders"] == 0
    assert home.status()["quarantine"]["folders"] == 0
