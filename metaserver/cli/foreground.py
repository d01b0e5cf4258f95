"""The node itself: what ``start --foreground`` runs, and what ``start`` runs in the background."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.node_files import load_pair, load_slave
from metaserver.cli.output import Failure
from metaserver.cli.processes import paths_of
from metaserver.config import load_server_config
from metaserver.errors import ConfigError, MetaServerError
from metaserver.logs import LoggingSettings, configure_logging, get_logger, load_logging_settings
from metaserver.node.node import run_node
from metaserver.node.role import find_role
from metaserver.storage.filenames import ROLE_NAME

if TYPE_CHECKING:
    from metaserver.cli.installation import Installation
    from metaserver.logs import LogFormat
    from metaserver.node.node import NodeAddresses
    from metaserver.node.paths import NodePaths
    from metaserver.node.role import Role

_log = get_logger(__name__)


def wait_for_the_word(descriptor: int) -> bool:
    """Say that everything is loaded, and wait; whether to go on: not, where whoever wanted it is gone."""
    with socket.socket(fileno=descriptor) as word:
        word.sendall(b".")
        return bool(word.recv(1))


def run_in_foreground(
    installation: Installation, *, log_format: LogFormat, is_lenient: bool, ready_descriptor: int | None
) -> None:
    """Run the node until it is stopped.

    With a ``ready_descriptor`` it logs to its file, and one JSON line goes to the descriptor: its
    addresses when it is ready, or why it does not start. Raises Failure where it does not start.
    """
    _allow_many_descriptors()
    paths = paths_of(installation)
    announcer = _Announcer(ready_descriptor, paths)
    role: Role | None = None
    try:
        settings = load_logging_settings(installation.server_file.parent / "logging.toml")
        _configure_logging(log_format, settings, paths, is_background=ready_descriptor is not None)
        server = load_server_config(installation.server_file, lenient=is_lenient)
        slave = load_slave(installation, is_lenient=is_lenient)
        role = find_role(server, slave, load_pair(installation, is_lenient=is_lenient))
        for warning in server.warnings:
            _log.warning("Configuration", reason=warning)
        if role.decision is not None:
            _log.warning("Not what the configuration says", reason=role.decision.sentence)
        ready = partial(announcer.ready, role)
        run = partial(
            run_node,
            role.config,
            role.slave_config,
            paths,
            ready,
            is_lenient=is_lenient,
            log_format=log_format,
            role=role,
        )
        trio.run(run)
    except MetaServerError as error:
        code = ExitCode.CONFIGURATION if isinstance(error, ConfigError) else ExitCode.FAILED
        text = str(error) + _decided(role, installation)
        _log.error("Start metamorphosis server failed", reason=text)
        announcer.failed(text, code)
        raise Failure(text, code) from error
    except OSError as error:
        _log.exception("Start metamorphosis server failed")
        text = str(error) + _decided(role, installation)
        announcer.failed(text, ExitCode.FAILED)
        raise Failure(text) from error


def _decided(role: Role | None, installation: Installation) -> str:
    """For a start that fails: the configuration alone would have made another node of it."""
    if role is None or role.decision is None:
        return ""
    return (
        f"\n{role.config.data_path / ROLE_NAME} makes this node a {role.decision.role}: "
        f"{role.decision.sentence}. `metaServer follow HOST:PORT{installation.verb_suffix}` makes it the "
        "slave of another master; remove the file, and the configuration decides"
    )


@attrs.define
class _Announcer:
    """Tells whoever waits for the start; once."""

    _descriptor: int | None
    _paths: NodePaths

    def ready(self, role: Role, addresses: NodeAddresses) -> None:
        self._write(
            pid=os.getpid(),
            role="master" if role.slave_config is None else "slave",
            decision=None if role.decision is None else role.decision.sentence,
            warnings=role.config.warnings,
            address=addresses.address,
            port=addresses.port,
            http_port=addresses.http_port,
            registry_port=addresses.registry_port,
            data_path=str(role.config.data_path),
            log_file=str(self._paths.log_file),
        )

    def failed(self, reason: str, code: ExitCode) -> None:
        self._write(error=reason, exit_code=int(code))

    def _write(self, **message: object) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            # Whoever waited may have been interrupted: the node runs all the same.
            with suppress(OSError):
                os.write(descriptor, json.dumps(message).encode() + b"\n")
            os.close(descriptor)


def _allow_many_descriptors() -> None:
    """Every connection and every open segment takes one; the soft limit is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _configure_logging(
    log_format: LogFormat, settings: LoggingSettings, paths: NodePaths, *, is_background: bool
) -> None:
    if not is_background:
        configure_logging(log_format, "info", settings=settings)
        return
    configure_logging(log_format, "info", settings=settings, path=paths.log_file, redirect_stderr=True)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
