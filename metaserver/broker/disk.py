"""Refuses puts before the disk is full, and lets them in again when there is room."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import DiskFullError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.storage import FileSystem

_log = get_logger(__name__)

_CHECK_SECONDS = 2.0


@attrs.define(eq=False)
class DiskGuard:
    """Watches the free space of the data directories."""

    _filesystem: FileSystem
    _paths: Sequence[Path]
    _min_free_bytes: int
    is_full: bool = False
    free_bytes: int = 0
    """Of the fullest disk, when it was last looked at."""

    def check(self) -> None:
        """Look at the disks now."""
        try:
            self.free_bytes = min(self._filesystem.free_bytes(path) for path in self._paths)
        except OSError as error:
            _log.warning("Free space is unknown", reason=str(error))
            return
        was_full, self.is_full = self.is_full, self.free_bytes < self._min_free_bytes
        if self.is_full and not was_full:
            _log.error("Disk is full: puts are refused until there is room", free_bytes=self.free_bytes)
        elif was_full and not self.is_full:
            _log.info("Disk has room again: puts are taken", free_bytes=self.free_bytes)

    def report_full(self, error: DiskFullError) -> None:
        """A write found no room although the last check did; the next check decides anew."""
        if not self.is_full:
            _log.error("Disk is full: puts are refused until there is room", reason=str(error))
        self.is_full = True

    def error(self, path: Path) -> DiskFullError:
        """What a put is answered with while the disk is full."""
        return DiskFullError(path, self.free_bytes)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await trio.sleep(_CHECK_SECONDS)
