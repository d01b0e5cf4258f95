"""One folder in quarantine, and how it is found by its name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from metaserver.cli.options import chosen_node
from metaserver.cli.output import Failure
from metaserver.cli.segment_file import Damage, Placed, open_for_reading, walk
from metaserver.cli.target import config_of
from metaserver.storage import QuarantineReport, RealFileSystem
from metaserver.storage.documents import load_document, parse_json
from metaserver.storage.filenames import QUARANTINE_NAME, REPLAYED_NAME, REPORT_NAME, parse_segment_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaserver.cli.installation import Installation


class Folder(NamedTuple):
    """One stretch of a log, put away."""

    path: Path
    report: QuarantineReport
    replayed: dict[str, Any] | None
    """What ``replay`` has left there."""

    @property
    def name(self) -> str:
        """``TOPIC-PARTITION/START-END``: how the command line speaks of it."""
        return f"{self.path.parent.name}/{self.path.name}"

    def records(self) -> Iterator[tuple[int, Placed | Damage]]:
        """Each record, and each stretch that is none, behind the offset of its file. Raises OSError."""
        for path in sorted(self.path.glob("*.meta")):
            base = parse_segment_name(path.name)
            if base is None:
                continue
            file = open_for_reading(path)
            try:
                for found in walk(file, 0, file.size()):
                    yield base, found
            finally:
                file.close()


def _replayed(data: bytes) -> dict[str, Any]:
    """Raises ValueError for anything but what ``replay`` writes."""
    match parse_json(data):
        case {"complete": bool(), "messages": list(messages)} as found if all(
            isinstance(message, dict) and {"offset", "new_id", "new_offset"} <= message.keys()
            for message in messages
        ):
            return dict(found)
    raise ValueError(f"{REPLAYED_NAME} does not say what was sent; move it away to send all of them again")


def data_paths(installation: Installation) -> list[Path]:
    """Every data directory of a node; raises ConfigError."""
    return config_of(installation).data_paths


def find_folder(name: str, role: str, server_file: Path | None, plug_ins: tuple[str, ...]) -> Folder:
    """By its path, or by its name in the data of a node; raises Failure where there is none."""
    path = Path(name)
    if (path / REPORT_NAME).is_file():
        return load_folder(path.resolve())
    directories = data_paths(chosen_node(role, server_file, plug_ins))
    found = [directory / QUARANTINE_NAME / name for directory in directories]
    found = [folder for folder in found if (folder / REPORT_NAME).is_file()]
    if not found:
        places = ", ".join(map(str, directories))
        hint = "" if role else "; of the slave: with the word `slave` behind it"
        raise Failure(f"there is no folder {name} in quarantine in {places}{hint}")
    return load_folder(found[0])


def load_folder(path: Path) -> Folder:
    """Read what is said of a folder; raises Failure where that cannot be read."""
    filesystem = RealFileSystem()
    try:
        report = QuarantineReport.parse(load_document(filesystem, path / REPORT_NAME) or b"")
        replayed = load_document(filesystem, path / REPLAYED_NAME)
        return Folder(path, report, None if replayed is None else _replayed(replayed))
    except (OSError, ValueError) as error:
        raise Failure(f"{path}: its report cannot be read: {error}") from error
