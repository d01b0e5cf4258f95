"""Refuses puts before the disk is full or where a data directory is gone, and lets them in again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from metaserver.errors import DiskFullError, StorageError
from metaserver.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from metaserver.storage import FileSystem

_log = get_logger(__name__)

_CHECK_SECONDS = 2.0


@attrs.define(eq=False)
class DiskGuard:
    """Watches the data directories and their free space."""

    _filesystem: FileSystem
    _paths: Sequence[Path]
    _min_free_bytes: int
    is_full: bool = False
    free_bytes: int = 0
    """Of the fullest disk, when it was last looked at."""
    gone: Path | None = None
    """A data directory that was there: its files are still open, but nobody will find what goes into them."""
    _was_there: bool = False

    @property
    def takes_puts(self) -> bool:
        """Whether what is appended now can be kept."""
        return not self.is_full and self.gone is None

    def check(self) -> None:
        """Look at the disks now."""
        was_gone, self.gone = self.gone, None
        path = None
        try:
            found = []
            for path in self._paths:
                found.append(self._filesystem.free_bytes(path))
            self.free_bytes = min(found)
            self._was_there = True
        except FileNotFoundError as error:
            if self._was_there:
                self.gone = path
                if was_gone is None:
                    _log.error("A data directory is gone: puts are refused", reason=str(error))
            return
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

    def error(self, path: Path) -> StorageError:
        """What a put is answered with while none is taken."""
        if self.gone is not None:
            return StorageError(f"the data directory {self.gone} is gone")
        return DiskFullError(path, self.free_bytes)

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            self.check()
            await trio.sleep(_CHECK_SECONDS)
