"""The short form of `tools/torture/run kills`: real processes, SIGKILL, restart, everything checked."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from tools.torture.kills import NAMES, SETTINGS, TOPICS, Killing, lottery
from tools.torture.load import Load
from tools.torture.nodes import place_at, until
from tools.torture.verifier import Verifier

if TYPE_CHECKING:
    from pathlib import Path

SERVING_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 10.0


@pytest.mark.parametrize("unflush_threshold", [0, 1000], ids=["fsync", "page-cache"])
async def test_kills_lose_nothing_that_was_acknowledged(unflush_threshold: int, tmp_path: Path) -> None:
    victims = (
        lottery(3, master=5, slave=3, both=1) if unflush_threshold == 0 else lottery(4, master=2, slave=1)
    )
    settings = {**SETTINGS, "unflushThreshold": unflush_threshold}
    with place_at(tmp_path / "place", TOPICS, settings=settings) as place:
        killing = Killing(place, seed=3, load_seconds=(0.02, 0.25))
        await killing.run(victims)

    assert killing.figures.kills.total() - killing.figures.kills["starting"] == len(victims)
    assert killing.figures.kills["starting"] > 0 or unflush_threshold
    assert killing.verifier.found >= killing.verifier.acknowledged > 0
    assert killing.verifier.delivered_bytes > 0
    assert killing.prefix.rounds > len(victims)
    assert killing.figures.master_start_seconds_max < SERVING_SECONDS_MAX
    assert killing.figures.slave_start_seconds_max < SERVING_SECONDS_MAX


async def test_a_stop_under_load_answers_everything_and_needs_no_recovery(tmp_path: Path) -> None:
    verifier = Verifier()
    with place_at(tmp_path / "place", TOPICS, settings=SETTINGS) as place:
        place.master.start()
        load = Load(verifier, NAMES, Random(5))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.run, place.master.port, 4)
                await until(lambda: load.acknowledged >= 500, 20, "five hundred are acknowledged")
                stopped_seconds = await trio.to_thread.run_sync(place.master.stop)
        verifier.check(place.master_data)
        assert stopped_seconds < STOP_SECONDS_MAX
        before = len(place.master.log_tail(1000))
        place.master.start()
        assert "Recovery succeeded" not in place.master.log_tail(1000)[before:]
        assert not place.master.problems()
        verifier.check(place.master_data)
