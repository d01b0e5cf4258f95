"""The broker's side of the control socket.

The socket has mode 0600 from the moment it exists, and its final name only once it answers: it is
bound under another name, listens, and is renamed. A file left by a dead broker is replaced that
way; one that a living broker answers is never touched.

Whatever a client sends, and whatever a command does, the server goes on: a line that is no command
gets an answer that says so, and an exception of a handler becomes an answer and a log line.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.control.address import REQUEST_BYTES_MAX, socket_address
from metaserver.errors import ConfigError, ControlError, MetaServerError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path
    from typing import Any

    Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
    """Gets the request's members but ``command``; what it returns is the ``result`` of the reply."""

_log = get_logger(__name__)

_BACKLOG = 16
_RECEIVE_BYTES = 16 * 1024


@attrs.frozen(kw_only=True)
class ControlLimits:
    """How much clients of the control socket may take."""

    connections: int = 16
    """Open at the same time; one more is told so and closed."""
    request_bytes: int = REQUEST_BYTES_MAX
    """Longest request line, without its line feed."""
    idle_seconds: float = 60.0
    """A connection is closed when it has sent no whole line for this long."""
    send_seconds: float = 2.0
    """A client has to take its reply within this time, also while the broker stops."""


async def serve_control(
    path: Path,
    handlers: Mapping[str, Handler],
    *,
    limits: ControlLimits | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer commands at ``path`` until cancelled; reports when it can be connected to.

    Each handler runs in the task of its connection. A reply that is ready when the cancellation
    comes is still sent, so a handler of ``stop`` may start the stop and return.

    Raises:
        ControlError: a living broker answers at ``path``, or the socket cannot be made there.

    """
    limits = limits or ControlLimits()
    try:
        listening, identity = _listen(path)
    except OSError as error:
        raise ControlError(path, f"cannot be made: {error.strerror or error}") from error
    try:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
        server = _ControlServer(handlers, limits)
        task_status.started()
        await trio.serve_listeners(server.handle, [listener])
    finally:
        listening.close()
        _remove(path, identity)


def _listen(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """Return the listening socket and the identity (device, inode) of its file."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _lock(directory, path)
        _refuse_living_owner(path)
        unborn = path.with_name(f"{path.name}.new")
        with suppress(FileNotFoundError):
            os.unlink(unborn.name, dir_fd=directory)
        # Linux gives the file the mode that the socket has when it is bound.
        os.fchmod(listening.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        with socket_address(unborn) as address:
            listening.bind(address)
        listening.listen(_BACKLOG)
        os.rename(unborn.name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
        status = os.stat(path.name, dir_fd=directory, follow_symlinks=False)
    except BaseException:
        listening.close()
        raise
    finally:
        os.close(directory)
    return listening, (status.st_dev, status.st_ino)


def _lock(directory: int, path: Path) -> None:
    """Keep other brokers out while this one looks and renames; closing the directory unlocks."""
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ControlError(path, "another broker is starting in the same folder right now") from error


def _refuse_living_owner(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ControlError(path, "is not a socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # Refused: nobody listens, the file is left from a broker that died. Would block: somebody
        # listens, but has not accepted for a while.
        with suppress(ConnectionRefusedError), socket_address(path) as address:
            with suppress(BlockingIOError):
                probe.connect(address)
            raise ControlError(path, "another broker is running here: stop it first, with `metaServer stop`")


def _remove(path: Path, identity: tuple[int, int]) -> None:
    """Remove the socket file, unless it is another broker's by now."""
    with suppress(OSError):
        status = path.lstat()
        if (status.st_dev, status.st_ino) == identity:
            path.unlink()


@attrs.define(eq=False)
class _ControlServer:
    _handlers: Mapping[str, Handler]
    _limits: ControlLimits
    _connections: int = attrs.field(default=0, init=False)

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection; the only exception that leaves is the cancellation."""
        self._connections += 1
        try:
            if self._connections > self._limits.connections:
                await self._send(stream, _failure("too many control connections; try again"))
            else:
                await self._converse(stream)
        except (trio.BrokenResourceError, trio.TooSlowError):
            pass  # The client is gone or takes nothing: there is nobody to tell.
        except Exception:  # noqa: BLE001  one connection must not end the server
            _log.exception("control connection failed")
        finally:
            self._connections -= 1

    async def _converse(self, stream: trio.SocketStream) -> None:
        lines = _LineReader(stream, self._limits.request_bytes)
        while True:
            with trio.fail_after(self._limits.idle_seconds):
                line = await lines.read_line()
            if line is None:
                return
            if len(line) > self._limits.request_bytes:
                text = f"a request has at most {self._limits.request_bytes} bytes"
                await self._send(stream, _failure(text))
                return
            await self._send(stream, await self._answer(line))

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _failure("a request is one JSON object on one line")
        if not isinstance(request, dict) or not isinstance(request.get("command"), str):
            return _failure('a request is a JSON object with a "command"')
        command = request.pop("command")
        handler = self._handlers.get(command)
        if handler is None:
            return _failure(
                f"unknown command {command!r}; the commands are {', '.join(sorted(self._handlers))}"
            )
        try:
            return _line({"ok": True, "result": await handler(request)})
        except ConfigError as error:
            return _line({"ok": False, "error": str(error), "problems": error.problems})
        except MetaServerError as error:
            return _failure(str(error))
        except Exception:  # noqa: BLE001  a failing command is no reason to end the broker
            _log.exception("control command failed", command=command)
            return _failure(f"{command} failed inside the broker; its log says more")

    async def _send(self, stream: trio.SocketStream, data: bytes) -> None:
        with trio.fail_after(self._limits.send_seconds) as scope:
            scope.shield = True
            await stream.send_all(data)


@attrs.define(eq=False)
class _LineReader:
    """Cuts what a stream receives into lines; never holds more than a line and one receive."""

    _stream: trio.SocketStream
    _bytes_max: int
    _received: bytearray = attrs.field(factory=bytearray, init=False)
    _searched: int = attrs.field(default=0, init=False)
    """No line feed lies before this position."""

    async def read_line(self) -> bytes | None:
        """Return a line without its line feed, too much of one that is too long, None at the end."""
        while True:
            end = self._received.find(b"\n", self._searched)
            if end >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                self._searched = 0
                return line
            self._searched = len(self._received)
            if self._searched > self._bytes_max:
                return bytes(self._received)
            data = await self._stream.receive_some(_RECEIVE_BYTES)
            if not data:
                return None
            self._received += data


def _failure(text: str) -> bytes:
    return _line({"ok": False, "error": text})


def _line(reply: dict[str, object]) -> bytes:
    return json.dumps(reply).encode() + b"\n"
