"""Whose bytes are believed for damaged ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from metaserver.client import Fetched
from metaserver.epochs import Epoch, EpochChain, LogHistory
from metaserver.errors import NotRepairedError
from metaserver.message import encode_record
from metaserver.replication import donor
from metaserver.replication.donor import DamagedPlace, Donor
from metaserver.storage import OffsetRange
from tests.storage.support import NAME

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from metaserver.client import BrokerConnection

RECORDS = [encode_record(b"mine   %d" % number, 100 + number) for number in range(10)]
OTHERS = [encode_record(b"others %d" % number, 500 + number) for number in range(10)]
SIZE = len(RECORDS[0])
END = 10 * SIZE
COMMON = EpochChain((Epoch(1, 7, 0),))
LATER = EpochChain((Epoch(1, 7, 6 * SIZE),))
NONE = EpochChain()


class Link:
    """To a replica."""

    address = "other:8123"

    def __init__(self, records: list[bytes], *, knows_epochs: bool) -> None:
        self.data = b"".join(records)
        self.extensions = frozenset({"epochs"}) if knows_epochs else frozenset()

    async def stats(self, _item: str, _seconds: float) -> str:
        return ""

    async def get(self, _topic: str, _partition: int, offset: int, *, size_max: int) -> Fetched:
        data = self.data[offset : offset + size_max]
        return Fetched(topic="orders", partition=0, offset=offset, data=data)


def ask(
    monkeypatch: pytest.MonkeyPatch, link: Link, own: EpochChain, other: EpochChain, *, is_alone: bool = False
) -> Awaitable[bytes]:
    async def ask_epochs(*_arguments: object) -> EpochChain:
        return other

    monkeypatch.setattr(donor, "ask_epochs", ask_epochs)
    monkeypatch.setattr(donor, "parse_ranges", lambda _text: {NAME: OffsetRange(0, END)})
    place = DamagedPlace(
        name=NAME,
        start=4 * SIZE,
        end=5 * SIZE,
        stop=END,
        before=b"" if is_alone else b"".join(RECORDS[:4]),
        after=b"" if is_alone else b"".join(RECORDS[5:]),
        history=LogHistory(own, 0, END),
    )
    return Donor(cast("BrokerConnection", link)).records_for(place)


@pytest.mark.parametrize("is_alone", [False, True])
async def test_an_epoch_that_covers_it_shows_enough(
    monkeypatch: pytest.MonkeyPatch, *, is_alone: bool
) -> None:
    """Whatever lies around it there, which may be damaged."""
    link = Link([*OTHERS[:4], RECORDS[4], *OTHERS[5:]], knows_epochs=True)
    assert await ask(monkeypatch, link, COMMON, COMMON, is_alone=is_alone) == RECORDS[4]


@pytest.mark.parametrize("knows_epochs", [True, False])
@pytest.mark.parametrize("chain", [NONE, LATER])
async def test_without_one_what_lies_around_it_must_be_equal(
    monkeypatch: pytest.MonkeyPatch, chain: EpochChain, *, knows_epochs: bool
) -> None:
    """As of two that were upgraded from MetaQ, each with messages of its own."""
    link = Link(OTHERS, knows_epochs=knows_epochs)
    with pytest.raises(NotRepairedError, match="what lies in front of the damage differs there"):
        await ask(monkeypatch, link, chain, chain)
    with pytest.raises(NotRepairedError, match="nothing around it to compare"):
        await ask(monkeypatch, link, chain, chain, is_alone=True)
    link = Link([*RECORDS[:5], *OTHERS[5:]], knows_epochs=knows_epochs)
    with pytest.raises(NotRepairedError, match="what lies behind the damage differs there"):
        await ask(monkeypatch, link, chain, chain)
    link = Link(RECORDS, knows_epochs=knows_epochs)
    assert await ask(monkeypatch, link, chain, chain) == RECORDS[4]


async def test_another_history_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    link, other = Link(RECORDS, knows_epochs=True), EpochChain((Epoch(1, 9, 0),))
    with pytest.raises(NotRepairedError, match="its history is another one there"):
        await ask(monkeypatch, link, COMMON, other)
