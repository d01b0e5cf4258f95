"""Two masters of one name, without a registry above both: the one that was promoted later remains."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio

from metaserver.client import ProducerOptions, open_session
from tests.cli.conftest import received, send
from tests.cli.test_promote import RECORD_BYTES, texts, wait_copied
from tests.support import Wire, eventually, put
from tools.ports import free_port

if TYPE_CHECKING:
    from tests.cli.conftest import Home


def is_fenced(home: Home, *role: str) -> bool:
    return bool(home.status(*role)["fenced"])


def promote_the_slave(home: Home) -> None:
    """The slave has the first five messages, and the master is gone."""
    home.start_pair()
    send(home.port, texts(0, 5))
    wait_copied(home, 5 * RECORD_BYTES)
    home.kill()
    eventually(lambda: not home.status("slave")["replication"]["connected"], "the slave notices")
    promoted = home.run("promote")
    assert promoted.code == 0, promoted.err


def test_an_old_master_that_is_started_as_it_was_takes_no_more(home: Home) -> None:
    promote_the_slave(home)
    new = home.slave_port
    assert home.run("start").code == 0
    eventually(lambda: is_fenced(home), "the old master gives way")
    with Wire(home.port) as wire:
        refused = wire.ask(put("test", b"lost", 1))
        assert refused.status == 503
        assert f"no longer the master: 127.0.0.1:{new} was promoted at".encode() in refused.body
    assert received(home.port) == texts(0, 5)
    told = home.status("slave")["problems"]
    assert any(f"127.0.0.1:{home.port}, whose place this master took at" in text for text in told)
    assert any(f"metaServer follow 127.0.0.1:{new}" in text for text in told)
    send(new, ["new"])

    assert home.run("follow", f"127.0.0.1:{new}").code == 0
    eventually(lambda: received(home.port) == [*texts(0, 5), "new"], "the old master follows")
    eventually(lambda: home.status("slave")["problems"] == [], "there is one master")
    # And when it is restarted, it is what was decided.
    assert home.run("restart").code == 0
    assert home.status()["role"] == "slave"


def test_clients_that_find_the_old_master_first_go_to_the_new_one(home: Home) -> None:
    promote_the_slave(home)
    assert home.run("start").code == 0
    eventually(lambda: is_fenced(home), "the old master gives way")

    async def send_one() -> None:
        options = ProducerOptions(timeout_seconds=20)
        async with (
            open_session(f"metaq://127.0.0.1:{home.port}") as session,
            session.producer(options=options) as producer,
        ):
            sent = await producer.send("test", b"new")
            assert sent.offset == 5 * RECORD_BYTES

    trio.run(send_one)
    assert received(home.slave_port) == [*texts(0, 5), "new"]


def test_of_two_that_were_promoted_the_later_one_remains(home: Home) -> None:
    home.start_pair()
    send(home.port, texts(0, 5))
    wait_copied(home, 5 * RECORD_BYTES)
    assert home.run("promote", "--force").code == 0
    eventually(lambda: is_fenced(home), "the old master gives way")
    # The old one follows, takes its place back by force, and the other was promoted earlier.
    assert home.run("follow", f"127.0.0.1:{home.slave_port}").code == 0
    eventually(lambda: home.status()["replication"]["connected"], "it follows")
    eventually(lambda: received(home.port) == texts(0, 5), "it has everything")
    assert home.run("promote", "local", "--force").code == 0
    eventually(lambda: is_fenced(home, "slave"), "the one that was promoted first gives way")
    assert not is_fenced(home)
    send(home.port, ["new"])


def date_decision(home: Home, role: str, moment: str) -> None:
    path = home.base / "data" / role / "role.json"
    decision = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**decision, "time": moment}), encoding="utf-8")


@pytest.mark.parametrize("knows_by", ["what it was told to follow", "its master"])
def test_whoever_followed_the_other_is_the_later_one_by_whatever_clock(home: Home, knows_by: str) -> None:
    """The clock of the first that was promoted is ahead."""
    home.start_pair()
    send(home.port, texts(0, 5))
    wait_copied(home, 5 * RECORD_BYTES)
    assert home.run("promote", "--force").code == 0
    date_decision(home, "slave", "2097-01-01T00:00:00.000Z")
    assert home.run("restart", "slave").code == 0
    assert home.run("follow", f"127.0.0.1:{home.slave_port}").code == 0
    eventually(lambda: home.status()["replication"]["connected"], "it follows")
    eventually(lambda: received(home.port) == texts(0, 5), "it has everything")
    if knows_by == "its master":
        date_decision(home, "master", "2026-01-01T00:00:00.000Z")
    home.kill("slave")
    eventually(lambda: not home.status()["replication"]["connected"], "it notices")
    if knows_by == "what it was told to follow":
        assert home.run("restart").code == 0
    assert home.run("promote", "local").code == 0
    assert home.run("start", "slave").code == 0
    eventually(lambda: is_fenced(home, "slave"), "the one that was promoted first gives way")
    assert not is_fenced(home)
    send(home.port, ["new"])


def test_nobody_is_believed_who_only_says_so(home: Home) -> None:
    home.configure()
    home.start()
    send(home.port, ["one"])
    with Wire(home.port) as wire:
        assert wire.ask(b"successor nonsense 1\r\n").status == 503
        # Nobody; and this broker itself.
        assert wire.ask(b"successor 127.0.0.1:%d 2\r\n" % free_port()).status == 200
        assert wire.ask(b"successor 127.0.0.1:%d 3\r\n" % home.port).status == 200
        assert wire.ask(put("test", b"two", 4)).status == 200
    log = home.base / "logs" / "metaServer.log"
    eventually(lambda: "Not succeeded" in log.read_text(encoding="utf-8"), "this broker itself was asked")
    assert not is_fenced(home)


def test_another_broker_of_that_number_is_left_alone(home: Home) -> None:
    promote_the_slave(home)
    home.configure(serverPort=home.port, dataPath="data/other")
    assert home.run("start").code == 0
    send(home.port, ["one"])
    log = home.base / "logs" / "metaServer.log"
    eventually(
        lambda: "nothing of this broker's" in log.read_text(encoding="utf-8"), "it was told, and asked"
    )
    assert not is_fenced(home)
    send(home.port, ["two"])
