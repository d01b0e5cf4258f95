"""Messages out: every format, every starting point, from the master and from the slave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from metaserver.cli.exit_codes import ExitCode
from tests.support import eventually, put, record
from tools.ports import free_port

if TYPE_CHECKING:
    from tests.cli.conftest import Home


@pytest.fixture
def filled(pair: Home, topic: str) -> str:
    """A topic with three messages: one, nothing, three."""
    assert pair.run("produce", topic, stdin="one\n\nthree\n").code == 0
    return topic


def copied(pair: Home, topic: str) -> bool:
    return f"{topic} part 0 min_offset 0" in pair.run("stats", "offsets", "slave").out


def test_a_file_goes_through_master_and_slave_unchanged(pair: Home, topic: str) -> None:
    content = b"".join(b"%d:%b\n" % (n, os.urandom(n % 90).replace(b"\n", b" ")) for n in range(60_000))
    assert pair.run_bytes("produce", topic, stdin=content)[0] == 0
    assert pair.run_bytes("consume", topic) == (0, content, b"")
    slave = pair.run_bytes("consume", topic, "--slave", "--follow", "--count", "60000")
    assert slave == (0, content, b"")
    records = pair.run_bytes("consume", topic, "--format", "records")[1]
    assert len(records) == len(content) + 3 * 60_000
    raw = pair.run_bytes("consume", topic, "--format", "raw")[1]
    files = sorted((pair.base / "data" / "master" / f"{topic}-0").glob("*.meta"))
    assert len(files) > 1, "more than one segment is wanted here"
    assert raw == b"".join(file.read_bytes() for file in files)


def test_formats(pair: Home, filled: str) -> None:
    def consume(*options: str) -> bytes:
        code, out, err = pair.run_bytes("consume", filled, *options)
        assert (code, err) == (0, b"")
        return out

    assert consume() == b"one\n\nthree\n"
    assert consume("--with-offsets") == b"0:0\tone\n0:23\t\n0:43\tthree\n"
    assert consume("--format", "records") == b"\0\0\0\3one\0\0\0\0\0\0\0\5three"
    lines = [json.loads(line) for line in consume("--format", "json").splitlines()]
    assert [(line["offset"], line["payload"], line["attribute"]) for line in lines] == [
        (0, "one", None),
        (23, "", None),
        (43, "three", None),
    ]
    assert lines[0]["topic"] == filled
    assert consume("--count", "1") == b"one\n"
    assert consume("--count", "2", "--format", "json").count(b"\n") == 2
    assert consume("--count", "1", "--format", "raw") == record(b"one", lines[0]["id"])
    assert consume("--from", "23") == b"\nthree\n"
    assert consume("--from", "end") == b""
    assert consume("--from", "1h".rjust(3, "-")) == b"one\n\nthree\n"
    assert consume("--from", f"@{time.time() + 60:.3f}") == b""
    assert consume("--from", "2020-01-01T00:00:00+00:00") == b"one\n\nthree\n"


def test_attributes_and_bytes_that_are_no_text(pair: Home, topic: str) -> None:
    pair.run_bytes("produce", topic, "--attribute", "kind", stdin=b"\xff\n")
    (line,) = pair.run("consume", topic, "--format", "json").out.splitlines()
    found = json.loads(line)
    assert (found["attribute"], found["payload_base64"], "payload" in found) == ("kind", "/w==", False)
    assert pair.run_bytes("consume", topic)[1] == b"\xff\n"


def test_from_a_time_between_two_messages_of_many_segments(pair: Home, topic: str) -> None:
    big = "x" * 100_000 + "\n"
    pair.run("produce", topic, "--batch-bytes", "1024", stdin=big * 25)
    ids = [json.loads(line)["id"] for line in pair.run("consume", topic, "--format", "json").out.splitlines()]
    pair.run("produce", topic, stdin="late\n")
    (late,) = pair.run("consume", topic, "--format", "json", "--from", str(25 * 100_020)).out.splitlines()
    moment = ((json.loads(late)["id"] >> 22) + 1303895660503) / 1000
    assert pair.run("consume", topic, "--from", f"@{moment:.3f}").out == "late\n"
    early = ((ids[10] >> 22) + 1303895660503) / 1000
    expected = 26 - next(n for n, found in enumerate(ids) if found >> 22 >= ids[10] >> 22)
    assert pair.run("consume", topic, "--from", f"@{early:.3f}").out.count("\n") == expected


def test_all_partitions_or_one(pair: Home, topic: str) -> None:
    name = f"two-{topic}"
    for partition in ("0", "1"):
        pair.run("produce", name, "--partition", partition, stdin=f"{partition}a\n{partition}b\n")
    lines = pair.run("consume", name, "--with-offsets").out.splitlines()
    assert sorted(lines) == ["0:0\t0a", "0:22\t0b", "1:0\t1a", "1:22\t1b"]
    assert pair.run("consume", name, "--partition", "1").out == "1a\n1b\n"
    assert pair.run("consume", name, "--count", "3").out.count("\n") == 3


def test_follow_waits_for_more_and_control_c_ends_it(pair: Home, topic: str) -> None:
    with pair.popen("consume", topic, "--follow", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for text in (b"first\n", b"second\n"):
            pair.run_bytes("produce", topic, stdin=text)
            assert process.stdout.readline() == text
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == ExitCode.INTERRUPTED
        assert process.stdout.read() == b""


def test_follow_goes_on_after_the_broker_comes_back(home: Home) -> None:
    home.configure(serverPort=free_port())
    home.start()
    home.run("produce", "test", stdin="before\n")
    with home.popen("consume", "test", "--follow", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"before\n"
        assert home.run("restart").code == 0
        home.run("produce", "test", stdin="after\n")
        assert process.stdout.readline() == b"after\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert b"connecting again" in err


def test_who_has_seen_enough(pair: Home, topic: str) -> None:
    pair.run("produce", topic, stdin="line\n" * 200_000)
    with pair.popen("consume", topic, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"line\n"
        process.stdout.close()
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_mistakes(pair: Home) -> None:
    assert pair.run("consume", "nowhere").code == ExitCode.FAILED
    assert "no topic 'nowhere'" in pair.run("consume", "nowhere").err
    assert pair.run("consume", "empty") == (0, "", "")
    assert pair.run("consume", "a b").code == ExitCode.USAGE
    assert pair.run("consume", "empty", "--from", "yesterday").code == ExitCode.USAGE
    assert pair.run("consume", "empty", "--format", "raw", "--with-offsets").code == ExitCode.USAGE
    assert pair.run("consume", "empty", "--server", "127.0.0.1:1").code == ExitCode.UNREACHABLE
    ran = pair.run("consume", "empty", "--server", "127.0.0.1:70000")
    assert (ran.code, "a port that is not in 1 to 65535" in ran.err) == (ExitCode.USAGE, True)
    digits = "9" * 5000
    assert pair.run("consume", "empty", "--server", f"127.0.0.1:{digits}").code == ExitCode.USAGE
    assert pair.run("consume", "empty", "--from", digits).code == ExitCode.USAGE


@pytest.mark.parametrize("following", [[], ["--follow"]])
def test_an_offset_at_which_no_message_begins(pair: Home, filled: str, following: list[str]) -> None:
    ran = pair.run("consume", filled, "--from", "5", *following)
    assert (ran.code, ran.out) == (ExitCode.FAILED, "")
    assert "no message begins at offset 5; the nearest that do are at 0 and 23" in ran.err
    ran = pair.run("consume", filled, "--from", "1000000", *following)
    assert (ran.code, ran.out) == (ExitCode.FAILED, "")
    assert "offset 1000000 is outside of its log, which begins at 0 and ends at" in ran.err


def test_a_record_as_large_as_a_fetch(pair: Home, topic: str) -> None:
    body = b"y" * (1_048_576 - 20)
    with pair.connect() as wire:
        assert wire.ask(put(topic, body, 1)).status == 200
    assert pair.run_bytes("consume", topic)[1] == body + b"\n"


def test_reading_on_behind_damage(home: Home) -> None:
    home.start()
    home.run("produce", "test", stdin="one\ntwo\nthree\n")
    os.kill(home.status()["pid"], signal.SIGKILL)
    eventually(lambda: not home.status()["running"], "the end of a killed broker")
    (file,) = (home.base / "data" / "master" / "test-0").glob("*.meta")
    content = bytearray(file.read_bytes())
    content[23 + 20] ^= 1
    file.write_bytes(content)
    (file.parent / "recovery.checkpoint").unlink(missing_ok=True)
    home.start()
    ran = home.run("consume", "test")
    assert (ran.code, ran.out) == (0, "one\nthree\n")
    assert "nothing at offset 23; going on at 46" in ran.err
