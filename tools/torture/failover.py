"""Masters and slaves that die, lose data and change places, while applications send and receive all the time.

A run is a list of rounds. In each something happens to the pair; then the traffic pauses, and everything is
looked at: what was acknowledged is there or is told to be missing, each group has been given every message
that is there, ``compare`` and ``verify`` find nothing, and the offsets of groups have not gone back.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from datetime import datetime
from random import Random
from typing import TYPE_CHECKING, Any, Literal, get_args

import attrs
import trio

from metaserver.errors import ControlError
from metaserver.message import iterate_records
from tools.torture import logfiles
from tools.torture.nodes import until
from tools.torture.pair import pair_at
from tools.torture.traffic import traffic_at
from tools.torture.verifier import BrokenPromiseError, PrefixCheck, Verifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from tools.torture.logfiles import Name
    from tools.torture.pair import Member, Pair
    from tools.torture.traffic import Traffic
    from tools.torture.verifier import Lost

Kind = Literal[
    "slave killed",
    "master killed",
    "both killed",
    "slave's disk lost",
    "master's disk lost",
    "master's tail lost",
    "switchover",
    "promotion",
    "promotion of a slave that is behind",
    "two masters",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

SAFE, PLAIN, LOOSE = "safe", "orders", "events"
TOPICS = (
    f"[topic={SAFE}]\nackLevel=slave_disk\nslaveAckTimeoutInMills=10000",
    f"[topic={PLAIN}]\nackLevel=disk\nnumPartitions=2",
    f"[topic={LOOSE}]\nackLevel=memory",
)
NAMES: tuple[Name, ...] = ((SAFE, 0), (PLAIN, 0), (PLAIN, 1), (LOOSE, 0))
SETTINGS = {"maxSegmentSize": 4 * 1024 * 1024, "maxTransferSize": 1024 * 1024}
GROUPS = ("audit", "readers", "readers")
WRITERS = 8

_WAIT_SECONDS_MAX = 90.0
_ROUNDS_MAX = 50
_CUT_MESSAGES = 3
_SLOW = {"slaveMaxBytesPerSecond": 128 * 1024}
_BEHIND_BYTES = 5 * 1024 * 1024


@attrs.define
class Figures:
    """What a run has come to."""

    rounds: Counter[Kind] = attrs.Factory(Counter)
    lost: Counter[str] = attrs.Factory(Counter)
    """Acknowledged messages, by topic, in promotions."""
    promotions_with_loss: int = 0
    missing_bytes_told: int = 0
    """What the reports of promotions said is missing, all of which was."""
    quarantined: int = 0
    """Messages that went to quarantine: exactly those that were lost, or never acknowledged."""


@attrs.define(eq=False)
class Failover:
    """One run on a pair whose nodes have not been started."""

    pair: Pair
    seed: int
    servers: str
    tell: Callable[[str], None] = lambda _: None
    load_seconds: tuple[float, float] = (0.1, 0.8)
    verifier: Verifier = attrs.Factory(Verifier)
    figures: Figures = attrs.Factory(Figures)
    traffic: Traffic = attrs.field(init=False)
    master: Member = attrs.field(init=False)
    slave: Member = attrs.field(init=False)
    _random: Random = attrs.field(init=False)
    _lost_names: set[Name] = attrs.Factory(set)
    """Partitions that have lost something in this round: groups go back there, and only there."""

    def __attrs_post_init__(self) -> None:
        """Who is who at the start."""
        self.master, self.slave = self.pair.members
        self._random = Random(self.seed)

    async def run(self, kinds: Sequence[Kind]) -> None:
        """One round after the other; raises BrokenPromiseError where a promise is broken."""
        steps: Mapping[Kind, Callable[[], object]] = {
            "slave killed": self._kill_slave,
            "master killed": self._kill_master,
            "both killed": self._kill_both,
            "slave's disk lost": self._lose_disk_of_slave,
            "master's disk lost": self._lose_disk_of_master,
            "master's tail lost": self._lose_tail,
            "switchover": self._switch_over,
            "promotion": self._promote,
            "promotion of a slave that is behind": self._promote_behind,
            "two masters": self._have_two_masters,
        }
        await _in_thread(self.master.start)
        await _in_thread(self.slave.start)
        async with traffic_at(self.servers, NAMES, GROUPS, self.verifier, writers=WRITERS) as self.traffic:
            for number, kind in enumerate(kinds, 1):
                unanswered = self.verifier.found_unacknowledged
                self.traffic.resume()
                await self._progress(NAMES)
                await trio.sleep(self._random.uniform(*self.load_seconds))
                await steps[kind]()  # type: ignore[misc]
                await self._progress(NAMES)
                await self._look()
                if kind == "switchover" and self.verifier.found_unacknowledged != unanswered:
                    raise BrokenPromiseError(["a message that was not answered is there: sent again, twice"])
                self.figures.rounds[kind] += 1
                self.tell(
                    f"{number} of {len(kinds)}: {kind}; {self.verifier.acknowledged:,} messages "
                    f"acknowledged, {sum(self.figures.lost.values()):,} lost and told"
                )
        for member in (self.slave, self.master):
            await _in_thread(self.pair.run, "stop", *member.words)
        await _in_thread(self.verifier.check_all_again, self.master.data)

    # What happens.

    async def _kill_slave(self) -> None:
        await _in_thread(self.slave.kill)
        await self._progress([name for name in NAMES if name[0] != SAFE])
        await _in_thread(self.slave.start)

    async def _kill_master(self) -> None:
        await _in_thread(self.master.kill)
        await _in_thread(self.master.start)

    async def _kill_both(self) -> None:
        await _in_thread(self.slave.kill)
        await _in_thread(self.master.kill)
        await _in_thread(self.master.start)
        await _in_thread(self.slave.start)

    async def _lose_disk_of_slave(self) -> None:
        await _in_thread(self.slave.kill)
        # What was decided for a node lies with its data: `follow` says again what it is.
        await _in_thread(shutil.rmtree, self.slave.data)
        await _in_thread(self.pair.run, "follow", self.master.address, *self.slave.words)

    async def _lose_disk_of_master(self) -> None:
        await self._promote(wipes=True)

    async def _lose_tail(self) -> None:
        """The operating system of the master dies with what it had not written; its slave had it already."""
        await self.traffic.pause()
        await self._wait_well()
        self.verifier.replacement_begins()
        await _in_thread(self.master.kill)
        self.traffic.resume()
        before = self.pair.base / "before"
        await _in_thread(shutil.copytree, self.master.data, before)
        _cut(logfiles.partitions(self.master.data)[LOOSE, 0], _CUT_MESSAGES)
        await _in_thread(self.master.start)
        await self._progress(NAMES)
        await self.traffic.pause()
        losses = self.verifier.replaced(before, self.master.data)
        shutil.rmtree(before)
        if set(losses) != {(LOOSE, 0)}:
            raise BrokenPromiseError([f"cut was {LOOSE} only, and lost is {sorted(losses)}"])
        self._forget(losses)
        await self._wait_well()
        self._check_quarantine(self.slave, losses)
        self.traffic.resume()

    async def _switch_over(self) -> None:
        await _in_thread(self.pair.run, "switchover")
        self.master, self.slave = self.slave, self.master

    async def _promote(self, *, wipes: bool = False, is_quiet: bool = False) -> None:
        self.verifier.replacement_begins()
        await _in_thread(self.master.kill)
        await until(
            lambda: not self.slave.replication()["connected"], _WAIT_SECONDS_MAX, "the slave notices the end"
        )
        report = json.loads(await _in_thread(self.pair.run, "promote", *self.slave.local_words, "--json"))
        self.master, self.slave = self.slave, self.master
        if not is_quiet:
            await self._progress([name for name in NAMES if name[0] != SAFE])
        await self._replaced(report, wipes=wipes, is_exact=is_quiet)

    async def _have_two_masters(self) -> None:
        """The master stands still while its slave is promoted, and wakes up beside it. Needs a ZooKeeper."""
        self.verifier.replacement_begins()
        old = self.master
        with old.held():
            words = ("promote", *self.slave.local_words, "--force", "--json")
            report = json.loads(await _in_thread(self.pair.run, *words))
        self.master, self.slave = self.slave, old
        await until(lambda: old.status()["fenced"], _WAIT_SECONDS_MAX, "the old master finds the new one")
        await self._progress([name for name in NAMES if name[0] != SAFE])
        ends = {name: logfiles.end_offset(path) for name, path in logfiles.partitions(old.data).items()}
        await self._progress([name for name in NAMES if name[0] != SAFE])
        await self.traffic.pause()
        later = {name: logfiles.end_offset(path) for name, path in logfiles.partitions(old.data).items()}
        if later != ends:
            raise BrokenPromiseError([f"a master that lost its name went on writing: {ends}, then {later}"])
        await _in_thread(self.pair.run, "stop", *old.words)
        await self._replaced(report)

    async def _replaced(self, report: dict[str, Any], *, wipes: bool = False, is_exact: bool = False) -> None:
        """The old master has ended: what is lost is what promote has told, and goes to quarantine."""
        new, old = self.master, self.slave
        await self.traffic.pause()
        losses = self.verifier.replaced(old.data, new.data)
        if report != new.role_json()["report"]:
            raise BrokenPromiseError(["role.json holds another report than promote has printed"])
        self._check_report(report, losses, is_exact=is_exact)
        for (topic, _), lost in losses.items():
            self.figures.lost[topic] += len(lost.acknowledged)
        self.figures.promotions_with_loss += any(lost.acknowledged for lost in losses.values())
        self._forget(losses)
        if wipes:
            shutil.rmtree(old.data)
        self.traffic.resume()
        await _in_thread(self.pair.run, "follow", new.address, *old.words)
        if not wipes:
            await self._wait_well(caught_up=False)
            self._check_quarantine(old, losses)

    async def _promote_behind(self) -> None:
        """The slave knows how much it lacks when the master dies: what it tells is everything."""
        if self.slave is not self.pair.two:
            await self._switch_over()
        # It has something of each partition: what it has nothing of cannot be followed by who has something.
        await self.traffic.pause()
        await self._wait_well()
        self.pair.configure_two(_SLOW)
        await _in_thread(self.pair.run, "restart", *self.slave.words)
        self.pair.configure_two({})
        await self._wait_well()
        events = logfiles.partitions(self.master.data)[LOOSE, 0]
        end = logfiles.end_offset(events) + _BEHIND_BYTES
        self.traffic.resume()
        # Catching up is limited; following is not.
        with self.slave.held():
            await until(lambda: logfiles.end_offset(events) > end, _WAIT_SECONDS_MAX, "the slave is behind")
        await self.traffic.pause()
        for _ in range(2):
            # The second answer was asked for after the last message.
            await self._next_look()
        told = self.figures.missing_bytes_told
        await self._promote(is_quiet=True)
        if self.figures.missing_bytes_told == told:
            raise BrokenPromiseError(["the slave was not behind any more: give it more to copy"])

    async def _next_look(self) -> None:
        heard = self.slave.replication()["heard_seconds"]
        await until(
            lambda: self.slave.replication()["heard_seconds"] > heard,
            _WAIT_SECONDS_MAX,
            "the slave asks again",
        )

    # What must hold.

    def _check_report(self, report: dict[str, Any], losses: Mapping[Name, Lost], *, is_exact: bool) -> None:
        """What promote tells is missing, against what is."""
        problems = []
        heard = datetime.fromisoformat(report["heard"]).timestamp()
        told = {(found["topic"], found["partition"]): found for found in report["partitions"]}
        for name in sorted({*losses, *told}):
            if name[0].startswith("__"):
                continue
            lost, found = losses.get(name), told.get(name)
            if found is None and lost is None:
                continue
            own_end = found["end_offset"] if found else 0
            known_end = found["master_end_offset"] if found else 0
            missing = found["missing_bytes"] if found else 0
            self.figures.missing_bytes_told += missing
            if lost is None:
                if missing:
                    problems.append(f"{name}: told to lack {missing} bytes, and lacks nothing")
                continue
            if name[0] == SAFE and lost.acknowledged:
                problems.append(f"{name}: lost, though slave_disk was waited for: {lost.acknowledged}")
            if own_end != lost.common_end:
                problems.append(f"{name}: told to end at {own_end}, and ends at {lost.common_end}")
            if missing != max(0, known_end - own_end) or known_end > lost.old_end:
                problems.append(
                    f"{name}: told to lack {missing} up to {known_end}; the end was {lost.old_end}"
                )
            if is_exact and known_end != lost.old_end:
                problems.append(f"{name}: told to lack up to {known_end}, and lacks up to {lost.old_end}")
            for offset, (_, *key) in lost.acknowledged.items():
                answered = self.traffic.acknowledged_at[key[0], key[1]]
                # What is told has milliseconds.
                if offset >= known_end and answered < heard - 0.001:
                    problems.append(
                        f"{name}: offset {offset} was acknowledged {heard - answered:.3f} s before the "
                        f"master was heard last, is lost, and is not told: the known end is {known_end}"
                    )
        if problems:
            raise BrokenPromiseError(problems)

    def _check_quarantine(self, member: Member, losses: Mapping[Name, Lost]) -> None:
        """What is lost lies there, byte for byte, and nothing else since the last look."""
        problems = []
        found = {}
        for folder in member.data.glob("quarantine/*/*-*"):
            topic, _, partition = folder.parent.name.rpartition("-")
            if topic.startswith("__") or (folder / "looked-at").exists():
                continue
            (folder / "looked-at").touch()
            start, _, end = folder.name.partition("-")
            pieces = sorted(folder.glob("*.meta"))
            ids = tuple(
                record.message_id for piece in pieces for record in iterate_records(piece.read_bytes())
            )
            found[topic, int(partition)] = (int(start), int(end), ids)
        for name in sorted({*losses, *found}):
            lost = losses.get(name)
            is_lost = None if lost is None else (lost.common_end, lost.old_end, lost.message_ids)
            if found.get(name) != is_lost:
                problems.append(f"{name}: in quarantine is {found.get(name)}, lost is {is_lost}")
            elif lost is not None:
                self.figures.quarantined += len(lost.message_ids)
        if problems:
            raise BrokenPromiseError(problems)

    def _forget(self, losses: Mapping[Name, Lost]) -> None:
        self._lost_names.update(losses)
        self.traffic.forget(
            [
                (producer, sequence)
                for lost in losses.values()
                for _, producer, sequence in lost.acknowledged.values()
            ]
        )

    async def _look(self) -> None:
        """All that must hold whenever nothing is under way."""
        await self.traffic.pause()
        await self._wait_well()
        await _in_thread(self.verifier.check, self.master.data)
        await self._wait_delivered()
        await self._wait_committed()
        problems = PrefixCheck(self.master.data, self.slave.data).differences()
        for member in self.pair.members:
            problems += [f"{member.address}: {problem}" for problem in member.status()["problems"]]
        for words in (
            ("compare", self.master.address, self.slave.address),
            ("verify", str(self.master.data)),
            ("verify", str(self.slave.data)),
        ):
            code, out, err = await _in_thread(self.pair.run_any, *words)
            if code != 0:
                problems.append(f"metaServer {' '.join(words)} ended with {code}: {out}{err}")
        problems += [text for name, text in self.traffic.moved_back if name not in self._lost_names]
        if problems:
            raise BrokenPromiseError(problems)
        self.traffic.begin_round()
        self._lost_names.clear()

    async def _wait_delivered(self) -> None:
        with trio.move_on_after(_WAIT_SECONDS_MAX) as scope:
            while any(self.traffic.missing().values()):  # noqa: ASYNC110 - many messages, no event for each
                await trio.sleep(0.05)
        if scope.cancelled_caught:
            raise BrokenPromiseError(
                [
                    f"group {group} was never given {len(keys)} messages, of producer and number {keys[:5]}"
                    for group, keys in self.traffic.missing().items()
                    if keys
                ]
            )

    async def _wait_committed(self) -> None:
        """The groups' offsets reach the ends of the logs, and no further."""
        ends = {
            name: logfiles.end_offset(directory)
            for name, directory in logfiles.partitions(self.master.data).items()
        }

        def differences() -> list[str]:
            return [
                f"group {group}: {partition} is at {offset}, and its log ends at {end}"
                for (group, partition), offset in self.traffic.offsets.items()
                if offset != (end := ends[partition.topic, partition.number])
            ]

        with trio.move_on_after(_WAIT_SECONDS_MAX) as scope:
            while differences():  # noqa: ASYNC110 - the registry is looked at by somebody else
                await trio.sleep(0.05)
        if scope.cancelled_caught:
            raise BrokenPromiseError(differences())

    async def _wait_well(self, *, caught_up: bool = True) -> None:
        def is_well() -> bool:
            if caught_up:
                return self.slave.is_well()
            try:
                status = self.slave.replication()
            except ControlError:
                return False
            copying = ("tailing", "caught up")
            return bool(status["connected"]) and all(found["state"] in copying for found in status["details"])

        try:
            await until(is_well, _WAIT_SECONDS_MAX, "the slave has everything")
        except Exception as error:
            raise BrokenPromiseError(
                [str(error), str(self.slave.replication()), self.slave.log_tail()]
            ) from error

    async def _progress(self, names: Sequence[Name]) -> None:
        """Returns when each of these partitions has taken something more."""
        before = dict(self.traffic.acknowledged)

        def waiting() -> list[Name]:
            return [name for name in names if self.traffic.acknowledged[name] <= before.get(name, 0)]

        with trio.move_on_after(_WAIT_SECONDS_MAX) as scope:
            while waiting():  # noqa: ASYNC110 - a few looks of a rig
                await trio.sleep(0.01)
        if scope.cancelled_caught:
            last = list(self.traffic.reasons)[-3:]
            raise BrokenPromiseError(
                [
                    f"nothing more is acknowledged in {waiting()}; the last errors: {last}",
                    self.master.log_tail(),
                ]
            )


def _cut(directory: Path, messages: int) -> None:
    """Take the last messages off a partition whose node does not run."""
    last = [segment for segment in logfiles.segments(directory) if segment.size_bytes][-1]
    data = last.path.read_bytes()
    positions = [record.position for record in iterate_records(data)]
    with last.path.open("r+b") as file:
        file.truncate(positions[-messages:][0])


async def _in_thread(function: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401 - whatever it returns
    return await trio.to_thread.run_sync(function, *arguments)


def run_failover(
    base: Path, counts: Mapping[Kind, int], seed: int, tell: Callable[[str], None]
) -> list[tuple[str, str]]:
    """The long form: so many rounds of each kind, in an order the seed decides; the table."""
    runs: list[Failover] = []
    kinds: list[Kind] = [kind for kind in KINDS for _ in range(counts.get(kind, 0))]
    Random(seed).shuffle(kinds)
    while kinds:
        # Each look reads the whole log: a new one from time to time keeps it short.
        part, kinds = kinds[:_ROUNDS_MAX], kinds[_ROUNDS_MAX:]
        runs.append(_one_run(base / f"run-{len(runs)}", part, seed + len(runs), tell))
    return table_of(runs)


def _one_run(
    base: Path,
    kinds: Sequence[Kind],
    seed: int,
    tell: Callable[[str], None],
) -> Failover:
    with pair_at(base, TOPICS, settings=SETTINGS) as pair:
        run = Failover(pair, seed, pair.servers, tell)
        trio.run(run.run, kinds)
    shutil.rmtree(base)
    return run


def table_of(runs: Sequence[Failover]) -> list[tuple[str, str]]:
    """What the runs have come to."""

    def total(numbers: Iterable[int]) -> str:
        return f"{sum(numbers):,}"

    made = [kind for kind in KINDS if any(run.figures.rounds[kind] for run in runs)]
    rows = [(f"rounds: {kind}", total(run.figures.rounds[kind] for run in runs)) for kind in made]
    rows += [
        ("messages sent", total(run.verifier.sent for run in runs)),
        ("acknowledged", total(run.verifier.acknowledged for run in runs)),
        ("acknowledged, lost and not told", "0"),
    ]
    for topic, level in ((SAFE, "slave_disk"), (PLAIN, "disk"), (LOOSE, "memory")):
        lost = total(run.figures.lost[topic] for run in runs)
        rows.append((f"acknowledged at level {level}, lost with a master, and told", lost))
    return [
        *rows,
        (
            "promotions that lost something acknowledged",
            total(run.figures.promotions_with_loss for run in runs),
        ),
        (
            "bytes promotions told to be missing, which were",
            total(run.figures.missing_bytes_told for run in runs),
        ),
        ("messages in quarantine, exactly those given up", total(run.figures.quarantined for run in runs)),
        ("of unknown fate to their producer", total(run.traffic.unknown for run in runs)),
        ("refused to the end, and not stored", total(run.traffic.refused for run in runs)),
        ("messages that came to a group again", total(run.traffic.repeated for run in runs)),
        ("messages a group was never given", "0"),
        ("group offsets that moved back without a loss", "0"),
        ("`compare` and `verify` with a finding", "0"),
    ]
