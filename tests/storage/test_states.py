"""Some of the disks that tools/torture/run states looks at; another seed each time the script changes."""

from __future__ import annotations

from tools.torture.states import run_states

DISKS = 2000


def test_disks_that_crashes_leave() -> None:
    table = dict(run_states(DISKS, 1, lambda _line: None))
    assert table["disks looked at, all different"] == f"{DISKS:,}"
    assert int(table["of them with a second crash, while recovering"]) > DISKS // 20
