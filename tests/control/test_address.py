from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from metaserver.control.address import ADDRESS_BYTES_MAX, socket_address


def padded(directory: Path, total_bytes: int) -> Path:
    """A path below directory that has exactly this many bytes."""
    name = ".control.sock"
    filler = total_bytes - len(os.fsencode(directory)) - len(name) - 2
    folder = directory / ("d" * filler)
    folder.mkdir()
    return folder / name


def test_a_path_that_fits_is_used_as_it_is(tmp_path: Path) -> None:
    path = padded(tmp_path, ADDRESS_BYTES_MAX)
    with socket_address(path) as address, socket.socket(socket.AF_UNIX) as bound:
        assert address == str(path)
        bound.bind(address)
    assert path.is_socket()


@pytest.mark.parametrize("total_bytes", [ADDRESS_BYTES_MAX + 1, 240])
def test_a_longer_path_works_too(tmp_path: Path, total_bytes: int) -> None:
    path = padded(tmp_path, total_bytes)
    with socket_address(path) as address, socket.socket(socket.AF_UNIX) as bound:
        assert len(os.fsencode(address)) <= ADDRESS_BYTES_MAX
        bound.bind(address)
    assert path.is_socket()


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    path = padded(tmp_path, 200)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with socket_address(path):
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    assert len(list(Path("/proc/self/fd").iterdir())) == before
