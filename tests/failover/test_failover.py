"""The short form of `tools/torture/run failover`: real nodes, the command line, applications all the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.registry_zookeeper.zookeeper_server import ZooKeeperServer, require_zookeeper
from tools.torture.failover import SAFE, SETTINGS, TOPICS, Failover, Kind
from tools.torture.pair import pair_at

if TYPE_CHECKING:
    from pathlib import Path

DEATHS: tuple[Kind, ...] = (
    "slave killed",
    "master killed",
    "both killed",
    "master's tail lost",
    "slave's disk lost",
    "master's disk lost",
)
CHANGES: tuple[Kind, ...] = ("switchover", "promotion") * 4


@pytest.mark.parametrize("kinds", [DEATHS, CHANGES], ids=["deaths", "changes"])
async def test_nothing_is_lost_that_is_not_told(kinds: tuple[Kind, ...], tmp_path: Path) -> None:
    with pair_at(tmp_path / "pair", TOPICS, settings=SETTINGS) as pair:
        run = Failover(pair, 1, pair.servers)
        await run.run(kinds)
    assert run.figures.rounds.total() == len(kinds)
    assert run.figures.lost[SAFE] == 0
    assert run.verifier.found > 0
    assert all(run.traffic.delivered.values())


async def test_a_slave_that_is_behind_tells_exactly_what_it_lacks(tmp_path: Path) -> None:
    with pair_at(tmp_path / "pair", TOPICS, settings=SETTINGS) as pair:
        run = Failover(pair, 2, pair.servers)
        await run.run(["promotion of a slave that is behind"])
    assert run.figures.missing_bytes_told > 0
    assert run.figures.quarantined > 0


async def test_the_older_of_two_masters_takes_nothing_more(tmp_path: Path) -> None:
    require_zookeeper()
    server = ZooKeeperServer(tmp_path / "zookeeper")
    try:
        server.start()
        registry = (f"zk.zkConnect={server.address}", "zk.zkSessionTimeoutMs=1000")
        with pair_at(tmp_path / "pair", TOPICS, settings=SETTINGS, registry=registry) as pair:
            run = Failover(pair, 3, f"zookeeper://{server.address}")
            await run.run(["two masters"])
    finally:
        server.kill()
    assert run.figures.rounds["two masters"] == 1
