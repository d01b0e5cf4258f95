"""compare, against a master and a slave that run: what it prints, and its exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli.exit_codes import ExitCode
from metaserver.storage.filenames import CHECKPOINT_NAME
from tests.support import eventually
from tools.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Home, Ran

    Call = Callable[..., Ran]

PAYLOAD = "a line of some length"
RECORD_BYTES = 20 + len(PAYLOAD)


def addresses(pair: Home) -> tuple[str, str]:
    return f"127.0.0.1:{pair.port}", f"127.0.0.1:{pair.slave_port}"


def report(call: Call, *arguments: object) -> dict[str, Any]:
    ran = call("compare", *arguments, "--json")
    assert ran.err == ""
    found: dict[str, Any] = json.loads(ran.out)
    assert ran.code == (0 if found["equal"] else ExitCode.DIFFERENT)
    return found


def fill(home: Home, topic: str, count: int) -> None:
    assert home.run("produce", topic, stdin=f"{PAYLOAD}\n" * count).code == 0


def wait_for_copy(home: Home, topic: str, size: int) -> None:
    def has_all() -> bool:
        found = json.loads(home.run("topics", "slave", "--json").out)["topics"]
        return any((one["topic"], one["end_offset"]) == (topic, size) for one in found)

    eventually(has_all, "the copy")


def wait_for_more(home: Home, topic: str, size: int) -> None:
    def has_more() -> bool:
        found = json.loads(home.run("topics", "slave", "--json").out)["topics"]
        return any(one["topic"] == topic and one["end_offset"] > size for one in found)

    eventually(has_more, "more messages")


def test_equal_replicas(pair: Home, topic: str, call: Call) -> None:
    fill(pair, topic, 100)
    size = 100 * RECORD_BYTES
    wait_for_copy(pair, topic, size)
    ran = call("compare", *addresses(pair), "--topic", topic)
    assert (ran.code, ran.err) == (0, "")
    first, last = ran.out.splitlines()
    assert first == f"{topic}-0: equal; both hold 0 to {size}"
    assert last.startswith("1 partition, 4.0 KiB of each compared in ")
    assert last.endswith(": equal")
    (found,) = report(call, *addresses(pair), "--topic", topic, "--last", 1000)["partitions"]
    assert found["compared"] == {"start": size - 1000, "end": size}
    assert (found["lag_bytes"], found["only_segments"]) == (0, {})


def test_the_whole_of_a_pair_under_load(pair: Home, topic: str, call: Call) -> None:
    """Also the registry's log; messages flow meanwhile, and the slave is now and then behind."""
    fill(pair, topic, 100)
    wait_for_copy(pair, topic, 100 * RECORD_BYTES)
    lines = pair.base / "lines"
    lines.write_text(f"{PAYLOAD}\n" * 100_000, encoding="utf-8")
    producer = pair.popen("produce", topic, "--rate", "3000", "--no-batch", "--file", str(lines))
    end = 100 * RECORD_BYTES
    try:
        for _ in range(3):
            wait_for_more(pair, topic, end)
            found = report(call, *addresses(pair))
            assert found["equal"], found
            ends = {one["topic"]: one["compared"]["end"] for one in found["partitions"]}
            assert "__registry" in ends
            assert ends[topic] > end
            end = ends[topic]
    finally:
        producer.kill()
        producer.wait()


def test_replicas_that_differ(home: Home, call: Call) -> None:
    topic, size = "test", 40 * RECORD_BYTES
    home.start()
    home.start_slave()
    fill(home, topic, 40)
    wait_for_copy(home, topic, size)
    path = home.base / "data" / "slave" / "test-0" / f"{0:020d}.meta"
    at = 10 * RECORD_BYTES + 25
    with path.open("r+b") as file:
        for position in (at, at + 100):
            file.seek(position)
            file.write(b"#")
    fill(home, topic, 10)

    ran = call("compare", *addresses(home), "--topic", topic)
    assert (ran.code, ran.err) == (ExitCode.DIFFERENT, "")
    lines = ran.out.splitlines()
    assert lines[0].startswith(f"{topic}-0: DIFFERENT; ")
    assert lines[1] == (
        f"  first difference at offset {at}, in the record that begins at {10 * RECORD_BYTES}"
    )
    assert [line.split()[0] for line in lines[2:6]] == ["master:", "bytes", "slave:", "bytes"]
    assert f"{len(PAYLOAD)} bytes, valid: {PAYLOAD}" in lines[2]
    assert lines[3].split()[1:] == [f"{byte:02x}" for byte in PAYLOAD[5:].encode()]
    assert f"{len(PAYLOAD)} bytes, no record: checksum mismatch: a lin#" in lines[4]
    assert lines[5].split()[1:3] == [f"{ord('#'):02x}", f"{ord(PAYLOAD[6]):02x}"]
    assert lines[6] == f"  different: 2 bytes in 2 ranges: {at} to {at + 1}, {at + 100} to {at + 101}"
    assert lines[-1].partition(": ")[2].startswith("1 of them differ")
    (found,) = report(call, *addresses(home), "--topic", topic)["partitions"]
    assert (found["first_difference"], found["record_offset"]) == (at, 10 * RECORD_BYTES)
    assert found["records"]["master"]["id"] == found["records"]["slave"]["id"]
    assert report(call, *addresses(home), "--topic", topic, "--from", at + 101)["equal"]

    # A start looks at what it does not know to be good, and such bytes are given to nobody. The slave has no
    # master for that: it would have them repaired, and how soon is not for this test.
    assert home.run("stop", "slave").code == 0
    (path.parent / CHECKPOINT_NAME).unlink()
    own = home.slave_file.read_text(encoding="utf-8")
    assert f"masterAddress=127.0.0.1:{home.port}\n" in own
    own = own.replace(f"masterAddress=127.0.0.1:{home.port}\n", "masterAddress=127.0.0.1:1\n")
    home.slave_file.write_text(own, encoding="utf-8")
    assert home.run("start", "slave").code == 0
    home.slave_port = int(home.status("slave")["address"].rpartition(":")[2])
    ran = call("compare", *addresses(home), "--topic", topic)
    assert (ran.code, ran.err) == (ExitCode.DIFFERENT, "")
    start = 10 * RECORD_BYTES
    assert (
        f"  the slave gives no bytes from {start} to {start + RECORD_BYTES}: damaged or missing"
        in ran.out.splitlines()
    )


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nowhere", "127.0.0.1:1"], ExitCode.USAGE, "is no address of a broker"),
        (["127.0.0.1:1"], ExitCode.USAGE, "Missing argument 'SLAVE'"),
        (["127.0.0.1:1", "127.0.0.1:2", "--from", "end"], ExitCode.USAGE, "--from end"),
        (["127.0.0.1:1", "127.0.0.1:1"], ExitCode.USAGE, "are one broker"),
        (["127.0.0.1:1", "localhost:1"], ExitCode.USAGE, "are one broker"),
    ],
)
def test_what_cannot_be_asked(arguments: list[str], code: int, text: str, call: Call) -> None:
    ran = call("compare", *arguments)
    assert (ran.code, text in ran.err) == (code, True)


def test_a_broker_that_is_not_there(pair: Home, call: Call) -> None:
    port = free_port()
    ran = call("compare", addresses(pair)[0], f"127.0.0.1:{port}")
    assert (ran.code, f"broker 127.0.0.1:{port} cannot be reached" in ran.err) == (ExitCode.UNREACHABLE, True)


def test_a_topic_that_neither_has(pair: Home, call: Call) -> None:
    ran = call("compare", *addresses(pair), "--topic", "nobody")
    assert (ran.code, "neither" in ran.err) == (ExitCode.FAILED, True)
