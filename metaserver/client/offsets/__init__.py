"""Where a group's offsets are kept: in memory, in a file, in a table of a database."""

from metaserver.client.offsets.file import FileOffsets
from metaserver.client.offsets.memory import MemoryOffsets
from metaserver.client.offsets.sql import SqlOffsets
from metaserver.client.offsets.storage import OffsetStorage

__all__ = ["FileOffsets", "MemoryOffsets", "OffsetStorage", "SqlOffsets"]
