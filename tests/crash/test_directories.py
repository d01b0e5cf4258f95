"""Data directories that are not what they were: taken, read-only, no directory, immutable, gone. Row D9.

A node that cannot use its directory refuses to start, in one sentence with the path; one that loses it while it
runs takes no puts it cannot keep, and has everything again when the directory is back.
"""

from __future__ import annotations

import shutil
from random import Random
from typing import TYPE_CHECKING

import pytest
import trio

from tools.torture.filesystems import MIB, UnavailableError, image, run
from tools.torture.load import Load
from tools.torture.nodes import NodeError, Place, place_at, until
from tools.torture.verifier import Verifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOPICS = ("[topic=kept]",)
NAMES = (("kept", 0),)


async def load(place: Place, verifier: Verifier, messages: int) -> list[str]:
    """Until so many are answered; the refusals."""
    sending = Load(verifier, NAMES, Random(9))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.run, place.master.port, 2)
        await until(lambda: sending.acknowledged + sending.refused >= messages, 30, "the answers")
        sending.stop()
    return [text for producer in sending.producers for text in producer.refusals]


def refusal_to_start(place: Place) -> str:
    """The last line of a start that must fail."""
    with pytest.raises(NodeError) as caught:
        place.master.start()
    text = str(caught.value)
    assert "Traceback" not in text
    return text.splitlines()[-1]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with place_at(tmp_path / "place", TOPICS) as found:
        yield found


@pytest.fixture
def disk(tmp_path: Path, place: Place) -> Iterator[Path]:
    """The master's data lies on a filesystem of its own."""
    try:
        with image(tmp_path / "image", place.base / "data", "ext4", 256 * MIB) as path:
            yield path
            place.end()
    except UnavailableError as error:
        pytest.skip(str(error))


async def test_two_nodes_with_one_directory(place: Place, tmp_path: Path) -> None:
    verifier = Verifier()
    place.master.start()
    await load(place, verifier, 100)
    with place_at(tmp_path / "other", TOPICS, settings={"dataPath": str(place.master_data)}) as other:
        line = refusal_to_start(other)
        assert f"data directory {place.master_data} is in use by pid {place.master.pid}" in line
    assert await load(place, verifier, 100) == []
    place.master.stop()
    verifier.check(place.master_data)


def test_a_file_where_the_directory_should_be(place: Place) -> None:
    place.master_data.parent.mkdir(parents=True)
    place.master_data.write_text("no directory")
    assert str(place.master_data) in refusal_to_start(place)
    assert place.master_data.read_text() == "no directory"


async def test_a_directory_that_is_read_only_before_the_start(place: Place, disk: Path) -> None:
    verifier = Verifier()
    place.master.start()
    await load(place, verifier, 100)
    place.master.stop()
    run("mount", "-o", "remount,ro", str(disk))
    line = refusal_to_start(place)
    assert str(place.master_data) in line
    assert "Read-only file system" in line
    run("mount", "-o", "remount,rw", str(disk))
    place.master.start()
    verifier.check(place.master_data)


def test_a_directory_that_nobody_may_change(place: Place, disk: Path) -> None:
    """As root, who may do everything else, sees a directory of somebody else."""
    place.master_data.mkdir()
    run("chattr", "+i", str(place.master_data))
    line = refusal_to_start(place)
    run("chattr", "-i", str(place.master_data))
    assert str(place.master_data) in line
    assert "Operation not permitted" in line


async def test_a_directory_that_is_moved_away(place: Place) -> None:
    """Files that are open would go on; nobody would ever find what goes into them."""
    verifier = Verifier()
    place.master.start()
    assert await load(place, verifier, 100) == []
    away = place.master_data.with_name("away")
    place.master_data.rename(away)
    await until(place.master.problems, 10, "the node says so")
    said = f"the data directory {place.master_data} is gone"
    assert f"{said}, puts are refused" in place.master.problems()
    refusals = await load(place, verifier, 50)
    assert len(refusals) >= 50
    assert all(said in text for text in refusals)
    away.rename(place.master_data)
    await until(lambda: not place.master.problems(), 10, "the node says so")
    assert await load(place, verifier, 100) == []
    place.master.stop()
    verifier.check(place.master_data)


async def test_a_partition_that_is_deleted(tmp_path: Path) -> None:
    """Noticed at the latest where the next segment should be."""
    verifier = Verifier()
    with place_at(tmp_path / "place", TOPICS, settings={"maxSegmentSize": 64 * 1024}) as place:
        place.master.start()
        await load(place, verifier, 10)
        directory = place.master_data / "kept-0"
        shutil.rmtree(directory)
        refusals = await load(place, verifier, 2000)
        text = f"{directory} takes no more messages after a disk error: No such file or directory"
        assert len(refusals) > 1000
        assert all(text in refusal for refusal in refusals)
        assert any(text in problem for problem in place.master.problems())
