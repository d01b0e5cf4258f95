"""Single system calls of a running node that fail or take their time, by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tools.torture.filesystems import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tools.torture.nodes import Node

PLAIN_SYNCS = "io_submit:error=EAGAIN"
"""The asynchronous syncs of a node are refused: it makes plain ones, which can be made to fail or wait."""


@contextmanager
def injected(node: Node, trace: Path, *rules: str) -> Iterator[None]:
    """Faults in all threads of a running node, for the time of the block; the calls are in ``trace``.

    A rule is what strace's ``inject=`` takes. Raises UnavailableError.
    """
    if shutil.which("strace") is None:
        raise UnavailableError("there is no strace here")
    words = [word for rule in rules for word in ("-e", f"inject={rule}")]
    calls = ",".join(rule.partition(":")[0] for rule in rules)
    command = ["strace", "-f", "-o", str(trace), "-p", str(node.pid), "-e", f"trace={calls}", *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None  # It is a pipe.
    first = process.stderr.readline()
    if "attached" not in first:
        process.wait()
        raise UnavailableError(f"strace cannot attach: {first.strip()}")
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)


def failed_calls(trace: Path, call: str) -> list[str]:
    """The calls (a regular expression for the name) in a trace that were made to fail."""
    return re.findall(rf"\b{call}\(.*\(INJECTED", trace.read_text(encoding="utf-8"))
