"""A client's session of the node with the cluster it is in, for those who ask over HTTP for groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import DiscoveryError, MetaServerError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client import Session

_log = get_logger(__name__)

_ANSWER_SECONDS = 5.0
"""For the registry, at the first question and after an error."""
_LOOK_SECONDS = 2.0
"""A slave's registry may move with its master."""
_STOP_SECONDS = 2.0
"""For the end of the session."""


@attrs.define(eq=False)
class ClusterSession:
    """Opened when it is asked for the first time; a node whose console nobody uses has none."""

    _servers: Callable[[], str | None]
    """Of the registry, ``HOST:PORT,…/PATH``; None: there is none."""
    _root: str
    _session: Session | None = None
    _problem: str = ""
    _wanted: trio.Event = attrs.Factory(trio.Event)
    _changed: trio.Event = attrs.Factory(trio.Event)
    _scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    _finished: trio.Event = attrs.Factory(trio.Event)

    async def get(self) -> Session:
        """The session; raises DiscoveryError."""
        with trio.move_on_after(_ANSWER_SECONDS):
            self._problem = ""
            while self._session is None and not self._problem:
                self._wanted.set()
                await self._changed.wait()
        session = self._session
        if session is None:
            raise DiscoveryError(self._servers() or "this broker", self._problem or "no answer")
        return session

    async def run(self) -> None:
        """Keep what is asked for, until cancelled."""
        try:
            with self._scope:
                while True:
                    await self._wanted.wait()
                    self._wanted = trio.Event()
                    await self._keep()
        finally:
            self._finished.set()

    async def stop(self) -> None:
        """End the session, so that nobody waits for it to notice anything. :meth:`run` must be running."""
        self._scope.cancel()
        with trio.move_on_after(_STOP_SECONDS):
            await self._finished.wait()

    async def _keep(self) -> None:
        from metaserver.client import SessionOptions, open_session  # noqa: PLC0415 - it takes a while

        servers = self._servers()
        if servers is None:
            self._tell(None, "it is in no registry (zk.zkEnable, or the master is not known yet)")
            return
        options = SessionOptions(root=self._root, discovery_seconds=_ANSWER_SECONDS)
        try:
            async with open_session(f"zookeeper://{servers}", options) as session:
                self._tell(session, "")
                try:
                    while self._servers() == servers:  # noqa: ASYNC110 - nobody tells of the change
                        await trio.sleep(_LOOK_SECONDS)
                finally:
                    self._session = None
        except MetaServerError as error:
            _log.info("The registry cannot be asked for groups", servers=servers, reason=str(error))
            self._tell(None, str(error))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the broker does its work
            _log.exception("The session with the cluster failed")
            self._tell(None, repr(error))

    def _tell(self, session: Session | None, problem: str) -> None:
        self._session, self._problem = session, problem
        changed, self._changed = self._changed, trio.Event()
        changed.set()
