"""Through discovery: messages to and from all brokers of a cluster, and what its topics look like."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast
from urllib.request import urlopen

import attrs
import pytest
import trio
import trio.testing

from metaserver.cli.cluster_produce import key_function
from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.group_consume import Job, print_messages
from metaserver.cli.output import Failure
from metaserver.cli.topic_report import PartitionReport, ReplicaReport, TopicReport, describe
from metaserver.client import Partition
from metaserver.registry.paths import Replica
from tests.cli.conftest import ended
from tests.support import BrokerProcess, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metaserver.cli.group_consume import Output
    from metaserver.client import Consumer
    from tests.cli.conftest import Home

_PIPE_BYTES = 64 * 1024
LINES = "".join(f"{number}\n" for number in range(100))


@pytest.fixture
def two(cluster: Home, topic: str) -> str:
    """A topic of two partitions, announced by both nodes, without messages of its own."""
    name = f"two-{topic}"
    for partition in ("0", "1"):
        cluster.run("produce", name, "--partition", partition, stdin="first\n")
    cluster.wait_announced(name)
    assert cluster.run("consume", name, "--group", f"g-{name}", "--count", "2").out == "first\nfirst\n"
    return name


def topic_of(home: Home, name: str) -> dict[str, Any]:
    (found,) = json.loads(home.run("topics", name, "--json").out)["topics"]
    return dict(found)


def partitions_with(home: Home, name: str) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {0: [], 1: []}
    for line in home.run_bytes("consume", name, "--with-offsets")[1].splitlines():
        place, _, payload = line.partition(b"\t")
        found[int(place.split(b":")[0])].append(payload)
    return found


def test_lines_are_spread_and_come_back_in_the_order_of_each_partition(cluster: Home, two: str) -> None:
    ran = cluster.run("produce", two, "--cluster", stdin=LINES)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("100 messages acknowledged, 190 bytes")
    assert ran.out.endswith("; 2 partitions, broker 0: 100\n")
    ran = cluster.run("consume", two, "--group", f"g-{two}", "--count", "100", "--with-offsets")
    assert ran.code == 0
    by_partition: dict[str, list[tuple[int, int]]] = {}
    for line in ran.out.splitlines():
        place, _, payload = line.partition("\t")
        partition, _, offset = place.partition(":")
        by_partition.setdefault(partition, []).append((int(offset), int(payload)))
    assert set(by_partition) == {"0-0", "0-1"}
    assert all(found == sorted(found) for found in by_partition.values())
    assert sorted(number for found in by_partition.values() for _, number in found) == list(range(100))
    assert topic_of(cluster, two)["messages"] == 102


@pytest.mark.parametrize(
    ("option", "line", "payload"),
    [(["--key-separator", ":"], "k{}:{}", "{}"), (["--key-regex", "^(k[0-9]):"], "k{}:{}", None)],
)
def test_equal_keys_go_to_one_partition_in_order(
    option: list[str], line: str, payload: str | None, cluster: Home, two: str
) -> None:
    lines = [(number % 5, number) for number in range(100)]
    text = "".join(line.format(key, number) + "\n" for key, number in lines)
    assert cluster.run("produce", two, "--cluster", *option, stdin=text).code == 0
    places: dict[int, set[int]] = {}
    for partition, found in partitions_with(cluster, two).items():
        numbers = [int(body.decode().rpartition(":")[2]) for body in found[1:]]
        assert numbers == sorted(numbers)
        for number in numbers:
            places.setdefault(number % 5, set()).add(partition)
        if payload is not None:
            assert all(b":" not in body for body in found)
    assert [len(places[key]) for key in range(5)] == [1] * 5


def test_one_partition_of_the_cluster(cluster: Home, two: str) -> None:
    ran = cluster.run("produce", two, "--cluster", "--partition", "0-1", "--no-batch", stdin="a\nb\n")
    assert ran.code == 0
    assert partitions_with(cluster, two) == {0: [b"first"], 1: [b"first", b"a", b"b"]}
    ran = cluster.run("produce", two, "--cluster", "--partition", "0-2", stdin="a\n")
    assert (ran.code, "it has 0-0, 0-1" in ran.err) == (ExitCode.FAILED, True)


def test_a_topic_that_a_section_with_a_star_brings_into_being(cluster: Home, topic: str) -> None:
    ran = cluster.run("produce", topic, "--cluster", stdin="a\nb\n")
    assert (ran.code, ran.out.startswith("2 messages acknowledged")) == (0, True), ran.err
    assert cluster.run("consume", topic).out == "a\nb\n"


def test_a_message_that_is_refused_is_named_and_ends_it(cluster: Home, two: str) -> None:
    ran = cluster.run("produce", two, "--cluster", "--no-batch", stdin="a\n" + "x" * 1_200_000 + "\nc\n")
    assert ran.code == ExitCode.NOT_ACKNOWLEDGED
    assert "message 2: message to two-" in ran.err
    assert "was refused with status" in ran.err


def test_formats_and_where_a_new_group_begins(cluster: Home, topic: str) -> None:
    cluster.run("produce", topic, "--attribute", "kind", stdin="one\n")
    cluster.wait_announced(topic)
    ran = cluster.run("consume", topic, "--group", f"j-{topic}", "--count", "1", "--format", "json")
    found = json.loads(ran.out)
    assert (found["partition"], found["offset"], found["payload"], found["attribute"]) == (
        "0-0",
        0,
        "one",
        "kind",
    )
    records = cluster.run_bytes(
        "consume", topic, "--group", f"r-{topic}", "--count", "1", "--format", "records"
    )
    assert records[1] == b"\0\0\0\3one"
    late = ("consume", topic, "--group", f"l-{topic}", "--from", "end", "--idle-exit", "0.2")
    assert cluster.run(*late) == (0, "", "")
    again = ("consume", topic, "--group", f"j-{topic}", "--idle-exit", "0.2")
    assert cluster.run(*again) == (0, "", "")


@pytest.mark.parametrize("read_from", ["master", "slave"])
def test_which_replica_is_read(read_from: str, cluster: Home, two: str) -> None:
    cluster.run("produce", two, "--cluster", stdin=LINES)
    cluster.wait_announced(two)
    before = [sent_bytes(cluster, two), sent_bytes(cluster, two, "slave")]
    options = ("--group", f"{read_from}-{two}", "--count", "102", "--read-from", read_from)
    assert cluster.run("consume", two, *options).out.count("\n") == 102
    master, slave = sent_bytes(cluster, two) - before[0], sent_bytes(cluster, two, "slave") - before[1]
    assert (master, slave > 0) == (0, True) if read_from == "slave" else (master > 0, slave) == (True, 0)


def sent_bytes(home: Home, topic: str, *role: str) -> int:
    """How many bytes of a topic a node has given to readers."""
    with urlopen(f"http://127.0.0.1:{home.status(*role)['http_port']}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(
        rf'^metaserver_topic_sent_bytes_total{{topic="{topic}"}} ([0-9.e+]+)$', text, re.MULTILINE
    )
    return int(float(found[0])) if found else 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_in_order(number: signal.Signals, code: int, cluster: Home, two: str) -> None:
    with ended(cluster.popen("consume", two, "--group", f"g-{two}", stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        for text in ("a\n", "b\n"):
            cluster.run("produce", two, "--cluster", stdin=text)
            assert process.stdout.readline() == text.encode()
        process.send_signal(number)
        assert process.wait(30) == code
    cluster.run("produce", two, "--cluster", stdin="c\n")
    # Both were stored, also the last; and the partitions are free at once.
    assert cluster.run("consume", two, "--group", f"g-{two}", "--count", "1").out == "c\n"
    assert json.loads(cluster.run("groups", f"g-{two}", "--json").out)["members"] == []


def test_who_has_seen_enough(cluster: Home, topic: str) -> None:
    cluster.run("produce", topic, stdin="line\n" * 100_000)
    cluster.wait_announced(topic)
    group = f"g-{topic}"
    with ended(
        cluster.popen("consume", topic, "--group", group, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    ) as process:
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        assert os.read(descriptor, 5) == b"line\n"
        # What the pipe holds was written; what it does not hold must not be stored.
        eventually(lambda: _size_of(descriptor) > _PIPE_BYTES - 4096, "a pipe that is nearly full")
        waiting = _size_of(descriptor)
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    (partition,) = json.loads(cluster.run("groups", group, "--json").out)["partitions"]
    assert (waiting + 5) // 5 <= partition["offset"] // 24 <= (_PIPE_BYTES + 5) // 5


def _size_of(descriptor: int) -> int:
    """Bytes in a pipe that have not been read."""
    import fcntl
    import termios

    count = fcntl.ioctl(descriptor, termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(count, "little")


@attrs.define
class FakeConsumer:
    """Hands out numbers, and knows what was committed."""

    count: int = 0
    committed: list[int] = attrs.Factory(list)

    async def __anext__(self) -> int:
        await trio.lowlevel.checkpoint()
        self.count += 1
        return self.count

    async def commit(self, message: int) -> None:
        await trio.lowlevel.checkpoint()
        self.committed.append(message)


@attrs.define
class FakeOutput:
    """Takes some, and then fails, or never comes back."""

    failure: OSError | None = None
    limit: int = 2
    written: list[bytes] = attrs.Factory(list)

    async def write(self, data: bytes) -> None:
        if len(self.written) == self.limit:
            if self.failure is None:
                await trio.sleep_forever()
            else:
                raise self.failure
        self.written.append(data)


@pytest.mark.parametrize("failure", [BrokenPipeError(), OSError(28, "full"), None])
@pytest.mark.parametrize("limit", [0, 2])
def test_nothing_is_stored_behind_what_was_written(
    failure: OSError | None, limit: int, autojump_clock: trio.testing.MockClock
) -> None:
    consumer, output = FakeConsumer(), FakeOutput(failure, limit)
    job = Job(
        topic="t",
        group="g",
        start="earliest",
        read_from="any",
        count=None,
        idle_seconds=None,
        render=lambda message: b"%d" % cast("int", message),
    )

    async def run() -> None:
        with suppress(OSError), trio.move_on_after(1):
            await print_messages(cast("Consumer", consumer), job, cast("Output", output))

    trio.run(run, clock=autojump_clock)
    assert output.written == [b"1", b"2"][:limit]
    assert consumer.committed == [2][:limit]


def test_control_c_tells_how_far_a_producer_came(cluster: Home, two: str) -> None:
    with ended(
        cluster.popen("produce", two, "--cluster", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\nb\nhalf a line")
        process.stdin.flush()
        eventually(lambda: topic_of(cluster, two)["messages"] == 4, "the first messages")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().startswith(b"2 messages acknowledged")
        process.stdin.close()
        assert process.wait(30) == ExitCode.INTERRUPTED


def test_topics_of_the_cluster(cluster: Home, two: str) -> None:
    found = topic_of(cluster, two)
    assert [part["partition"] for part in found["partitions"]] == ["0-0", "0-1"]
    for part in found["partitions"]:
        assert [replica["replica"] for replica in part["replicas"]] == ["0-m", "0-s0"]
        assert part["replicas"][0]["address"] == f"127.0.0.1:{cluster.port}"
        assert part["replicas"][1]["address"] == f"127.0.0.1:{cluster.slave_port}"
        assert (part["start_offset"], part["end_offset"], part["replicas"][1]["lag_bytes"]) == (0, 25, 0)
    text = cluster.run("topics", two).out
    assert text.startswith(f"{two}: 2 partitions, 2 messages, 50 bytes\n")
    assert f"127.0.0.1:{cluster.port}  0: 127.0.0.1:{cluster.slave_port} (level)" in text
    names = [
        entry["topic"] for entry in json.loads(cluster.run("topics", "--cluster", "--json").out)["topics"]
    ]
    assert {two, "empty"} <= set(names)


@pytest.fixture
def second(cluster: Home) -> Iterator[BrokerProcess]:
    """Another master in the registry of the first, with a topic that both have."""
    port = cluster.status()["embedded_registry"]["port"]
    found = BrokerProcess(
        cluster.base / "second",
        settings={"brokerId": 1},
        topics=f"[topic=shared]\n\n[zookeeper]\nzk.zkConnect=127.0.0.1:{port}\nzk.zkSyncTimeMs=0\n",
    )
    try:
        found.start()
        found.wait_registered()
        yield found
    finally:
        found.make_sure_it_is_gone()


def test_a_slave_knows_where_the_registry_is(cluster: Home, two: str) -> None:
    of_slave = ("--servers", f"metaq://127.0.0.1:{cluster.slave_port}")
    ran = cluster.run("produce", two, "--cluster", *of_slave, stdin=LINES)
    assert ran.code == 0, ran.err
    ran = cluster.run("consume", two, "--group", f"s-{two}", "--count", "102", *of_slave)
    assert (ran.code, len(ran.out.splitlines())) == (0, 102), ran.err


def test_all_brokers_take_their_share_and_one_that_is_silent_is_shown(
    cluster: Home, second: BrokerProcess
) -> None:
    ran = cluster.run("produce", "shared", "--cluster", stdin="x\n" * 10)
    assert ran.out.endswith("; 2 partitions, broker 0: 5, broker 1: 5\n")
    assert cluster.run("consume", "shared", "--group", "both", "--count", "10").out == "x\n" * 10
    found = {part["partition"]: part for part in topic_of(cluster, "shared")["partitions"]}
    assert [found[name]["end_offset"] for name in ("0-0", "1-0")] == [105, 105]
    second.kill()
    text = cluster.run("topics", "shared").out
    assert f"127.0.0.1:{second.port} (silent)" in text
    ran = cluster.run("groups", "both")
    assert (ran.code, "unknown" in ran.out.splitlines()[0]) == (0, True)
    assert f"127.0.0.1:{second.port} cannot be reached" in ran.out


def test_a_profile_names_servers_and_group(
    cluster: Home, two: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "client.toml"
    file.write_text(
        f'[profiles.here]\nservers = "metaq://127.0.0.1:{cluster.port}"\ngroup = "of-{two}"\n'
        '[profiles.bare]\nservers = "metaq://127.0.0.1:1"\n'
    )
    monkeypatch.setenv("METASERVER_CLIENT_TOML", str(file))
    ran = cluster.run("produce", two, "--profile", "here", stdin="a\nb\n")
    assert ran.out.endswith("; 2 partitions, broker 0: 2\n")
    assert cluster.run("consume", two, "--profile", "here", "--count", "4").out.count("\n") == 4
    found = json.loads(cluster.run("groups", f"of-{two}", "--profile", "here", "--json").out)
    assert found["lag_messages"] == 0
    assert cluster.run("groups", "--profile", "bare").code == ExitCode.UNREACHABLE
    assert cluster.run("consume", two, "--profile", "bare").code == ExitCode.USAGE
    assert cluster.run("groups", "--profile", "none").code == ExitCode.CONFIGURATION


def test_mistakes(cluster: Home) -> None:
    def usage(*arguments: str, told: str) -> None:
        ran = cluster.run(*arguments, stdin="a\n")
        assert (ran.code, told in ran.err) == (ExitCode.USAGE, True), ran

    usage("consume", "empty", "--group", "a.b", told="'.'")
    usage("consume", "empty", "--group", "g", "--server", "h:1", told="--servers metaq://HOST:PORT")
    usage("consume", "empty", "--group", "g", "--partition", "0", told="shares the partitions")
    usage("consume", "empty", "--group", "g", "--slave", told="--read-from slave")
    usage("consume", "empty", "--group", "g", "--no-follow", told="--idle-exit")
    usage("consume", "empty", "--group", "g", "--from", "12", told="groups reset")
    usage("consume", "empty", "--group", "g", "--format", "raw", told="raw")
    usage("consume", "empty", "--idle-exit", "1", told="belongs to --group")
    usage("consume", "empty", "--servers", "metaq://h:1", told="belongs to --group")
    usage("consume", "empty", "--read-from", "any", told="belongs to --group")
    usage("produce", "empty", "--cluster", "--server", "h:1", told="finds all")
    usage("produce", "empty", "--key-regex", "x", told="belongs to --cluster")
    usage("produce", "empty", "--cluster", "--key-regex", "(", told="--key-regex (")
    usage("produce", "empty", "--cluster", "--partition", "1", told="BROKER-PARTITION")
    usage("produce", "empty", "--partition", "0-1", told="write a number")
    usage("topics", "empty", "--server", "h:1", told="of one node")
    nowhere = (
        ["consume", "nowhere", "--group", "g"],
        ["produce", "nowhere", "--cluster"],
        ["topics", "nowhere"],
    )
    for verb in nowhere:
        ran = cluster.run(*verb, stdin="a\n")
        assert (ran.code, "no broker announces topic 'nowhere'" in ran.err) == (ExitCode.FAILED, True), ran
    for verb in (["consume", "empty", "--group", "g"], ["produce", "empty"], ["topics"]):
        ran = cluster.run(*verb, "--servers", "metaq://127.0.0.1:1", stdin="a\n")
        assert (ran.code, "cannot be reached" in ran.err) == (ExitCode.UNREACHABLE, True), ran


def test_keys() -> None:
    assert key_function(None, None)(b"a:b") == (None, b"a:b")
    by_tab = key_function("\\t", None)
    assert by_tab(b"k\tv\tw") == (b"k", b"v\tw")
    assert by_tab(b"none") == (None, b"none")
    assert key_function(None, "id=([0-9]+)")(b"x id=12 y") == (b"12", b"x id=12 y")
    assert key_function(None, "[0-9]+")(b"x 12") == (b"12", b"x 12")
    assert key_function(None, "[0-9]+")(b"x") == (None, b"x")
    for separator, regex in ((":", "x"), ("", None), (None, "(")):
        with pytest.raises(Failure):
            key_function(separator, regex)


def test_topics_while_a_master_is_away_and_a_slave_lags() -> None:
    partition = Partition("t", 3, 0)
    master = ReplicaReport(Replica(3), ("m", 1), {("t", 0): (10, 110)}, {"t": 5})
    slave = ReplicaReport(Replica(3, 0), ("s", 2), {("t", 0): (10, 100)}, {"t": 4})
    whole = PartitionReport(partition, (master, slave))
    assert (whole.ends, whole.lag_bytes(slave)) == ((10, 110), 10)
    text = describe([TopicReport("t", [whole])])
    assert text.splitlines()[0] == "t: 1 partition, 5 messages, 100 bytes"
    assert "m:1" in text
    assert "0: s:2 (10 behind)" in text
    away = attrs.evolve(master, address=None)
    without = PartitionReport(partition, (away, slave))
    assert (without.ends, without.lag_bytes(away), without.lag_bytes(slave)) == ((10, 100), None, 0)
    text = describe([TopicReport("t", [without])])
    assert text.splitlines()[0] == "t: 1 partition, 4 messages, 90 bytes"
    assert "away" in text
    assert "0: s:2 (level)" in text
    silent = PartitionReport(partition, (attrs.evolve(master, problem="it is silent"), slave))
    assert "m:1 (silent)" in describe([TopicReport("t", [silent])])
    assert "3-m: it is silent" in describe([TopicReport("t", [silent])])
    assert describe([]) == "no topics"
