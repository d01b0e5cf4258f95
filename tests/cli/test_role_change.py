"""When a node is said to have been promoted."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from metaserver.cli import switchover
from metaserver.cli.role_change import promotion_text

if TYPE_CHECKING:
    from pathlib import Path

NOW_SECONDS = 1_800_000_000.25
NOW = "2027-01-15T08:00:00.250Z"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaserver.cli.role_change.time.time", lambda: NOW_SECONDS)


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        pytest.param([], NOW, id="nobody was promoted before"),
        pytest.param(["", "yesterday"], NOW, id="nor is that a time"),
        pytest.param(["2027-01-15T07:00:00.000Z"], NOW, id="an hour ago"),
        pytest.param(["2027-01-15T08:00:00.250Z"], "2027-01-15T08:00:01.250Z", id="just now"),
        pytest.param(
            ["2027-01-15T09:00:00Z", "", "2027-01-15T08:30:00Z"],
            "2027-01-15T09:00:01.000Z",
            id="an hour from now, by another clock",
        ),
    ],
)
def test_a_promotion_is_later_than_those_that_are_known(known: list[str], expected: str) -> None:
    assert promotion_text(*known) == expected


def test_a_switchover_is_later_than_its_masters_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    master = SimpleNamespace(promotion=SimpleNamespace(time="2027-01-15T09:00:00.000Z"))
    monkeypatch.setattr(switchover, "role_of", lambda _node: master)
    pair: Any = SimpleNamespace(master=None, address="10.0.0.1:8123")
    slave: Any = SimpleNamespace(config=SimpleNamespace(data_path=tmp_path))
    switchover._decide(pair, slave)
    decision = json.loads((tmp_path / "role.json").read_text(encoding="utf-8"))
    assert decision["time"] == "2027-01-15T09:00:01.000Z"
