"""Is a node running, start one in the background, wait for its end.

The control socket decides whether a node runs: only a living one answers. The pid file is a help for the
case that a living node does not answer; a pid file without such a node is stale and means nothing.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure, complain
from metaserver.control.client import call
from metaserver.errors import ControlError
from metaserver.node.paths import NodePaths

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import IO

    from metaserver.cli.installation import Installation

ANSWER_SECONDS = 10.0
"""For an answer on the control socket; a busy node may take a while."""

_LOG_LINES = 20
_KILL_SECONDS = 5.0
_LINE_BYTES_MAX = 1024 * 1024


class FoundNode(NamedTuple):
    """What there is of a node."""

    pid: int | None
    """None: not running."""
    status: dict[str, Any] | None
    """What it says of itself; None where it is not running, or does not answer."""
    stale_pid: str | None = None
    """The content of a pid file that speaks of no running node."""

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.pid is not None


def paths_of(installation: Installation) -> NodePaths:
    """Pid file, log and control socket of a node."""
    return NodePaths.of(installation.base_directory, is_slave=installation.is_slave)


def ask(installation: Installation, command: str, **arguments: object) -> dict[str, Any]:
    """What a running node answers; raises Failure where none runs, ControlError where it refuses."""
    try:
        return call(paths_of(installation).control_socket, command, ANSWER_SECONDS, **arguments)
    except ControlError as error:
        if _is_nobody_there(error):
            raise not_running(installation) from None
        raise


def not_running(installation: Installation) -> Failure:
    """The complaint that every verb has in common."""
    text = (
        f"the {installation.role} of {installation.server_file} is not running; "
        f"start it with `metaServer start{installation.verb_suffix}`"
    )
    return Failure(text, ExitCode.NOT_RUNNING)


def find_node(installation: Installation) -> FoundNode:
    """Look for the node, without changing anything."""
    paths = paths_of(installation)
    try:
        status = call(paths.control_socket, "status", ANSWER_SECONDS)
    except ControlError as error:
        written = _read_pid_file(paths.pid_file)
        if written is not None and written.isdigit() and _is_node(int(written)):
            return FoundNode(int(written), None)
        if not (_is_nobody_there(error) or _is_ending(error)):
            raise
        return FoundNode(None, None, written)
    return FoundNode(int(str(status["pid"])), status)


def launch(installation: Installation, options: Sequence[str], timeout_seconds: float) -> dict[str, Any]:
    """Start the node in the background and wait until it is ready; what it says of itself.

    Raises Failure with the node's reason and the last lines of its log.
    """
    return Launch(installation, options).wait_ready(timeout_seconds)


def describe_ready(installation: Installation, ready: dict[str, Any]) -> str:
    """The line that tells where a node answers, from what it said when it was ready."""
    host = str(ready["address"]).rpartition(":")[0]
    registry = f"; registry {host}:{ready['registry_port']}" if ready.get("registry_port") else ""
    role = ready.get("role", installation.role)
    return (
        f"{role} ready at {ready['address']} (pid {ready['pid']}); data {ready['data_path']}; "
        f"HTTP {host}:{ready['http_port']}{registry}; log {ready['log_file']}"
    )


class Launch:
    """A node in the background that is starting, or, where it is held, waits for the word to.

    Held, it has everything in memory that takes time to load, and has read nothing of its configuration.
    """

    def __init__(self, installation: Installation, options: Sequence[str], *, is_held: bool = False) -> None:
        """Begin; raises Failure where there is no place for its log."""
        self._role = installation.role
        self._log_file = paths_of(installation).log_file
        self._word: socket.socket | None = None
        try:
            self._log_file.parent.mkdir(parents=True, exist_ok=True)
            log = self._log_file.open("ab")
        except OSError as error:
            raise Failure(f"{error.filename}: cannot be made: {error.strerror}") from error
        with log:
            self._log_start = log.tell()
            self._readable, writable = os.pipe()
            words = [*options, "--ready-descriptor", str(writable)]
            theirs: socket.socket | None = None
            try:
                if is_held:
                    self._word, theirs = socket.socketpair()
                    words += ["--hold-descriptor", str(theirs.fileno())]
                descriptors = (writable,) if theirs is None else (writable, theirs.fileno())
                self._process = _spawn(installation, words, log, descriptors)
            finally:
                os.close(writable)
                if theirs is not None:
                    theirs.close()

    def wait_held(self, timeout_seconds: float) -> None:
        """Returns when it is there and waits, or has ended, or the time is over."""
        if self._word is not None:
            self._word.settimeout(timeout_seconds)
            with suppress(OSError):
                self._word.recv(1)

    def wait_ready(self, timeout_seconds: float) -> dict[str, Any]:
        """Let it go on, and wait until it is ready; what it says of itself. Raises Failure."""
        process, log_file = self._process, self._log_file
        try:
            if self._word is not None:
                with self._word, suppress(OSError):
                    self._word.sendall(b".")
            line = _read_line(self._readable, timeout_seconds)
            message = json.loads(line) if line else {}
        except TimeoutError:
            _end_child(process)
            text = f"the {self._role} was not ready within {timeout_seconds:g} s and was ended again"
            raise Failure(text + _log_tail(log_file, self._log_start), ExitCode.TIMEOUT) from None
        except BaseException:
            _end_child(process)
            raise
        finally:
            os.close(self._readable)
        if "pid" in message:
            # It lives on without us: nobody will wait for it.
            process.returncode = 0
            return dict(message)
        process.wait()
        reason = message.get("error") or f"the process ended with {_describe_end(process.returncode)}"
        code = ExitCode(message.get("exit_code", ExitCode.FAILED))
        tail = "" if code == ExitCode.CONFIGURATION else _log_tail(log_file, self._log_start)
        raise Failure(f"the {self._role} does not start: {reason}{tail}", code)

    def cancel(self) -> None:
        """A held one is not needed after all."""
        if self._word is not None:
            self._word.close()
        _end_child(self._process)
        os.close(self._readable)


def end(installation: Installation, timeout_seconds: float, *, is_forced: bool) -> int:
    """Stop a running node and wait until its process is gone; its process id.

    Raises Failure where none runs, or where it does not end in time and may not be killed.
    """
    return Ending(installation).wait(timeout_seconds, is_forced=is_forced)


class Ending:
    """A running node that has been asked to stop.

    Its process is held on to from before the question: near its end it can no longer be found, and still
    has its data directory.
    """

    def __init__(self, installation: Installation, *, is_hurried: bool = False) -> None:
        """Ask; hurried, it does not wait until others have noticed. Raises Failure where none runs."""
        self._role = installation.role
        node = find_node(installation)
        if node.pid is None:
            raise not_running(installation)
        self.pid = node.pid
        self._process: int | None = None
        try:
            self._process = os.pidfd_open(node.pid)
        except ProcessLookupError:
            return
        if node.status is None or not _ask_to_stop(installation):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._process, signal.SIGTERM)
        elif is_hurried:
            # Asked a second time, a node understands that somebody is in a hurry.
            _ask_to_stop(installation)

    def wait(self, timeout_seconds: float, *, is_forced: bool = False) -> int:
        """Its process id, when it is gone. Raises Failure where it is not in time and may not be killed."""
        process, self._process = self._process, None
        if process is None:
            return self.pid
        try:
            if _has_ended(process, timeout_seconds):
                return self.pid
            if not is_forced:
                text = (
                    f"the {self._role} (pid {self.pid}) has not ended within {timeout_seconds:g} s; "
                    "look into its log, wait longer with --timeout, or kill it with --force"
                )
                raise Failure(text, ExitCode.TIMEOUT)
            complain(f"pid {self.pid} has not ended within {timeout_seconds:g} s: killing it")
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            _has_ended(process, _KILL_SECONDS)
            return self.pid
        finally:
            os.close(process)


def _ask_to_stop(installation: Installation) -> bool:
    try:
        call(paths_of(installation).control_socket, "stop", ANSWER_SECONDS)
    except ControlError:
        return False
    return True


def _has_ended(process: int, timeout_seconds: float) -> bool:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(timeout_seconds * 1000))


def _is_nobody_there(error: ControlError) -> bool:
    return isinstance(error.__cause__, FileNotFoundError | NotADirectoryError | ConnectionRefusedError)


def _is_ending(error: ControlError) -> bool:
    """Whether it took the question to its grave: a process that is being killed still has its socket."""
    return isinstance(error.__cause__, ConnectionResetError)


def _read_pid_file(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _is_node(pid: int) -> bool:
    """Whether a process looks like a node; process ids are used again after a reboot."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"start" in words and any(b"metaserver" in word.lower() for word in words)


def _spawn(
    installation: Installation,
    options: Sequence[str],
    log: IO[bytes],
    descriptors: tuple[int, ...],
) -> subprocess.Popen[bytes]:
    package_parent = str(Path(__file__).resolve().parents[2])
    search_path = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, "-P", "-m", "metaserver", "start", "--foreground"]
    command += ["-f", str(installation.server_file)]
    if installation.pair_file is not None:
        command.append(f"-Fsamsa={installation.pair_file}")
    elif installation.slave_file is not None:
        plug_in = "gregor" if installation.is_gregor else "metaslave"
        command.append(f"-F{plug_in}={installation.slave_file}")
    return subprocess.Popen(  # noqa: S603 - this very program
        [*command, *options],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        pass_fds=descriptors,
        cwd=installation.base_directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path)},
    )


def _read_line(descriptor: int, timeout_seconds: float) -> bytes:
    """What the child writes, up to the line feed or its end; raises TimeoutError."""
    received = b""
    for chunk in _chunks(descriptor, time.monotonic() + timeout_seconds):
        received += chunk
        if b"\n" in chunk or len(received) > _LINE_BYTES_MAX:
            break
    return received.partition(b"\n")[0]


def _chunks(descriptor: int, deadline: float) -> Iterator[bytes]:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while True:
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        data = os.read(descriptor, 64 * 1024)
        if not data:
            return
        yield data


def _end_child(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _describe_end(return_code: int) -> str:
    if return_code >= 0:
        return f"exit code {return_code}"
    try:
        return signal.Signals(-return_code).name
    except ValueError:
        return f"signal {-return_code}"


def _log_tail(path: Path, start: int) -> str:
    """The last lines that were logged since a position, set off for a message."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            # A rotation since then leaves a shorter file.
            file.seek(max(min(start, size), size - 64 * 1024) if start <= size else 0)
            lines = file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        return ""
    if not lines:
        return f"\nthe log {path} says nothing"
    return "\n".join([f"\nthe last lines of {path}:", *(f"  {line}" for line in lines)])
