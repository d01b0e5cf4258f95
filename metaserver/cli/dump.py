"""``dump-log``: the records of one segment file, for a person or for a machine."""

from __future__ import annotations

import json
from pathlib import Path

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.formats import payload_fields, time_text
from metaserver.cli.options import json_option, preview_option
from metaserver.cli.output import Failure, complain, count_of, say
from metaserver.cli.segment_file import Damage, Placed, open_for_reading, walk
from metaserver.message import checksum
from metaserver.storage.filenames import parse_segment_name

TITLE = f"{'offset':>12}  {'id':<19}  {'time':<24}  flag  {'length':>8}  checksum  payload"
_LINES_AT_A_TIME = 1000
"""Printed one by one, the lines of a large file would take minutes."""


@click.command("dump-log")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@json_option
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N records.")
@preview_option
@click.pass_context
def dump_log(
    context: click.Context, path: Path, *, as_json: bool, count: int | None, preview_bytes: int
) -> None:
    """Print the records of a .meta file.

    Damaged ranges are named, and it goes on behind them. Works on a file that a broker has open.
    """
    try:
        file = open_for_reading(path)
        end = file.size()
    except OSError as error:
        raise Failure(f"{path}: cannot be read: {error.strerror}") from error
    base = parse_segment_name(path.name) or 0
    show = json_line if as_json else text_line
    records = damages = 0
    lines = [] if as_json else [TITLE]
    try:
        for found in walk(file, 0, end):
            if isinstance(found, Damage):
                damages += 1
            elif records == count:
                break
            else:
                records += 1
            lines.append(show(found, base, preview_bytes))
            if len(lines) == _LINES_AT_A_TIME:
                say("\n".join(lines))
                lines.clear()
    finally:
        file.close()
    if not as_json:
        without = f"; damaged in {count_of(damages, 'place')}" if damages else ""
        lines.append(count_of(records, "record") + without)
    if lines:
        say("\n".join(lines))
    if damages:
        complain(f"{path} holds bytes that are no records")
        context.exit(int(ExitCode.DAMAGE))


def text_line(found: Placed | Damage, base: int, preview_bytes: int) -> str:
    """A record, or a stretch that is none, for a person; ``base`` is the offset of the file's first byte."""
    if isinstance(found, Damage):
        kind = "torn tail" if found.is_tail else "damaged"
        return (
            f"{base + found.start:>12}  -- {kind}: {found.end - found.start} bytes, "
            f"up to offset {base + found.end}: {found.reason}"
        )
    record = found.record
    attribute = (
        "" if record.attribute is None else f"[{_printable(record.attribute.encode(), preview_bytes)}] "
    )
    return (
        f"{base + found.position:>12}  {record.message_id:<19}  {time_text(record.wall_seconds):<24.24}  "
        f"{record.flag:>4}  {len(record.data):>8}  {checksum(record.data):08x}  "
        f"{attribute}{_printable(record.payload, preview_bytes)}"
    )


def json_line(found: Placed | Damage, base: int, preview_bytes: int) -> str:
    """The same for a machine."""
    if isinstance(found, Damage):
        return json.dumps(
            {
                "damage": "torn tail" if found.is_tail else "damaged",
                "offset": base + found.start,
                "end_offset": base + found.end,
                "reason": found.reason,
            }
        )
    record = found.record
    return json.dumps(
        {
            "offset": base + found.position,
            "id": record.message_id,
            "time": time_text(record.wall_seconds),
            "flag": record.flag,
            "attribute": record.attribute,
            "length": len(record.data),
            "checksum": checksum(record.data),
            **payload_fields(record.payload[:preview_bytes]),
        },
        ensure_ascii=False,
    )


def _printable(data: bytes, preview_bytes: int) -> str:
    """Text with every control character escaped, so that a message cannot play tricks on a terminal."""
    text = data[:preview_bytes].decode(errors="backslashreplace")
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return f"{shown}…" if len(data) > preview_bytes else shown
