"""``doctor``: is everything as a node needs it, and what is to be done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.options import chosen_node, json_option, node_arguments
from metaserver.cli.output import count_of, say
from metaserver.cli.processes import FoundNode, find_node
from metaserver.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from metaserver.cli.doctor_checks import Finding
    from metaserver.cli.installation import Installation


@click.command()
@node_arguments
@json_option
@click.option("--quiet", "is_quiet", is_flag=True, help="Only what is not as it should be.")
@click.pass_context
def doctor(
    context: click.Context,
    role: str,
    server_file: Path | None,
    plug_ins: tuple[str, ...],
    *,
    as_json: bool,
    is_quiet: bool,
) -> None:
    """Examine a node: installation, permissions, disk, clock, ports, registry, peers.

    Run it as the user of the broker, on its machine. The node need not be running.
    """
    from metaserver.cli.doctor_checks import Level

    findings = list(_examine(chosen_node(role, server_file, plug_ins)))
    problems = sum(found.level is Level.PROBLEM for found in findings)
    warnings = sum(found.level is Level.WARNING for found in findings)
    if is_quiet:
        findings = [found for found in findings if found.level is not Level.OK]
    if as_json:
        report = [
            {
                "level": found.level.name.lower(),
                "subject": found.subject,
                "text": found.text,
                "advice": found.advice,
            }
            for found in findings
        ]
        say(json.dumps({"problems": problems, "warnings": warnings, "findings": report}, indent=2))
    else:
        say("\n".join([*map(_describe, findings), _conclusion(problems, warnings)]))
    if problems:
        context.exit(int(ExitCode.UNHEALTHY))


def _examine(installation: Installation) -> Iterator[Finding]:
    from metaserver.cli.doctor_checks import (
        CHECKS,
        Finding,
        Level,
        Patient,
        examine_configuration,
    )

    findings, config, slave_config = examine_configuration(installation)
    yield from findings
    if config is None:
        return
    try:
        node = find_node(installation)
    except ControlError as error:
        yield Finding(Level.PROBLEM, "process", str(error), "run it as the user of the broker")
        node = FoundNode(None, None)
    patient = Patient(installation, config, slave_config, node)
    for check in CHECKS:
        try:
            yield from check(patient)
        except OSError as error:
            subject = check.__name__.removeprefix("check_")
            yield Finding(Level.WARNING, subject, f"could not be examined: {error}", "look at it by hand")


def _describe(found: Finding) -> str:
    mark = ("ok", "warning", "PROBLEM")[found.level]
    advice = f"\n{'':24}→ {found.advice}" if found.advice else ""
    return f"{mark:<9}{found.subject:<15}{found.text}{advice}"


def _conclusion(problems: int, warnings: int) -> str:
    if not problems and not warnings:
        return "everything is as it should be"
    return f"{count_of(problems, 'problem')}, {count_of(warnings, 'warning')}"
