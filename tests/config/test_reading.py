from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaserver.config import base_directory_of
from metaserver.config.reading import FILE_BYTES_MAX, distance, nearest, read_file
from metaserver.errors import ConfigError


def test_base_directory() -> None:
    assert base_directory_of(Path("/opt/meta/conf/server.ini")) == Path("/opt/meta")
    assert base_directory_of(Path("/opt/meta/other/server.ini")) == Path("/opt/meta/other")
    assert base_directory_of(Path("server.ini")) == Path.cwd()
    assert base_directory_of(Path("conf/server.ini")) == Path.cwd()
    assert base_directory_of(Path("/opt/meta/x/../conf/server.ini")) == Path("/opt/meta")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.ini", tmp_path, tmp_path / "nul\0"):
        with pytest.raises(ConfigError) as caught:
            read_file(path)
        assert str(caught.value).startswith(f"{path}: cannot be read: ")


def test_a_file_at_the_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with path.open("wb") as file:
        file.truncate(FILE_BYTES_MAX)
    assert len(read_file(path)) == FILE_BYTES_MAX
    with path.open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match="larger than"):
        read_file(path)


def test_nearest_name() -> None:
    names = ["brokerId", "serverPort", "stat", "dataPath"]
    assert nearest("brokerid", names) == "brokerId"
    assert nearest("serverport", names) == "serverPort"
    assert nearest("status", names) == "stat"
    assert nearest("x" * 100_000, names) in names


def _slow_distance(left: str, right: str) -> int:
    if not left or not right:
        return len(left) + len(right)
    if left[0] == right[0]:
        return _slow_distance(left[1:], right[1:])
    return 1 + min(
        _slow_distance(left[1:], right), _slow_distance(left, right[1:]), _slow_distance(left[1:], right[1:])
    )


@given(st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_distance_agrees_with_its_definition(left: str, right: str) -> None:
    assert distance(left, right) == _slow_distance(left, right)
