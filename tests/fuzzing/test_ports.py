"""Whatever bytes come to a port, the broker answers or closes, and nobody else notices."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.fuzzing.ports import PORTS, fuzz_port

if TYPE_CHECKING:
    from pathlib import Path

_CASES = 20_000 if os.environ.get("METASERVER_LONG") else 500


@pytest.mark.parametrize("name", [name for name in PORTS if name != "client-port"])
def test_any_bytes(name: str, tmp_path: Path) -> None:
    assert fuzz_port(name, tmp_path / "node", 1, cases=_CASES) == _CASES
