"""Whatever bytes come, the broker answers or closes, and nobody else notices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.fuzzing.client_port import fuzz, start_target

if TYPE_CHECKING:
    from pathlib import Path

CASES = 100_000 if os.environ.get("METASERVER_LONG") else 2_500


def test_fuzz(tmp_path: Path) -> None:
    node = start_target(tmp_path)
    try:
        figures = fuzz(node, CASES, first_seed=1)
        assert figures.cases >= CASES
        assert {"200", "400", "404", "500", "503", "value"} <= set(figures.replies)
        assert node.stop() == 0
        assert "Traceback" not in node.log
        # What it has made of all this is a log like any other.
        node.start()
        assert [int(found.data) for found in node.read_all("safe")] == list(range(figures.pings))
        for topic, partition in (line.split(" ")[:3:2] for line in node.statistics("offsets")):
            node.read_all(topic, int(partition))
        assert {path.name for path in node.base.iterdir()} == {"conf", "data", "logs", "output"}
        assert node.stop() == 0
    finally:
        node.make_sure_it_is_gone()
