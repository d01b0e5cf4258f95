from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from metaserver.control.address import REQUEST_BYTES_MAX
from metaserver.control.client import call
from metaserver.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".control.sock"


@pytest.fixture
def listening(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        yield listener


@pytest.fixture
def answer(listening: socket.socket) -> Iterator[Callable[[bytes], list[bytes]]]:
    """Makes the fake broker answer one request with these bytes; the list will hold what it got."""
    threads = []

    def start(reply: bytes) -> list[bytes]:
        requests: list[bytes] = []

        def serve() -> None:
            connection, _ = listening.accept()
            with connection, connection.makefile("rb") as lines:
                requests.append(lines.readline())
                connection.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        threads.append(thread)
        return requests

    yield start
    for thread in threads:
        thread.join()


def test_one_line_goes_out_and_the_result_comes_back(
    path: Path, answer: Callable[[bytes], list[bytes]]
) -> None:
    requests = answer(b'{"ok": true, "result": {"text": "a\\nb"}}\n')
    assert call(path, "stats", 5, item="topics") == {"text": "a\nb"}
    assert json.loads(requests[0]) == {"command": "stats", "item": "topics"}
    assert requests[0].count(b"\n") == 1


def test_arguments_may_be_called_path_and_command(path: Path, answer: Callable[[bytes], list[bytes]]) -> None:
    requests = answer(b'{"ok": true, "result": {}}\n')
    call(path, "stats", 5, path="x", command="evil")
    assert json.loads(requests[0]) == {"command": "stats", "path": "x"}


def test_a_reply_in_many_pieces(path: Path, answer: Callable[[bytes], list[bytes]]) -> None:
    answer(json.dumps({"ok": True, "result": {"text": "x" * 1_000_000}}).encode() + b"\n")
    assert call(path, "stats", 5) == {"text": "x" * 1_000_000}


def test_a_refusal_is_raised_with_its_text(path: Path, answer: Callable[[bytes], list[bytes]]) -> None:
    answer(b'{"ok": false, "error": "not now"}\n')
    with pytest.raises(ControlError, match="not now") as caught:
        call(path, "stop", 5)
    assert caught.value.reason == "not now"


@pytest.mark.parametrize(
    "reply",
    [
        b"hello\n",
        b"[]\n",
        b"{}\n",
        b'{"ok": true}\n',
        b'{"ok": 1, "result": 2}\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
    ],
)
def test_what_is_no_reply_is_called_so(
    path: Path, reply: bytes, answer: Callable[[bytes], list[bytes]]
) -> None:
    answer(reply)
    with pytest.raises(ControlError, match="does not speak as a metaserver broker does"):
        call(path, "status", 5)


@pytest.mark.parametrize("reply", [b"", b'{"ok": true, "res'])
def test_a_broker_that_ends_before_it_answers(
    path: Path, reply: bytes, answer: Callable[[bytes], list[bytes]]
) -> None:
    answer(reply)
    with pytest.raises(ControlError, match=r"ended before it answered 'stop'.*log in"):
        call(path, "stop", 5)


def test_a_broker_that_refuses_and_closes_before_it_reads(
    path: Path, listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.socket.connect

    def connect_to_a_full_broker(self: socket.socket, address: str) -> None:
        connect(self, address)
        connection, _ = listening.accept()
        with connection:
            connection.sendall(b'{"ok": false, "error": "too many"}\n')

    monkeypatch.setattr(socket.socket, "connect", connect_to_a_full_broker)
    with pytest.raises(ControlError, match="too many"):
        call(path, "status", 5)


def test_no_socket(path: Path) -> None:
    with pytest.raises(ControlError, match="no broker is running here: start it with `metaServer start`"):
        call(path, "status", 5)


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no broker is running here"):
        call(tmp_path / "logs" / ".control.sock", "status", 5)


def test_no_directory_below_a_long_path(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="no broker is running here"):
        call(tmp_path / ("d" * 200) / ".control.sock", "status", 5)


def test_a_slave_is_started_with_another_verb(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="`metaServer start slave`"):
        call(tmp_path / ".control-slave.sock", "slave-status", 5)


def test_a_socket_of_a_dead_broker(path: Path, listening: socket.socket) -> None:
    listening.close()
    with pytest.raises(ControlError, match="no broker is running here"):
        call(path, "status", 5)


@pytest.mark.usefixtures("listening")
def test_a_broker_that_does_not_answer(path: Path) -> None:
    with pytest.raises(ControlError, match=r"did not answer 'status' within 0\.01 s.*log in"):
        call(path, "status", 0.01)


@pytest.mark.usefixtures("listening")
def test_a_broker_that_does_not_even_accept(path: Path) -> None:
    waiting = []
    try:
        for _ in range(2):  # as many as a queue of 1 holds
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].connect(str(path))
        with pytest.raises(ControlError, match="did not answer"):
            call(path, "status", 0.01)
    finally:
        for connection in waiting:
            connection.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may connect to every socket")
@pytest.mark.usefixtures("listening")
def test_a_socket_of_another_user(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(ControlError, match="another user"):
        call(path, "status", 5)


def test_a_request_that_is_too_long_is_not_sent(path: Path) -> None:
    with pytest.raises(ControlError, match=f"at most {REQUEST_BYTES_MAX} bytes"):
        call(path, "stats", 5, item="x" * REQUEST_BYTES_MAX)


def test_the_import_brings_no_trio() -> None:
    program = "import sys, metaserver.control.client; sys.exit('trio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
