"""What a node was told to be, in words."""

from __future__ import annotations

import pytest

from metaserver.node.role import Decision


@pytest.mark.parametrize(("host", "master"), [("h", "h:8123"), ("::1", "[::1]:8123")])
def test_it_names_the_master(host: str, master: str) -> None:
    decision = Decision(role="slave", master_host=host, master_port=8123, time="2026-11-24T00:00:00Z")
    assert decision.master == master
    assert decision.sentence == f"told at 2026-11-24T00:00:00Z to follow {master}: it is its slave"
