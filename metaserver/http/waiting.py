"""How many requests may hold something at a time that others cannot have meanwhile."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from metaserver.http.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.define(eq=False)
class WaitingRoom:
    """Places for long polls and streams, which hold connections; or for bodies, which hold memory."""

    places: int
    _refusal: str = "requests wait already; ask again without waiting"
    _taken: int = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place for the block; raises ProblemError where there is none."""
        if self._taken >= self.places:
            raise ProblemError(503, f"{self.places} {self._refusal}", headers={"retry-after": "5"})
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
