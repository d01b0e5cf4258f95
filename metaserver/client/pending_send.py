"""What a sender waits for: the fate of a message, or of many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import attrs

from metaserver.errors import ClientError, SendError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaserver.client.lane import Sent

_log = get_logger(__name__)


@attrs.define(eq=False)
class PendingSend:
    """A message on its way."""

    _settled: anyio.Event = attrs.Factory(anyio.Event)
    _outcome: Sent | SendError | None = None
    _callback: Callable[[Sent | SendError], None] | None = None

    @property
    def outcome(self) -> Sent | SendError | None:
        """What came of it; None as long as that is not known."""
        return self._outcome

    async def wait(self) -> Sent:
        """Where it is stored; raises SendError. Cancelled, the message goes its way all the same."""
        await self._settled.wait()
        if isinstance(self._outcome, SendError):
            raise self._outcome
        if self._outcome is None:
            raise AssertionError("the event is set behind the outcome")
        return self._outcome

    def settle(self, outcome: Sent | SendError) -> None:
        """The fate is known."""
        self._outcome = outcome
        self._settled.set()
        if self._callback is None:
            return
        try:
            self._callback(outcome)
        except Exception as error:  # noqa: BLE001 - an application's, between the fates of other messages
            _log.error("Callback of a message failed", reason=f"{type(error).__name__}: {error}")


@attrs.define(eq=False)
class SendGroup:
    """The messages of one ``send_many``."""

    outcomes: list[Sent | SendError | None]
    left: int
    is_complete: anyio.Event = attrs.Factory(anyio.Event)

    def settle(self, index: int, outcome: Sent | SendError) -> None:
        """The fate of one of them is known."""
        self.outcomes[index] = outcome
        self.left -= 1
        if not self.left:
            self.is_complete.set()


def reason_of(error: Exception) -> str:
    """Why a message was not sent, whoever has raised it."""
    return str(error) if isinstance(error, ClientError) else f"{type(error).__name__}: {error}"
