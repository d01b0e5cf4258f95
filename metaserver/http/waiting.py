"""How many requests may wait at a time: each holds a connection that others cannot have."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from metaserver.http.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.define(eq=False)
class WaitingRoom:
    """For long polls and streams."""

    places: int
    _taken: int = 0

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Take a place for the block; raises ProblemError where there is none."""
        if self._taken >= self.places:
            text = f"{self.places} requests wait already; ask again without waiting"
            raise ProblemError(503, text, headers={"retry-after": "5"})
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
