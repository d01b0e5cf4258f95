from __future__ import annotations

import subprocess
import sys

import pytest

import metaserver.client


def test_every_name_has_a_home() -> None:
    assert set(metaserver.client._HOMES) == set(metaserver.client.__all__)
    for name in metaserver.client.__all__:
        assert getattr(metaserver.client, name) is not None


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = metaserver.client.nothing


def test_a_connection_does_not_import_the_rest() -> None:
    program = (
        "import sys; from metaserver.client import connect; print('metaserver.client.session' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, encoding="utf-8")
    assert ended.stdout == "False\n"
