"""Whether a master takes puts: it may be sealed for a planned change, or have given up or lost its place."""

from __future__ import annotations

import attrs

from metaserver.errors import FencedError
from metaserver.logs import get_logger

_log = get_logger(__name__)


@attrs.define(eq=False)
class PutGate:
    """Open, sealed for a while, or, until the process ends, given up or fenced."""

    reason: str = ""
    """Why puts are refused, as producers are told; blank while they are taken."""
    fenced: FencedError | None = None
    """What also those puts are answered that wait for the disk."""
    is_given_up: bool = False
    """Sealed for good: the master has handed its place over."""

    def fence(self, rival: str) -> None:
        """Another broker has this one's place: what is taken from now on would be lost."""
        if self.fenced is not None:
            return
        self.fenced = FencedError(rival)
        self.reason = str(self.fenced)
        _log.error("Fenced: no more puts are taken until a restart", reason=rival)

    def seal(self, reason: str) -> None:
        """Refuse puts until :meth:`unseal`; those that wait for the disk are answered as ever."""
        if self.fenced is None:
            self.reason = reason
            _log.warning("Sealed: puts are refused", reason=reason)

    def give_up(self) -> None:
        """Stay sealed for good."""
        self.is_given_up = True
        _log.warning("The place as master is given up: no more puts are taken until a restart")

    def unseal(self) -> None:
        """Take puts again, unless that is over for good."""
        if self.fenced is None and not self.is_given_up and self.reason:
            self.reason = ""
            _log.warning("No longer sealed: puts are taken")
