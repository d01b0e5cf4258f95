"""What holds for every test: which ones run, and how Hypothesis draws."""

from __future__ import annotations

import os
import shutil
import signal

import pytest
from hypothesis import HealthCheck, settings

# The short form draws the same examples each time, so that a failure of a run is a failure of the
# code. The long form explores, and remembers what failed.
settings.register_profile("short", derandomize=True, database=None, deadline=None, max_examples=50)
settings.register_profile(
    "long", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("long" if os.environ.get("METASERVER_LONG") else "short")


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that runs the tests in the background has them ignore Control-C, and all they start as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what this machine, or this form of the run, has no place for; the summary says why."""
    left_out = {}
    if not os.environ.get("METASERVER_LONG"):
        left_out["slow"] = pytest.mark.skip(reason="long form: tools/test --long")
    if shutil.which("java") is None:
        left_out["java"] = pytest.mark.skip(reason="there is no java here")
    for item in items:
        for name, mark in left_out.items():
            if item.get_closest_marker(name) is not None:
                item.add_marker(mark)
