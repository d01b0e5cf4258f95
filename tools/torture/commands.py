"""What metaServer itself says of what a run has left: ``verify``, ``compare``."""

from __future__ import annotations

import os
import subprocess
import sys

from tools.torture.nodes import ROOT
from tools.torture.verifier import BrokenPromiseError


def must_find_nothing(*words: str) -> None:
    """A command that ends well; raises BrokenPromiseError with what it says where it does not."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "metaserver", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise BrokenPromiseError([f"metaServer {' '.join(words)}: {done.stdout}{done.stderr}"])
