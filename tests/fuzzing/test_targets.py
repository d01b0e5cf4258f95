"""Every parser takes what is right, and refuses everything else in the words of the error tree.

``tools/fuzz/run`` is the long form, guided by coverage; what it finds is kept in ``corpus/`` and comes here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing.mutations import mutated
from tests.fuzzing.targets import CORPUS, TARGETS, kept_inputs

if TYPE_CHECKING:
    from tests.fuzzing.target import Target

_EXAMPLES = 20_000 if os.environ.get("METASERVER_LONG") else 250


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds_and_kept_inputs(target: Target) -> None:
    for data in (b"", *target.seeds, *kept_inputs(target)):
        target.run(data)


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_mutated_seeds(target: Target) -> None:
    @settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def one_input(data: st.DataObject) -> None:
        target.run(data.draw(mutated(target)))

    one_input()


def test_every_kept_input_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} <= set(TARGETS)
