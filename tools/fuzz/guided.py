"""One target under libFuzzer, in a process of its own: ``TARGET [OPTION...] [DIRECTORY...]``.

The first exception that leaves the target ends the process; the input is then a file (``-artifact_prefix``).
Options and directories are libFuzzer's.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["metaserver"]):
    from tests.fuzzing.targets import TARGETS


def main() -> None:
    """Fuzz until libFuzzer has enough; it ends the process."""
    name, *options = sys.argv[1:]
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        target.run(data)

    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
