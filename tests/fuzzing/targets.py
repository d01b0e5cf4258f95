"""All targets by name, and what was found with each: ``corpus/TARGET/`` holds the inputs, a file each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzzing import configuration, registry, storage, wire

if TYPE_CHECKING:
    from tests.fuzzing.target import Target

CORPUS = Path(__file__).parent / "corpus"

TARGETS: dict[str, Target] = {
    target.name: target for part in (wire, configuration, storage, registry) for target in part.TARGETS
}


def kept_inputs(target: Target) -> list[bytes]:
    """What the repository keeps for a target beside its seeds, in a fixed order."""
    return [path.read_bytes() for path in sorted((CORPUS / target.name).glob("*"))]
