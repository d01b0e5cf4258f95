"""What promote, follow and switchover have in common: asking a broker, stopping a node, starting it anew."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import time_text
from metaserver.cli.node_files import load_pair, load_slave
from metaserver.cli.output import Failure, complain, say
from metaserver.cli.processes import Ending, Launch, ask, describe_ready, find_node
from metaserver.config import load_server_config
from metaserver.errors import ConfigError, ControlError
from metaserver.logs import load_logging_settings
from metaserver.node.following import check_slave
from metaserver.node.listening import NodeError
from metaserver.node.role import Role, find_role
from metaserver.replication.chain import Hop, parse_chain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from metaserver.cli.installation import Installation
    from metaserver.cli.target import Address

VERSION_SECONDS = 3.0
"""For an answer to ``version`` on a fresh connection."""
START_SECONDS = 60.0
STOP_SECONDS = 30.0
PATIENT_LOOK_SECONDS = 0.1
"""Between two looks where nothing is paused meanwhile."""
_LOOK_SECONDS = 0.01
_PREPARE_SECONDS = 10.0


def role_of(installation: Installation, *, is_lenient: bool = True) -> Role:
    """What a node is when it is started. Raises ConfigError and RoleError."""
    server = load_server_config(installation.server_file, lenient=is_lenient)
    slave = load_slave(installation, is_lenient=is_lenient)
    return find_role(server, slave, load_pair(installation, is_lenient=is_lenient))


def check_starts(installation: Installation, *, is_lenient: bool) -> None:
    """Before a node is stopped that is to start again: raises Failure and RoleError where it would not."""
    try:
        load_logging_settings(installation.server_file.parent / "logging.toml")
        role = role_of(installation, is_lenient=is_lenient)
        if role.slave_config is not None:
            check_slave(role.config, role.slave_config)
    except (ConfigError, NodeError) as error:
        code = ExitCode.CONFIGURATION if isinstance(error, ConfigError) else ExitCode.FAILED
        text = f"{error}\nthe {installation.role} would not start again with that; nothing was changed"
        raise Failure(text, code) from error


def start_options(installation: Installation) -> tuple[str, ...]:
    """What a node was started with, to start it again with, or what it would be started with.

    To be asked before it is stopped: raises Failure and RoleError where it would not start with them.
    """
    status = find_node(installation).status or {}
    # A node of an older version does not tell.
    is_lenient = bool(status.get("lenient"))
    check_starts(installation, is_lenient=is_lenient)
    log_format = str(status.get("log_format", "text"))
    return ("--log-format", log_format, *(["--lenient"] if is_lenient else []))


def within(limit_seconds: float, condition: Callable[[], bool], pause_seconds: float = _LOOK_SECONDS) -> bool:
    """Look until it is so; False where it is not in time."""
    deadline = time.monotonic() + limit_seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_seconds)
    return True


def promotion_text(*known: str) -> str:
    """The moment of a promotion, as a decision notes it: behind those of the others that are known.

    The later of two masters remains (docs/decisions/0015), and their hosts' clocks need not agree.
    """
    moments = [time.time()]
    for text in known:
        with suppress(ValueError):
            moments.append(datetime.fromisoformat(text).timestamp() + 1.0)
    return time_text(max(moments))


def promotion_of(address: Address, limit_seconds: float = VERSION_SECONDS) -> str:
    """When a broker was promoted, by its own clock; blank where it was not, or does not answer in time."""
    try:
        return _stats_of(address, limit_seconds).get("promoted", "")
    except OSError:
        return ""


def ask_version(address: Address, limit_seconds: float = VERSION_SECONDS) -> str:
    """The version a broker tells on a fresh connection; raises OSError where it does not answer in time."""
    return _exchange(address, b"version 1\r\n", limit_seconds)


def _exchange(address: Address, request: bytes, limit_seconds: float) -> str:
    with (
        socket.create_connection((address.host, address.port), timeout=limit_seconds) as connection,
        connection.makefile("rb") as stream,
    ):
        connection.sendall(request)
        line = stream.readline()
        words = line.split()
        if len(words) != 4 or not words[2].isdigit():
            raise ConnectionResetError("the connection was closed without an answer")
        return stream.read(int(words[2])).decode(errors="replace")


def _stats_of(address: Address, limit_seconds: float) -> dict[str, str]:
    lines = _exchange(address, b"stats  1\r\n", limit_seconds).splitlines()
    return dict(line.split(" ", 1) for line in lines if " " in line)


def upstream_of(address: Address, limit_seconds: float = VERSION_SECONDS) -> tuple[Hop, ...]:
    """A broker, and whom it follows, nearest first; raises OSError where it does not answer in time."""
    values = _stats_of(address, limit_seconds)
    own = Hop(str(address), values.get("instance", "-"), values.get("slave") == "true", True, 0)
    return (own, *parse_chain(values.get("upstream", "")))


def stop_if_running(installation: Installation, timeout_seconds: float, *, is_hurried: bool = False) -> bool:
    """Stop the node in order; whether it was running. Raises Failure where it does not end in time.

    Hurried, for a node whose place is taken at once, it does not wait until others have noticed.
    """
    try:
        ending = Ending(installation, is_hurried=is_hurried)
    except Failure as error:
        if error.code != ExitCode.NOT_RUNNING:
            raise
        return False
    ending.wait(timeout_seconds)
    return True


def prepare(installation: Installation, options: Sequence[str]) -> Launch:
    """A process for :func:`start_again` that has loaded everything, so that the change itself is short."""
    prepared = Launch(installation, options, is_held=True)
    prepared.wait_held(_PREPARE_SECONDS)
    return prepared


def start_again(
    installation: Installation,
    options: Sequence[str],
    timeout_seconds: float,
    prepared: Launch | None = None,
    tell: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Start the node as what it is now, and say where it answers; what it said. Raises Failure."""
    ready = (prepared or Launch(installation, options)).wait_ready(timeout_seconds)
    tell(describe_ready(installation, ready))
    return ready


def wait_registered(installation: Installation, limit_seconds: float) -> str:
    """Wait until the node stands in the registry; why it does not, blank where it does or is in none."""
    deadline = time.monotonic() + limit_seconds
    told = ""
    while True:
        try:
            registry = ask(installation, "status").get("registry")
        except ControlError as error:
            return str(error)
        if registry is None or registry["registered"]:
            return ""
        problem = str(registry["problem"])
        if problem != told and "another broker" in problem:
            complain(f"waiting for the registry: {problem}")
            told = problem
        if time.monotonic() >= deadline:
            return problem
        time.sleep(PATIENT_LOOK_SECONDS)
