"""``autoSyncMasterConfig``: a slave's ``server.ini`` follows its master's.

Each time the master, or the slave itself, runs another configuration than at the last look, the master's
file is fetched (``stats config``), merged into the slave's, checked by the loader, put in place and loaded.
What cannot be used changes nothing and is said. With the key off the same look only tells whether the files
have drifted apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from zlib import crc32

import attrs
import trio

from metaserver.client.connection import expect_text
from metaserver.config.layout import decode_file, encode_as
from metaserver.config.merge import merge_master, stamp, stamped_checksum
from metaserver.errors import ClientError, ConfigError, MetaServerError
from metaserver.logs import get_logger
from metaserver.protocol import Value, encode_stats

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client import BrokerConnection
    from metaserver.config import ServerConfig
    from metaserver.replication.master import MasterFacts

_log = get_logger(__name__)

_FETCH_SECONDS = 10.0
_RETRY_SECONDS = 5.0
"""After a look that could not be finished and may succeed without any change."""


class LocalConfig(Protocol):
    """The slave's own configuration: the file, and what runs. Raises ConfigError and OSError."""

    @property
    def running(self) -> ServerConfig:
        """What the broker was started with or has loaded since."""

    @property
    def is_lenient(self) -> bool:
        """Whether the node reads its configuration as MetaQ does."""

    async def read(self) -> bytes:
        """The file as it lies on disk."""

    async def check(self, data: bytes) -> None:
        """Raises ConfigError where the slave could not run with such a file."""

    async def replace(self, data: bytes, *, keep_old: bool) -> None:
        """Put another file in its place, whatever happens meanwhile the old or the new one."""

    async def reload(self) -> tuple[str, ...]:
        """Load the file; the keys whose values wait for the next start."""

    async def is_masters(self) -> bool:
        """Whether a master on this machine has the very same file: then it is not the slave's to change."""


@attrs.frozen
class ConfigSyncReport:
    """How the slave's configuration stands to its master's."""

    is_enabled: bool
    master_checksum: int | None
    """Of what the master runs; None: it has not been asked yet."""
    merged_checksum: int | None
    """Of the master's file that the slave's, which it runs, was merged from; None: of none."""
    has_drift: bool | None
    """None: not known."""
    problem: str
    """Why it is not, or may not be, in step."""
    needs_restart: tuple[str, ...] = ()
    """Keys that the master has changed and that the slave takes with its next start."""


@attrs.define
class _LaterError(MetaServerError):
    """Nothing is wrong, and nothing can be done now."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@attrs.frozen
class _Pair:
    """What master and slave run."""

    master_checksum: int
    own_checksum: int


@attrs.define(eq=False)
class ConfigSync:
    """Tell it of the master (:meth:`told`), and run :meth:`run`; or :meth:`look` once."""

    _local: LocalConfig
    _is_enabled: bool
    on_change: Callable[[], None] = lambda: None
    """Told when a look is finished."""
    problem: str = ""
    is_refused: bool = False
    """Whether the problem is that the master's configuration cannot be used."""
    _link: BrokerConnection | None = None
    _facts: MasterFacts | None = None
    _looked: _Pair | None = None
    """At the last look that was finished."""
    _has_drift: bool | None = None
    _needs_restart: tuple[str, ...] = ()
    _retry_time: float = 0.0
    _wake: trio.Event = attrs.Factory(trio.Event)

    def told(self, link: BrokerConnection, facts: MasterFacts) -> None:
        """What the master says of itself now, over a connection that works."""
        self._link, self._facts = link, facts
        if self._pair() not in (None, self._looked):
            self._wake.set()

    async def run(self) -> None:
        """Look whenever one side runs something else, until cancelled."""
        while True:
            await self._wake.wait()
            await trio.sleep_until(self._retry_time)
            self._wake = trio.Event()
            if self._link is not None and self._facts is not None and self._pair() != self._looked:
                await self.look(self._link, self._facts)

    async def look(self, link: BrokerConnection, facts: MasterFacts) -> None:
        """Bring the slave's file to the master's, or say why not."""
        self._facts = facts
        self._retry_time = trio.current_time() + _RETRY_SECONDS
        try:
            await self._look(link, facts)
        except ConfigError as error:
            self.is_refused = self._is_enabled
            self._say(f"the master's server.ini is refused, the old one stays: {error}")
            self._finish(has_drift=True)
        except (ClientError, _LaterError) as error:
            self._say(str(error))
        except OSError as error:
            self._say(f"server.ini cannot be replaced: {error}")
        else:
            self.problem, self.is_refused = "", False
            self._finish(has_drift=self._has_drift)

    def report(self) -> ConfigSyncReport:
        """How things stand."""
        facts, running = self._facts, self._local.running
        master = None if facts is None else facts.master_checksum
        merged = running.checksum if running.checksum == master else _stamp_of(running)
        has_drift = self._has_drift if self._pair() == self._looked and self._looked is not None else None
        if has_drift is None and master is not None and merged is not None:
            has_drift = merged != master
        return ConfigSyncReport(
            self._is_enabled, master, merged, has_drift, self.problem, self._needs_restart
        )

    def _pair(self) -> _Pair | None:
        if self._facts is None or self._facts.config_checksum is None:
            return None
        return _Pair(self._facts.config_checksum, self._local.running.checksum)

    def _finish(self, *, has_drift: bool | None) -> None:
        self._has_drift, self._looked, self._retry_time = has_drift, self._pair(), 0.0
        self.on_change()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            _log.warning("The configuration does not follow the master's", reason=problem)
        self.problem = problem

    async def _look(self, link: BrokerConnection, facts: MasterFacts) -> None:
        theirs = await _fetch(link)
        checksum = crc32(theirs)
        if checksum != facts.config_checksum:
            # The Java original answers with the file as it lies on disk.
            raise _LaterError("the master's server.ini was changed and not loaded by the master yet")
        own = await self._local.read()
        if crc32(own) == checksum:
            await self._load(checksum)
            return
        running = str(self._local.running.path)
        own_text = decode_file(own, running)
        masters_text = decode_file(theirs, "the master's server.ini")
        # Of a master that is a slave itself: what its own master runs.
        stamped_of_theirs = stamped_checksum(masters_text)
        origin = checksum if stamped_of_theirs is None else stamped_of_theirs
        merged = merge_master(
            own_text,
            masters_text,
            is_java=facts.is_java,
            lenient=self._local.is_lenient,
        )
        stamped = encode_as(stamp(merged, origin), own)
        is_same = stamp(own_text, origin) == stamp(merged, origin)
        self._has_drift = not is_same or self._local.running.checksum != crc32(own)
        if not self._is_enabled:
            return
        if stamped == own:
            await self._load(crc32(own))
            return
        if await self._local.is_masters():
            raise _LaterError("server.ini is the master's own file, and was changed; waiting for its reload")
        await self._local.check(stamped)
        await self._local.replace(stamped, keep_old=not is_same)
        _log.info("Write new config file from master to slave local", checksum=origin, changed=not is_same)
        await self._load(crc32(stamped))

    async def _load(self, checksum: int) -> None:
        """Run what lies on disk."""
        if self._is_enabled and self._local.running.checksum != checksum:
            self._needs_restart = await self._local.reload()
        self._has_drift = self._local.running.checksum != checksum


async def _fetch(link: BrokerConnection) -> bytes:
    reply = await link.request(_encode_stats_config, _FETCH_SECONDS)
    expect_text(reply)
    return b"" if isinstance(reply, Value) else reply.raw


def _encode_stats_config(opaque: int) -> bytes:
    return encode_stats("config", opaque)


def _stamp_of(config: ServerConfig) -> int | None:
    return stamped_checksum(decode_file(config.source_bytes, str(config.path)))
