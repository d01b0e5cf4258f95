"""The configuration of a slave, as the synchronisation with its master's needs it."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.config import apply_slave, base_directory_of, load_server_config, parse_server_config
from metaserver.config.reading import read_file
from metaserver.control.client import call
from metaserver.errors import ControlError
from metaserver.node.config_file import replace_file
from metaserver.node.paths import NodePaths

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from metaserver.config import ServerConfig, SlaveConfig

_MASTER_SECONDS = 2.0
"""For a master on this machine to say which file it has."""


@attrs.define(eq=False)
class OwnConfig:
    """A LocalConfig of a node."""

    _slave_config: SlaveConfig
    _paths: NodePaths
    is_lenient: bool
    """See LocalConfig."""
    _running: Callable[[], ServerConfig]
    _reload: Callable[[], Awaitable[tuple[str, ...]]]

    @property
    def running(self) -> ServerConfig:
        """See LocalConfig."""
        return self._running()

    async def read(self) -> bytes:
        """See LocalConfig."""
        return await trio.to_thread.run_sync(read_file, self.running.path)

    async def check(self, data: bytes) -> None:
        """See LocalConfig."""
        path = self.running.path
        parse = partial(
            parse_server_config,
            data,
            source=f"{path}, merged",
            base_directory=base_directory_of(path),
            lenient=self.is_lenient,
        )
        apply_slave(await trio.to_thread.run_sync(parse), self._slave_config)

    async def replace(self, data: bytes, *, keep_old: bool) -> None:
        """See LocalConfig."""
        replace = partial(replace_file, self.running.path, data, keep_old=keep_old)
        await trio.to_thread.run_sync(replace)

    async def reload(self) -> tuple[str, ...]:
        """See LocalConfig."""
        return await self._reload()

    async def is_masters(self) -> bool:
        """See LocalConfig."""
        return await trio.to_thread.run_sync(self._ask_master)

    def _ask_master(self) -> bool:
        control_socket = NodePaths(self._paths.logs_directory, is_slave=False).control_socket
        try:
            status = call(control_socket, "status", _MASTER_SECONDS)
        except ControlError:
            return False
        return os.path.realpath(str(status["config"])) == os.path.realpath(self.running.path)


@attrs.define(eq=False)
class LoadedConfig:
    """What the start of a node has loaded; it may be loaded again before anything is built on it."""

    config: ServerConfig
    _slave_config: SlaveConfig
    _is_lenient: bool

    async def reload(self) -> tuple[str, ...]:
        """Nothing waits for a start that is only coming. Raises ConfigError."""
        load = partial(load_server_config, self.config.path, lenient=self._is_lenient)
        self.config = apply_slave(await trio.to_thread.run_sync(load), self._slave_config)
        return ()
