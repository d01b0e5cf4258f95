"""Messages in: what is sent, in which order, and what is said when it goes wrong."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from struct import pack
from typing import TYPE_CHECKING

import pytest

from metaserver.cli.exit_codes import ExitCode
from tests.support import eventually, get, parse_records, put, put_batch, record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Home
    from tests.support import Stored


def stored(home: Home, topic: str) -> list[Stored]:
    with home.connect() as wire:
        return parse_records(wire.ask(get(topic, 0, 1 << 20, 1)).body)


@pytest.mark.parametrize("how", [[], ["--no-batch"], ["--batch-bytes", "1024"]])
def test_lines_become_messages_in_their_order(how: list[str], pair: Home, topic: str) -> None:
    lines = [b"%d" % number * (number % 40) for number in range(3000)]
    code, out, err = pair.run_bytes("produce", topic, *how, stdin=b"\n".join(lines))
    assert (code, err) == (0, b"")
    found = stored(pair, topic)
    assert [message.data for message in found] == lines
    assert out.startswith(b"3,000 messages acknowledged, ")
    assert out.endswith(b"offsets 0 to %d\n" % found[-1].offset)


def test_a_line_is_everything_but_its_line_feed(pair: Home, topic: str) -> None:
    pair.run_bytes("produce", topic, stdin=b"a\r\n\n\0\xff\n")
    assert [message.data for message in stored(pair, topic)] == [b"a\r", b"", b"\0\xff"]


def test_records_from_a_file_with_an_attribute(pair: Home, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "records"
    file.write_bytes(b"".join(pack(">i", len(body)) + body for body in (b"one\n", b"", b"two")))
    ran = pair.run("produce", topic, "--file", str(file), "--format", "records", "--attribute", "kind")
    assert ran.code == 0
    assert [(message.flag, message.data) for message in stored(pair, topic)] == [
        (1, pack(">i", 4) + b"kind" + body) for body in (b"one\n", b"", b"two")
    ]


def test_what_arrives_is_sent_at_once(pair: Home, topic: str) -> None:
    with pair.popen("produce", topic, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(b"first\nsec")
        process.stdin.flush()
        with pair.connect() as wire:
            eventually(lambda: wire.ask(get(topic, 0, 100, 1)).status is None, "the first message")
        process.stdin.write(b"ond\n")
        process.communicate(timeout=30)
    assert [message.data for message in stored(pair, topic)] == [b"first", b"second"]


def test_a_rate_is_kept(pair: Home, topic: str) -> None:
    ran = pair.run("produce", topic, "--rate", "100", stdin="x\n" * 31)
    seconds = float(re.findall(r"in ([0-9.]+) s:", ran.out)[0])
    assert 0.25 <= seconds < 10
    assert len(stored(pair, topic)) == 31


def test_any_partition(pair: Home, topic: str) -> None:
    ran = pair.run("produce", f"two-{topic}", "--partition", "-1", "--no-batch", stdin="x\n" * 40)
    assert ran.code == 0
    assert "40 messages acknowledged" in ran.out


@pytest.mark.parametrize(
    ("how", "which"),
    [([], "messages 1 to 2 (one batch) were refused"), (["--no-batch"], "message 1 was refused")],
)
def test_a_refusal_names_the_messages(how: list[str], which: str, pair: Home) -> None:
    ran = pair.run("produce", "unknown", *how, stdin="a\nb\n")
    assert ran.code == ExitCode.NOT_ACKNOWLEDGED
    assert ran.out.startswith("0 messages acknowledged")
    assert f"{which} by the broker, so not stored: 500 " in ran.err
    assert "write [topic=unknown] into it, and type `metaServer reload`" in ran.err


def test_a_message_too_long_is_named_and_what_came_before_is_stored(pair: Home, topic: str) -> None:
    lines = "a\nb\n" + "x" * 1_200_000 + "\nc\n"
    ran = pair.run("produce", topic, "--no-batch", stdin=lines)
    assert ran.code == ExitCode.NOT_ACKNOWLEDGED
    assert "message 3 was refused" in ran.err
    assert [message.data for message in stored(pair, topic)][:2] == [b"a", b"b"]


def test_a_slave_refuses_and_names_its_master(pair: Home, topic: str) -> None:
    ran = pair.run("produce", topic, "--server", f"127.0.0.1:{pair.slave_port}", stdin="a\n")
    assert ran.code == ExitCode.NOT_ACKNOWLEDGED
    assert f"127.0.0.1:{pair.port}" in ran.err


def test_mistakes(pair: Home, tmp_path: Path) -> None:
    assert pair.run("produce", "a/b").code == ExitCode.USAGE
    assert pair.run("produce", "test", "--server", "127.0.0.1").code == ExitCode.USAGE
    assert pair.run("produce", "test", "--server", "127.0.0.1:1").code == ExitCode.UNREACHABLE
    ran = pair.run("produce", "test", "--file", str(tmp_path / "none"))
    assert (ran.code, "none: cannot be read" in ran.err) == (ExitCode.FAILED, True)
    ran = pair.run("produce", "test", "--file", str(tmp_path))
    assert (ran.code, f"{tmp_path}: cannot be read: Is a directory" in ran.err) == (ExitCode.FAILED, True)


def test_input_that_ends_inside_a_record(pair: Home, topic: str) -> None:
    code, out, err = pair.run_bytes(
        "produce", topic, "--format", "records", stdin=pack(">i", 1) + b"a" + pack(">i", 9) + b"b"
    )
    assert (code, out.startswith(b"1 message acknowledged")) == (ExitCode.FAILED, True)
    assert b"ends inside a record" in err


def test_control_c_tells_how_far_it_came(pair: Home, topic: str) -> None:
    with pair.popen(
        "produce", topic, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\nb\nhalf a line")
        process.stdin.flush()
        with pair.connect() as wire:
            eventually(lambda: wire.ask(get(topic, 0, 100, 1)).status is None, "the first messages")
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read().startswith(b"2 messages acknowledged")
        process.stdin.close()
        assert process.wait(30) == ExitCode.INTERRUPTED


def test_a_broker_that_dies_leaves_the_fate_open(home: Home) -> None:
    home.start()
    pid = home.status()["pid"]
    with home.popen(
        "produce", "test", "--no-batch", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        with home.connect() as wire:
            eventually(lambda: wire.ask(get("test", 0, 100, 1)).status is None, "the first message")
        os.kill(pid, signal.SIGSTOP)
        process.stdin.write(b"b\nc\n")
        process.stdin.flush()
        eventually(lambda: _unsent_input(process) == 0, "the messages on their way")
        os.kill(pid, signal.SIGKILL)
        out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.NOT_ACKNOWLEDGED
    assert out.startswith(b"1 message acknowledged")
    assert b"2 messages without a reply, between message from 2 to 3" in err


def _unsent_input(process: subprocess.Popen[bytes]) -> int:
    """Bytes in the pipe that the producer has not read yet."""
    import fcntl
    import termios

    assert process.stdin is not None
    count = fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return int.from_bytes(count, "little")


def test_a_terminal_sees_a_bar(pair: Home, topic: str, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"x\n" * 10)
    controller, terminal = pty.openpty()
    try:
        process = pair.popen(
            "produce", topic, "--file", str(file), "--rate", "50", stdout=subprocess.PIPE, stderr=terminal
        )
        os.close(terminal)
        shown = b""
        while True:
            try:
                shown += os.read(controller, 65536)
            except OSError:  # How a terminal whose last user has gone reads.
                break
        process.communicate(timeout=30)
    finally:
        os.close(controller)
    assert process.returncode == 0
    assert b"messages" in shown


def test_replies_come_in_the_order_of_the_puts(pair: Home, topic: str) -> None:
    """Groups of different sizes, so that one commit ends while the next waits."""
    with pair.connect() as wire:
        for turn in range(50):
            wire.send(
                put_batch(topic, record(b"a", 1) * 2, 1)
                + put(topic, b"b", 2)
                + put_batch(topic, record(b"c", 1), 3)
            )
            replies = wire.replies(3)
            assert [reply.opaque for reply in replies] == [1, 2, 3]
            end = (turn + 1) * 4 * 21
            assert wire.ask(b"offset %b group 0 9223372036854775807 4\r\n" % topic.encode()).text == str(end)
