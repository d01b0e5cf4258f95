"""Ask a running broker something over its control socket; blocking, standard library only."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from metaserver.control.address import REQUEST_BYTES_MAX, SLAVE_SOCKET_NAME, socket_address
from metaserver.errors import ConfigError, ControlError, ControlRefusedError

if TYPE_CHECKING:
    from pathlib import Path

REPLY_BYTES_MAX = 64 * 1024**2
"""Longest reply line that is read."""

_RECEIVE_BYTES = 64 * 1024


def call(path: Path, command: str, timeout_seconds: float, /, **arguments: object) -> dict[str, object]:
    """Send one command and return the result of its reply.

    ``timeout_seconds`` bounds each wait: for the connection, and for the reply. After a timeout it
    is unknown whether the broker has acted.

    Raises:
        ControlError: no broker answers at ``path``, or not in time; the text says what to do.
        ControlRefusedError: it refuses; the text says why.
        ConfigError: it refuses, because of problems in its configuration.

    """
    request = json.dumps({**arguments, "command": command}).encode()
    if len(request) > REQUEST_BYTES_MAX:
        raise ControlError(path, f"a request has at most {REQUEST_BYTES_MAX} bytes, this one {len(request)}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(timeout_seconds)
            with socket_address(path) as address:
                connection.connect(address)
            # A broker that takes no more connections answers and closes without reading.
            with suppress(BrokenPipeError):
                connection.sendall(request + b"\n")
            line = _read_line(connection)
        # Linux says EAGAIN when the queue of the socket is full and it may not wait any longer.
        except (TimeoutError, BlockingIOError) as error:
            reason = (
                f"the broker did not answer {command!r} within {timeout_seconds:g} s; "
                f"it may be busy or stuck: see its log in {path.parent}"
            )
            raise ControlError(path, reason) from error
        except OSError as error:
            raise ControlError(path, _advice(path, command, error)) from error
    return _result(path, command, line)


def _read_line(connection: socket.socket) -> bytes | None:
    """Read up to the line feed; None if the broker closes before."""
    received = bytearray()
    while len(received) <= REPLY_BYTES_MAX:
        data = connection.recv(_RECEIVE_BYTES)
        if not data:
            return None
        received += data
        if data.endswith(b"\n"):
            return bytes(received)
    return b""


def _result(path: Path, command: str, line: bytes | None) -> dict[str, object]:
    if line is None:
        raise ControlError(
            path, f"the broker ended before it answered {command!r}: see its log in {path.parent}"
        ) from ConnectionResetError()
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        reply = None
    match reply:
        case {"ok": True, "result": dict(result)}:
            return result
        case {"ok": False, "problems": list(problems)}:
            raise ConfigError(tuple(map(str, problems)))
        case {"ok": False, "error": str(text)}:
            raise ControlRefusedError(path, text)
        case _:
            raise ControlError(path, "what answers here does not speak as a metaserver broker does")


def _advice(path: Path, command: str, error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError() | ConnectionRefusedError():
            verb = "start slave" if path.name == SLAVE_SOCKET_NAME else "start"
            return f"no broker is running here: start it with `metaServer {verb}`"
        case PermissionError():
            return "it belongs to another user: run the command as the user who started the broker"
        case ConnectionResetError():
            return f"the broker ended before it answered {command!r}: see its log in {path.parent}"
        case _:
            return error.strerror or str(error)
