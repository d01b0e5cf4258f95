"""Topics made, changed and deleted while the broker runs: its file, what it serves, and its slave."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli.exit_codes import ExitCode
from tests.support import eventually, get, put

if TYPE_CHECKING:
    from tests.cli.conftest import Home, Ran


def topic_partitions(home: Home, topic: str, *role: str) -> dict[int, dict[str, Any]]:
    found = json.loads(home.run("topics", *role, "--json").out)["topics"]
    return {one["partition"]: one for one in found if one["topic"] == topic}


def produce(home: Home, topic: str, *lines: str) -> Ran:
    return home.run("produce", topic, stdin="".join(f"{line}\n" for line in lines))


def test_a_topic_from_the_first_to_the_last_day(home: Home) -> None:
    home.configure(topics="; the shop's\n[topic=orders]\n")
    home.start()
    before = home.server_file.read_text()
    assert produce(home, "mail", "no").code != 0

    ran = home.run("topics", "create", "mail", "--partitions", "2", "--set", "ackLevel=disk")
    assert (ran.code, ran.err) == (0, "")
    assert home.server_file.read_text() == f"{before}\n[topic=mail]\nnumPartitions=2\nackLevel=disk\n"
    assert home.server_file.with_name("server.ini.1").read_text() == before
    assert produce(home, "mail", "one", "two").code == 0
    assert home.status()["config_checksum"] is not None

    with home.connect() as wire:
        assert wire.ask(put("mail", b"x", 1, partition=3)).status != 200
        ran = home.run("topics", "alter", "mail", "--partitions", "4", "--unset", "ackLevel", "--json")
        assert json.loads(ran.out)["topics_changed"] == ["mail"]
        assert home.server_file.read_text() == f"{before}\n[topic=mail]\nnumPartitions=4\n"
        assert wire.ask(put("mail", b"x", 2, partition=3)).status == 200
        assert home.run("topics", "alter", "mail", "--partitions", "4").out == (
            "topic mail has these values already\n"
        )

        found = topic_partitions(home, "mail")
        ran = home.run("topics", "delete", "mail")
        assert (ran.code, "nothing was changed" in ran.err) == (0, True)
        assert topic_partitions(home, "mail") == found
        # A consumer that waits for the next message hears that there is none.
        wire.send(get("mail", found[3]["end_offset"], 100, 3, partition=3, wait_ms=60_000))
        ran = home.run("topics", "delete", "mail", "--execute", "--json")
        assert ran.code == 0, ran.err
        assert wire.reply().status == 404
        assert wire.ask(get("mail", 0, 100, 4, partition=3)).status == 404
        assert wire.ask(put("mail", b"x", 5, partition=3)).status != 200
        assert home.server_file.read_text() == f"{before}\n"
        report = {one["partition"]: one for one in json.loads(ran.out)["partitions"]}
        assert report.keys() == found.keys()
        assert topic_partitions(home, "mail") == {}

    kept = json.loads(home.run("topics", "deleted", "--json").out)
    assert {one["partition"]: one["bytes"] for one in kept}.keys() == found.keys()
    assert str(report[3]["kept"]) in home.run("topics", "deleted").out

    # The same name again: what a group or a slave has stored never means another message.
    assert home.run("topics", "create", "mail", "--partitions", "4").code == 0
    with home.connect() as wire:
        assert wire.ask(put("mail", b"y", 6, partition=3)).text.split()[2] == str(found[3]["end_offset"])
    assert home.run("restart").code == 0
    assert topic_partitions(home, "mail")[3]["start_offset"] == found[3]["end_offset"]

    assert "nothing was removed" in home.run("topics", "purge", "mail").err
    assert json.loads(home.run("topics", "deleted", "--json").out) == kept
    assert home.run("topics", "purge", "mail", "--execute").code == 0
    assert home.run("topics", "deleted").out == "nothing is kept of deleted topics\n"
    assert home.run("topics", "purge", "mail").code == ExitCode.FAILED


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["create", "test"], "is configured already"),
        (["create", "a b"], "is no topic"),
        (["create", "new", "--set", "numPartition=2"], "do you mean numPartitions?"),
        (["create", "new", "--set", "numPartitions=many"], "numPartitions"),
        (["create", "new", "--set", "numPartitions"], "write KEY=VALUE"),
        (["create", "new", "--partitions", "2", "--set", "numPartitions=2"], "given twice"),
        (["create", "new", "--set", "minSlaves=2"], "minSlaves"),
        (["alter", "nobody", "--partitions", "2"], "there is no topic nobody"),
        (["alter", "two1", "--partitions", "4"], "[topic=two*] speaks for it"),
        (["alter", "two*", "--partitions", "1"], "no longer be announced"),
        (["alter", "test"], "nothing to change"),
        (["alter", "test", "--set", "stat=true", "--unset", "stat"], "both set and unset"),
        (["alter", "test", "--set", "dataPath=/elsewhere"], "would not be found in another dataPath"),
        (["delete", "nobody", "--execute"], "there is no topic nobody"),
        (["delete", "two1", "--execute"], "[topic=two*] speaks for it"),
        (["delete", "__registry", "--execute"], "is no topic that can be changed"),
    ],
)
def test_what_is_refused_changes_nothing(pair: Home, words: list[str], complaint: str) -> None:
    server_file = pair.server_file
    before = server_file.read_bytes()
    if "test" in words:
        words = ["shared" if word == "test" else word for word in words]
        assert produce(pair, "shared", "x").code == 0
    ran = pair.run("topics", *words)
    assert ran.code != 0
    assert complaint in ran.err
    assert server_file.read_bytes() == before
    assert pair.run("reload").out == "reloaded; nothing has changed\n"


def test_the_last_topic_stays_and_a_file_changed_by_hand_is_not_touched(home: Home) -> None:
    home.start()
    assert "no topic is configured" in home.run("topics", "delete", "test").err
    home.server_file.write_text(home.server_file.read_text() + "\n# mine\n[topic=byhand]\n")
    before = home.server_file.read_bytes()
    ran = home.run("topics", "create", "new")
    assert (ran.code, "was changed and not loaded since" in ran.err) == (1, True)
    assert home.server_file.read_bytes() == before
    assert home.run("reload").code == 0
    assert home.run("topics", "create", "new").code == 0
    assert home.server_file.read_bytes() == before + b"\n[topic=new]\n"


def test_partitions_without_a_section_can_be_put_aside(home: Home) -> None:
    home.configure(topics="[topic=test]\n[topic=old]\n")
    home.start()
    produce(home, "old", "one")
    home.configure(topics="[topic=test]\n")
    assert home.run("reload").code == 0
    assert topic_partitions(home, "old")
    assert home.run("topics", "delete", "old", "--execute").code == 0
    assert not topic_partitions(home, "old")
    assert len(json.loads(home.run("topics", "deleted", "--json").out)) == 1


def test_a_pattern_takes_only_what_no_other_section_speaks_for(home: Home) -> None:
    home.configure(topics="[topic=test]\n[topic=a*]\n[topic=ab]\n")
    home.start()
    for topic in ("a1", "a2", "ab"):
        produce(home, topic, "one")
    assert home.run("topics", "delete", "a*", "--execute").code == 0
    assert not topic_partitions(home, "a1")
    assert not topic_partitions(home, "a2")
    assert produce(home, "ab", "two").code == 0


def test_a_slave_follows_and_a_topic_that_comes_again_is_copied_on(home: Home) -> None:
    home.start()
    home.start_slave()
    home.slave_file.write_text(home.slave_file.read_text() + "autoSyncMasterConfig=true\n")
    slave_ini = home.base / "slave" / "conf" / "server.ini"
    slave_ini.parent.mkdir(parents=True)
    slave_ini.write_text(home.server_file.read_text())
    home.run("stop", "slave")
    slave_properties = slave_ini.with_name("async_slave.properties")
    slave_properties.write_text(home.slave_file.read_text())
    assert home.run("start", "slave", "-f", str(slave_ini)).code == 0
    try:

        def copied(end: int) -> bool:
            ran = home.run("slave-status", "-f", str(slave_ini), "--json")
            details = json.loads(ran.out)["details"]
            return any(one["topic"] == "mail" and one["end_offset"] == end for one in details)

        assert home.run("topics", "create", "mail").code == 0
        eventually(lambda: "[topic=mail]" in slave_ini.read_text(), "the section at the slave")
        produce(home, "mail", "one", "two")
        end = topic_partitions(home, "mail")[0]["end_offset"]
        eventually(lambda: copied(end), "the copy")
        assert home.run("topics", "delete", "mail", "--execute").code == 0
        eventually(lambda: "[topic=mail]" not in slave_ini.read_text(), "its end at the slave")
        assert home.run("topics", "create", "mail").code == 0
        ran = produce(home, "mail", "three")
        assert ran.code == 0, ran.err
        again = topic_partitions(home, "mail")[0]
        assert again["start_offset"] == end
        eventually(lambda: copied(again["end_offset"]), "the copy of what came later")
        status = json.loads(home.run("status", "slave", "-f", str(slave_ini), "--json").out)
        assert status["problems"] == []
        assert status["quarantine"]["folders"] == 0
    finally:
        home.run("stop", "slave", "-f", str(slave_ini), "--force")


def test_a_slave_puts_aside_what_its_master_has_deleted(pair: Home) -> None:
    assert pair.run("topics", "create", "brief").code == 0
    assert produce(pair, "brief", "one", "two").code == 0
    end = topic_partitions(pair, "brief")[0]["end_offset"]

    def copied() -> int:
        return int(topic_partitions(pair, "brief", "slave").get(0, {"end_offset": -1})["end_offset"])

    def delete_copy(*words: str) -> Ran:
        return pair.run("topics", "delete", "brief", "slave", *words)

    eventually(lambda: copied() == end, "the copy")
    ran = delete_copy("--execute")
    assert (ran.code, "its topics are those of its master" in ran.err) == (1, True)
    assert pair.run("topics", "delete", "brief", "--execute").code == 0
    eventually(lambda: delete_copy().code == 0, "the slave hears of it")
    assert copied() == end, "what is only told changes nothing"
    ran = delete_copy("--execute")
    assert (ran.code, "with 1 partition" in ran.out) == (0, True)
    assert topic_partitions(pair, "brief", "slave") == {}
    (kept,) = json.loads(pair.run("topics", "deleted", "slave", "--json").out)
    assert (kept["topic"], kept["end_offset"]) == ("brief", end)
    assert "there is no topic brief" in delete_copy("--execute").err

    # The name again: both go on behind the old end.
    assert pair.run("topics", "create", "brief").code == 0
    assert produce(pair, "brief", "three").code == 0
    again = topic_partitions(pair, "brief")[0]
    assert again["start_offset"] == end
    eventually(lambda: copied() == again["end_offset"], "the copy of what came later")
    assert topic_partitions(pair, "brief", "slave")[0]["start_offset"] == end
    assert pair.run("topics", "delete", "brief", "--execute").code == 0
    eventually(lambda: delete_copy("--execute").code == 0, "the end of the test")


def test_a_slave_without_its_master_puts_nothing_aside(home: Home) -> None:
    home.start()
    home.start_slave()
    assert produce(home, "test", "one").code == 0
    eventually(lambda: bool(topic_partitions(home, "test", "slave")), "the copy")
    assert home.run("stop").code == 0
    ran = home.run("topics", "delete", "test", "slave", "--execute")
    assert (ran.code, "has not heard from its master" in ran.err) == (1, True)
    assert topic_partitions(home, "test", "slave")
    ran = home.run("topics", "delete", "other", "slave", "--execute")
    assert (ran.code, "no topic other at this slave" in ran.err) == (1, True)
