"""The long form of fuzzing a broker's port: ``python -m tools.fuzz_port --cases 100000 [--seed N]``.

Starts a broker of its own in a temporary directory; prints a line now and then, and the figures at the end.
The exit code is 1 where a case went wrong; the case and the broker's log are then printed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.broker.fuzzing import Figures, fuzz, start_target


def main() -> int:
    """Run as many cases as asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metaserver-fuzz-") as directory:
        node = start_target(Path(directory))
        try:
            figures = fuzz(node, arguments.cases, arguments.seed, _show)
            code = node.stop()
            if code or "Traceback" in node.log:
                print(node.log[-4000:], f"the broker ended with {code}", sep="\n")
                return 1
        except BaseException:
            print(node.log[-4000:])
            raise
        finally:
            node.make_sure_it_is_gone()
    print(figures)
    return 0


def _show(figures: Figures) -> None:
    print(f"\r{figures.cases} cases", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
