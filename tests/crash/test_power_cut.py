"""The short form of `tools/torture/run powercut`, and what makes a cut a cut."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tools.torture.filesystems import MIB, UnavailableError, image
from tools.torture.kills import TOPICS
from tools.torture.nodes import place_at
from tools.torture.powercut import SETTINGS, PowerCuts

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_was_acknowledged_survives_a_power_cut(tmp_path: Path) -> None:
    host, data = tmp_path / "host", tmp_path / "place" / "data"
    with ExitStack() as stack:
        try:
            stack.enter_context(image(tmp_path / "host.img", host, "xfs", 600 * MIB, "-m", "reflink=1"))
            stack.enter_context(image(host / "disk.img", data, "ext4", 400 * MIB))
        except UnavailableError as error:
            pytest.skip(f"no power cuts here: {error}")
        place = stack.enter_context(place_at(tmp_path / "place", TOPICS, settings=SETTINGS))
        cuts = PowerCuts(place, host / "disk.img", seed=2)
        await cuts.run(5, lambda _: None)
        assert cuts.cuts == 5
        assert cuts.acknowledged_before_cuts > 0
        assert cuts.cuts_in_recovery > 0
