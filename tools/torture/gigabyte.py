"""A gigabyte of real text through the command line, into a master and out of its slave, compared."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tools.torture import logfiles
from tools.torture.nodes import ROOT, NodeError, place_at, wait_until
from tools.torture.verifier import BrokenPromiseError, PrefixCheck

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
_SEGMENT_BYTES = 256 * MIB
_LINE_BYTES_MAX = 64 * 1024
_SOURCE_BYTES = 64 * MIB
"""So much text is collected before it is repeated."""
_STEP_SECONDS_MAX = 900.0
_TOPIC = "text"


def run_gigabyte(base: Path, megabytes: int, tell: Callable[[str], None]) -> list[tuple[str, str]]:
    """Raises BrokenPromiseError where one byte differs."""
    original, copy = base / "original.txt", base / "copy.txt"
    lines = write_text(original, megabytes * MIB)
    size_bytes = original.stat().st_size
    tell(f"{size_bytes:,} bytes of text in {lines:,} lines")
    settings = {"maxSegmentSize": _SEGMENT_BYTES}
    with place_at(base / "place", [f"[topic={_TOPIC}]"], settings=settings) as place:
        place.master.start()
        place.slave.start()
        began = time.monotonic()
        command = "produce", _TOPIC, "--partition", "0", "-f", str(place.server_file)
        _command(*command, input_path=original, output_path=Path(os.devnull))
        produced = time.monotonic()
        tell(f"produced in {produced - began:.1f} s")
        prefix = PrefixCheck(place.master_data, place.slave_data)
        wait_until(lambda: not prefix.is_behind(), _STEP_SECONDS_MAX, "the slave has everything")
        replicated = time.monotonic()
        tell(f"replicated {replicated - produced:.1f} s later")
        command = "consume", _TOPIC, "--partition", "0", "--server", f"127.0.0.1:{place.slave.port}"
        _command(*command, input_path=Path(os.devnull), output_path=copy)
        consumed = time.monotonic()
        tell(f"consumed in {consumed - replicated:.1f} s")
        if not is_equal(original, copy):
            raise BrokenPromiseError([f"{copy} differs from {original}"])
        place.slave.stop()
        place.master.stop()
        problems = prefix.differences()
        if problems:
            raise BrokenPromiseError(problems)
        segments = logfiles.segments(place.master_data / f"{_TOPIC}-0")
    return [
        ("text", f"{size_bytes:,} bytes, {lines:,} lines"),
        ("produced into the master", _rate(size_bytes, produced - began)),
        ("then until the slave had everything", f"{replicated - produced:.2f} s"),
        ("consumed from the slave", _rate(size_bytes, consumed - replicated)),
        ("text consumed and text produced", "identical"),
        (f"{len(segments)} segment files of master and slave", "identical"),
    ]


def write_text(path: Path, size_bytes: int) -> int:
    """At least so many bytes of text found on this machine, over and over; returns the number of lines.

    Each pass begins with a line that names it, so that no two stretches of the file are alike.
    """
    passage: list[bytes] = []
    passage_bytes = 0
    for line in _lines_of_this_machine():
        passage.append(line)
        passage_bytes += len(line)
        if passage_bytes >= min(_SOURCE_BYTES, size_bytes):
            break
    text = b"".join(passage)
    written = lines = 0
    with path.open("wb") as file:
        while written < size_bytes:
            head = b"==== pass %d ====\n" % lines
            written += file.write(head) + file.write(text)
            lines += 1 + len(passage)
    return lines


def _lines_of_this_machine() -> Iterator[bytes]:
    standard_library = Path(sysconfig.get_paths()["stdlib"])
    found = chain(
        sorted(Path("/var/log").glob("*.log")),
        (path for suffix in ("md", "py", "ini") for path in sorted(ROOT.rglob(f"*.{suffix}"))),
        sorted(standard_library.rglob("*.py")),
        sorted(Path("/usr/share/doc").rglob("*")),
    )
    for path in found:
        try:
            text = path.read_bytes() if path.is_file() and path.suffix not in (".gz", ".xz") else b""
        except OSError:
            continue
        yield from (line.rstrip(b"\n") + b"\n" for line in text.split(b"\n") if len(line) < _LINE_BYTES_MAX)


def is_equal(left: Path, right: Path) -> bool:
    """What ``cmp`` says."""
    if left.stat().st_size != right.stat().st_size:
        return False
    with left.open("rb") as one, right.open("rb") as other:
        while piece := one.read(4 * MIB):
            if piece != other.read(4 * MIB):
                return False
    return True


def _command(*words: str, input_path: Path, output_path: Path) -> None:
    """Run bin/metaServer, as somebody at a terminal would; raises NodeError with what it says."""
    with input_path.open("rb") as source, output_path.open("wb") as target:
        done = subprocess.run(
            [str(ROOT / "bin" / "metaServer"), *words],
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            env={**os.environ, "METASERVER_PYTHON": sys.executable},
            timeout=_STEP_SECONDS_MAX,
            check=False,
        )
    if done.returncode != 0:
        raise NodeError(f"metaServer {' '.join(words)}: exit code {done.returncode}: {done.stderr.decode()}")


def _rate(size_bytes: int, seconds: float) -> str:
    return f"{seconds:.1f} s, {size_bytes / seconds / MIB:.0f} MiB/s"
