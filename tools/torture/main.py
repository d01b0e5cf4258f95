"""The long forms: many kills, many power cuts, a gigabyte. Each ends in one table on standard output.

Rows of the fault matrix run by their names: `P1 D7`, or `all --minutes 60`.

Progress goes to standard error. A broken promise ends the run with its text and exit code 1; the seed in
the table names the same victims in the same order again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from tools.torture.abuse import ABUSES, run_abuse
from tools.torture.clocks import run_clocks
from tools.torture.failover import Kind, run_failover
from tools.torture.filesystems import UnavailableError
from tools.torture.flips import run_flips
from tools.torture.gigabyte import run_gigabyte
from tools.torture.kills import SETTINGS, TOPICS, Killing, lottery
from tools.torture.links import FAULTS, run_link
from tools.torture.memory import run_memory
from tools.torture.nodes import NodeError, place_at
from tools.torture.powercut import run_power_cuts
from tools.torture.rot import run_rot
from tools.torture.rows import KNOWN, UNAVAILABLE, run_rows, run_tests
from tools.torture.slowdisk import SLOWNESS, run_slow
from tools.torture.soak import run_soak
from tools.torture.states import run_states
from tools.torture.steps import run_steps
from tools.torture.verifier import BrokenPromiseError

if TYPE_CHECKING:
    from collections.abc import Sequence

Table = list[tuple[str, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a rig, or rows of the matrix; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in ("all", *KNOWN):
        return _rows(_rows_parser().parse_args(words))
    code, table = _run(_parser().parse_args(words))
    if code == 0:
        print_table(table)
    return code


def _rows(options: argparse.Namespace) -> int:
    names = KNOWN if "all" in options.rows else sorted(set(options.rows), key=KNOWN.index)
    place = [] if options.directory is None else ["--directory", str(options.directory)]
    code, lines = run_rows(names, options.minutes, lambda words: run_apart([*place, *words]), say)
    print_lines(("row", "what", "reached", "violations", "seconds"), lines)
    return code


def run_apart(words: Sequence[str]) -> tuple[int, Table]:
    """One rig in a process of its own: its exit code and table; 1 where it broke, whatever the reason.

    What a rig does to its process (limits, a network namespace that its threads stay in) ends with it.
    """
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            return process.submit(_run_words, words).result()
    except Exception:  # noqa: BLE001 - the rows behind it have their turn, and the table is printed
        traceback.print_exc()
        return 1, []


def _run_words(words: Sequence[str]) -> tuple[int, Table]:
    quiet_clients()
    return _run(_parser().parse_args(words))


def _run(options: argparse.Namespace) -> tuple[int, Table]:
    """One rig, in a directory of its own: the exit code, and its table where it came to its end."""
    began = time.monotonic()
    code = 0
    table: Table = []
    try:
        with tempfile.TemporaryDirectory(prefix="metaserver-torture-", dir=options.directory) as directory:
            table = options.run(options, Path(directory))
            table.append(("seconds", f"{time.monotonic() - began:.0f}"))
    except* (BrokenPromiseError, NodeError) as group:
        for error in _leaves(group):
            print(f"torture: {error}", file=sys.stderr)
        code = 1
    except* UnavailableError as group:
        table = [("left out", str(_leaves(group)[0]))]
        print(f"torture: left out: {table[0][1]}", file=sys.stderr)
        code = UNAVAILABLE
    return code, table


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _rows_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tools/torture/run")
    parser.add_argument(
        "rows", nargs="+", metavar="ROW", choices=("all", *KNOWN), help="of the matrix, or all"
    )
    parser.add_argument("--minutes", type=float, help="begin rows for so long, with new seeds; default: once")
    parser.add_argument("--directory", type=Path, help="where the temporary files go; default: the system's")
    return parser


def _parser() -> argparse.ArgumentParser:  # noqa: PLR0915 - a list
    parser = argparse.ArgumentParser(prog="tools/torture/run", description=__doc__)
    parser.add_argument("--directory", type=Path, help="where the temporary files go; default: the system's")
    commands = parser.add_subparsers(required=True)

    kills = commands.add_parser("kills", help="SIGKILL under load: the master, the slave, both")
    kills.add_argument("--kills", type=int, default=100, help="of the master")
    kills.add_argument("--slave-kills", type=int, default=30)
    kills.add_argument("--both", type=int, default=5, help="of both at once")
    kills.add_argument("--seed", type=int, default=1)
    kills.add_argument("--unflush-threshold", type=int, default=0, help="as in server.ini")
    kills.set_defaults(run=_kills)

    cuts = commands.add_parser("powercut", help="power cuts: copies of the disk under load (root, Linux)")
    cuts.add_argument("--cuts", type=int, default=100)
    cuts.add_argument("--seed", type=int, default=1)
    cuts.set_defaults(run=lambda options, base: run_power_cuts(base, options.cuts, options.seed, say))

    steps = commands.add_parser("steps", help="SIGKILL at each system call of a script (strace)")
    steps.add_argument("--points", type=int, default=300, help="at most, evenly over all")
    steps.set_defaults(run=lambda options, base: run_steps(base, options.points, say))

    states = commands.add_parser("states", help="every disk that a power cut may leave, in one process")
    states.add_argument("--count", type=int, default=10_000)
    states.add_argument("--seed", type=int, default=1)
    states.set_defaults(run=lambda options, _base: run_states(options.count, options.seed, say))

    rot = commands.add_parser("rot", help="damaged bytes in every kind of file, at rest and under a node")
    rot.add_argument("--count", type=int, default=40, help="of files, one after the other")
    rot.add_argument("--seed", type=int, default=1)
    rot.set_defaults(run=lambda options, base: run_rot(base, options.count, options.seed, say))

    failover = commands.add_parser(
        "failover", help="master and slave die, lose data and change places, with producers and groups"
    )
    failover.add_argument("--kills", type=int, default=30, help="of the slave, of the master, and of both")
    failover.add_argument("--disks", type=int, default=5, help="lost: the slave's, the master's, its tail")
    failover.add_argument("--switchovers", type=int, default=100)
    failover.add_argument("--promotions", type=int, default=100)
    failover.add_argument("--behind", type=int, default=10, help="of them, of a slave that is behind")
    failover.add_argument("--seed", type=int, default=1)
    failover.set_defaults(run=_failover)
    links = commands.add_parser("links", help="what networks do between master and slave (root, Linux)")
    links.add_argument("fault", choices=FAULTS)
    links.add_argument("--messages", type=int, default=10_000, help="in each of four bursts")
    links.add_argument("--for", dest="seconds", type=float, default=30.0, help="seconds the fault lasts")
    links.set_defaults(run=_links)

    clocks = commands.add_parser("clocks", help="wall clocks of master and slave jump (libfaketime)")
    clocks.add_argument("--messages", type=int, default=2000, help="after each jump")
    clocks.add_argument("--hold", type=float, default=40.0, help="seconds a clock stays wrong by a day")
    clocks.set_defaults(run=lambda options, base: run_clocks(base, options.messages, options.hold, say))

    flips = commands.add_parser("flips", help="bytes change on their way between master and slave")
    flips.add_argument("--flips", type=int, default=200)
    flips.add_argument("--seed", type=int, default=1)
    flips.set_defaults(run=lambda options, base: run_flips(base, options.flips, options.seed, say))

    slow = commands.add_parser("slow", help="a disk that takes its time (root, Linux)")
    slow.add_argument("name", choices=SLOWNESS)
    slow.add_argument("--for", dest="seconds", type=float, default=30.0, help="seconds the disk is slow")
    slow.set_defaults(run=lambda options, base: run_slow(base, options.name, options.seconds))

    memory = commands.add_parser("memory", help="a limit of memory, and too little of it (root, cgroups 1)")
    memory.add_argument("--megabytes", type=int, default=256)
    memory.add_argument("--kills", type=int, default=3, help="by the kernel, once the limit is taken away")
    memory.set_defaults(run=lambda options, base: run_memory(base, options.megabytes, options.kills, say))

    abuse = commands.add_parser("abuse", help="peers that mean no good beside an ordinary client")
    abuse.add_argument("names", nargs="*", metavar="ABUSE", help=f"of {', '.join(ABUSES)}")
    abuse.add_argument("--count", type=int, help="of connections, topics or cases; default: of each its own")
    abuse.add_argument("--seconds", type=float, default=10.0, help="before the abuse, and beside it")
    abuse.set_defaults(run=_abuse)

    gigabyte = commands.add_parser("gigabyte", help="a gigabyte of text through master and slave, compared")
    gigabyte.add_argument("--megabytes", type=int, default=1024, help="1024 and more is the real thing")
    gigabyte.set_defaults(run=lambda options, base: run_gigabyte(base, options.megabytes, say))

    soak = commands.add_parser("soak", help="a long ordinary life, in which nothing may grow")
    soak.add_argument("--minutes", type=float, default=150.0)
    soak.add_argument("--messages", type=int, default=1000, help="of each round, of a second or two")
    soak.add_argument("--seed", type=int, default=1)
    soak.set_defaults(
        run=lambda options, base: run_soak(base, options.minutes, options.messages, options.seed, say)
    )

    tests = commands.add_parser("tests", help="test files, as rows of the matrix run them")
    tests.add_argument("words", nargs=argparse.REMAINDER, help="for pytest")
    tests.set_defaults(run=lambda options, _: run_tests(options.words))
    return parser


def _abuse(options: argparse.Namespace, base: Path) -> Table:
    table: Table = []
    violations: list[str] = []
    for name in options.names or ABUSES:
        say(name)
        found = run_abuse(base / name, name, options.count, options.seconds)
        what = f"{ABUSES[name].row} {name}, {found.connections:,}"
        times = f"{found.p99_before_ms} / {found.p99_coming_ms} / {found.p99_staying_ms} ms"
        table.append((f"{what}: a client's p99 before / while they come / while they stay", times))
        table.append((f"{what}: memory", f"{found.rss_megabytes} MiB"))
        table += [(f"{what}: {seen}", figure) for seen, figure in found.seen.items()]
        violations += [f"{what}: {violation}" for violation in found.violations]
    if violations:
        print_table(table)
        raise BrokenPromiseError(violations)
    return table


def _failover(options: argparse.Namespace, base: Path) -> Table:
    counts: dict[Kind, int] = {
        "slave killed": options.kills,
        "master killed": options.kills,
        "both killed": options.kills,
        "slave's disk lost": options.disks,
        "master's disk lost": options.disks,
        "master's tail lost": options.disks,
        "switchover": options.switchovers,
        "promotion": options.promotions - options.behind,
        "promotion of a slave that is behind": options.behind,
    }
    return run_failover(base, counts, options.seed, say)


def _kills(options: argparse.Namespace, base: Path) -> Table:
    victims = lottery(options.seed, master=options.kills, slave=options.slave_kills, both=options.both)
    settings = {**SETTINGS, "unflushThreshold": options.unflush_threshold}

    def tell(killing: Killing) -> None:
        kills = killing.figures.kills
        done, acknowledged = kills.total() - kills["starting"], killing.verifier.acknowledged
        say(f"{done} of {len(victims)} kills, {acknowledged:,} messages acknowledged, none lost")

    with place_at(base / "place", TOPICS, settings=settings) as place:
        killing = Killing(place, options.seed, on_look=tell)
        trio.run(killing.run, victims)
    figures, verifier, prefix = killing.figures, killing.verifier, killing.prefix
    return [
        ("seed, unflushThreshold", f"{options.seed}, {options.unflush_threshold}"),
        ("kills of the master", str(figures.kills["master"])),
        ("kills of the slave", str(figures.kills["slave"])),
        ("kills of both at once", str(figures.kills["both"])),
        ("kills of either while it started after one", str(figures.kills["starting"])),
        ("messages sent", f"{verifier.sent:,}"),
        ("acknowledged", f"{verifier.acknowledged:,}"),
        ("acknowledged and missing, moved or changed", "0"),
        ("in the log", f"{verifier.found:,}"),
        ("of them without a reply", f"{verifier.found_unacknowledged:,}"),
        ("duplicates, gaps, changes of order", "0"),
        ("bytes delivered to consumers, all still there", f"{verifier.delivered_bytes:,}"),
        ("looks at the slave: a byte prefix each time", f"{prefix.rounds:,}"),
        ("master and slave files at the end", "identical"),
        ("longest start of a master after a kill", f"{figures.master_start_seconds_max:.2f} s"),
        ("longest start of a slave after a kill", f"{figures.slave_start_seconds_max:.2f} s"),
    ]


def _links(options: argparse.Namespace, base: Path) -> Table:
    linked = run_link(base, options.fault, options.messages, options.seconds)
    figures, verifier = linked.figures, linked.verifier
    return [
        ("fault, seconds", f"{options.fault}, {options.seconds:g}"),
        ("messages acknowledged", f"{verifier.acknowledged:,}"),
        ("acknowledged and missing, moved or changed", "0"),
        ("in the log", f"{verifier.found:,}"),
        ("bytes delivered to consumers, all still there", f"{verifier.delivered_bytes:,}"),
        ("looks at the slave: a byte prefix each time", f"{linked.prefix.rounds:,}"),
        ("offsets of the group stored, none of them lower than before", f"{figures.group_stores:,}"),
        ("connections of the slave", str(figures.connections)),
        ("from the last acknowledgement until the slave had all", f"{figures.catch_up_seconds:.2f} s"),
        ("compare, verify, segment files", "empty, clean, identical"),
    ]


def print_table(rows: Table) -> None:
    """Names and figures, as Markdown."""
    print_lines(("what", "figure"), rows)


def print_lines(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """A table, as Markdown."""
    widths = [max(len(line[column]) for line in (heads, *lines)) for column in range(len(heads))]
    rule = "|".join("-" * (width + 2) for width in widths)
    head, *body = (
        " | ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True))
        for line in (heads, *lines)
    )
    print(f"| {head} |\n|{rule}|")
    for line in body:
        print(f"| {line} |")


def quiet_clients() -> None:
    """What clients say of brokers that die is no news here."""
    logging.getLogger("metaserver").setLevel(logging.CRITICAL)


def say(text: str) -> None:
    """Progress."""
    print(f"torture: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    quiet_clients()
    sys.exit(main())
