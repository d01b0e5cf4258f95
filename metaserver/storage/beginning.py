"""Beginning the next segment of a log: its file is there, durably, or is not there at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from metaserver.storage.filesystem import Point

if TYPE_CHECKING:
    from metaserver.storage.filesystem import FileSystem
    from metaserver.storage.segment import Segment


@attrs.frozen
class BeginSteps:
    """What the calls are named."""

    create: Point
    undo: Point
    sync_directory: Point


ROLL = BeginSteps(Point.ROLL_CREATE, Point.ROLL_UNDO, Point.ROLL_SYNC_DIRECTORY)
SKIP = BeginSteps(Point.SKIP_CREATE, Point.SKIP_UNDO, Point.SKIP_SYNC_DIRECTORY)


class LostDirectoryError(Exception):
    """The directory is gone, and what is appended with it; or nobody knows whether the file is in it.

    Its name would soon lie inside the segment before.
    """

    def __init__(self, cause: OSError) -> None:
        """Of an error of the disk."""
        super().__init__(str(cause))
        self.cause = cause


def begin_segment(filesystem: FileSystem, segment: Segment, steps: BeginSteps) -> None:
    """Make the file. Raises OSError, and it is not there; LostDirectoryError."""
    segment.unseal()
    try:
        segment.create(steps.create)
    except FileNotFoundError as error:
        raise LostDirectoryError(error) from error
    except OSError:
        try:
            filesystem.remove(segment.path, steps.undo)
        except FileNotFoundError:
            pass
        except OSError as second_error:
            raise LostDirectoryError(second_error) from second_error
        raise
    try:
        filesystem.sync_directory(segment.path.parent, steps.sync_directory)
    except OSError as error:
        segment.retire()
        raise LostDirectoryError(error) from error
