"""The table of verbs, and what happens to errors: one sentence and an exit code, no traceback."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, NoReturn

import click

from metaserver import __version__
from metaserver.cli.exit_codes import MEANINGS, ExitCode
from metaserver.cli.output import Failure, complain, describe_os_error, say
from metaserver.cli.target import explain_unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from click.shell_completion import CompletionItem


class Verb(NamedTuple):
    """Where a verb is implemented, and how ``help`` shows it."""

    module: str
    usage: str
    summary: str


VERBS = {
    "start": Verb("lifecycle", "start [slave]", "start a node in the background; ready when it returns"),
    "stop": Verb("lifecycle", "stop [slave]", "stop it; nothing acknowledged is lost"),
    "restart": Verb("lifecycle", "restart [slave]", "stop, where it runs, and start"),
    "status": Verb("lifecycle", "status [slave]", "is it running, and how is it"),
    "slave-status": Verb("administration", "slave-status", "how far the slave is behind its master"),
    "reload": Verb("administration", "reload [slave]", "read the topics of server.ini again"),
    "promote": Verb("promote", "promote [slave]", "the slave becomes master, because its master is gone"),
    "switchover": Verb("switchover", "switchover", "master and slave change places, and nothing is lost"),
    "follow": Verb("follow", "follow HOST:PORT [slave]", "the node becomes a slave of that master"),
    "stats": Verb("administration", "stats [ITEM] [slave]", "statistics over the broker's port; item `help`"),
    "topics": Verb(
        "topics",
        "topics [slave|TOPIC]",
        "every partition with its offsets; `create`, `alter`, `delete`",
    ),
    "close-partitions": Verb(
        "partitions", "close-partitions", "have the broker refuse puts to and gets from some partitions"
    ),
    "open-partitions": Verb("partitions", "open-partitions", "serve every partition of a topic again"),
    "move-partitions": Verb(
        "partitions", "move-partitions", "other numbers for partitions of a stopped broker"
    ),
    "delete-partitions": Verb("partitions", "delete-partitions", "remove partitions of a stopped broker"),
    "groups": Verb(
        "groups", "groups [GROUP]", "the groups of consumers, and how far they are behind; `reset`, `copy`"
    ),
    "query": Verb("query", "query [COMMAND]", "offsets of groups in every storage; a shell, as in MetaQ"),
    "doctor": Verb("doctor", "doctor [slave]", "is everything as it should be, and what to do"),
    "top": Verb("top", "top [slave]", "rates, partitions, replicas and groups, live"),
    "check-config": Verb("administration", "check-config FILE...", "list every problem of the files"),
    "produce": Verb("produce", "produce TOPIC", "send lines or records from a file or standard input"),
    "consume": Verb(
        "consume", "consume TOPIC", "print messages from an offset, the start, the end or a time"
    ),
    "dead-letters": Verb(
        "dead_letters", "dead-letters WHAT", "list, show, replay or remove what a group could not deal with"
    ),
    "quarantine": Verb(
        "quarantine", "quarantine list|show|replay", "what a replica had to give up, and sending it again"
    ),
    "transactions": Verb(
        "transactions", "transactions [list|commit|rollback|forget]", "what is prepared, and deciding on it"
    ),
    "dump-log": Verb("dump", "dump-log FILE", "print the records of a .meta file, however damaged"),
    "verify": Verb("verify", "verify DIR", "check a data directory without writing to it"),
    "repair": Verb("repair", "repair [slave]", "check a node, and mend what is damaged from another replica"),
    "compare": Verb("compare", "compare MASTER SLAVE", "show where two running replicas differ"),
    "probe": Verb(
        "probe", "probe [TOPIC]", "a message through every broker and back, for cron and monitoring"
    ),
    "demo": Verb("demo", "demo", "a master, a slave and a crash, in this terminal, in 15 seconds"),
    "completion": Verb("completion", "completion [SHELL]", "the script that makes a shell complete all this"),
    "help": Verb("main", "help [VERB]", "this page, or that of a verb"),
}


class _Verbs(click.Group):
    """Imports the module of a verb when the verb is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in VERBS:
            return own
        module = import_module(f"metaserver.cli.{VERBS[cmd_name].module}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in VERBS and not name.startswith("-"):
            from metaserver.config.reading import nearest

            hint = f"do you mean `{nearest(name, VERBS)}`? `metaServer help` lists all"
            raise Failure(f"there is no verb {name!r}; {hint}", ExitCode.USAGE)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs from the table: their modules would take a shell's user too long."""
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=verb.summary)
            for name, verb in VERBS.items()
            if name.startswith(incomplete)
        ]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        formatter.write(overview() + "\n")


@click.group(
    cls=_Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, message="metaServer %(version)s, compatible with MetaQ 1.4.6")
@click.pass_context
def commands(context: click.Context) -> None:
    """A message broker with replication, compatible with MetaQ."""
    if context.invoked_subcommand is None:
        raise Failure("which verb? `metaServer help` lists them", ExitCode.USAGE)


@commands.command("help")
@click.argument("verb", required=False)
@click.pass_context
def show_help(context: click.Context, verb: str | None) -> None:
    """Explain the verbs."""
    if verb is None:
        say(overview())
        return
    _, command, _ = commands.resolve_command(context, [verb])
    if command is not None:
        with click.Context(command, info_name=verb, parent=context.parent) as own:
            say(command.get_help(own))


def overview() -> str:
    """The page of ``metaServer help``."""
    width = max(len(verb.usage) for verb in VERBS.values()) + 2
    lines = ["metaServer: a message broker with replication, compatible with MetaQ.", "", "Verbs:"]
    lines += [f"  {verb.usage:<{width}}{verb.summary}" for verb in VERBS.values()]
    lines += [
        "",
        "Which node: conf/server.ini in $BASE_DIR, else here, else in the checkout. -f FILE wins.",
        "  slave, -Fmetaslave=FILE    its slave, with conf/async_slave.properties or FILE",
        "  samsa, gregor              master and slave of a synchronous pair; -Fsamsa=FILE, -Fgregor=FILE",
        "",
        "Exit codes:",
    ]
    lines += [f"  {int(code):>3}  {meaning}" for code, meaning in MEANINGS.items()]
    lines += ["", "`metaServer help VERB` lists the options of a verb. `metaServer demo` shows it all."]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end the process with its exit code."""
    if (instruction := os.environ.get("_METASERVER_COMPLETE")) is not None:
        from metaserver.cli.completion import answer_shell

        sys.exit(answer_shell(commands, instruction))
    words = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_flushed(_run(words)))


def _run(words: list[str]) -> int:
    context: click.Context | None = None
    try:
        with commands.make_context("metaServer", words) as context:
            commands.invoke(context)
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # noqa: BLE001 - what is not known there is raised
        code = _ended_by(error)
        if code == ExitCode.UNREACHABLE and context is not None:
            explain_unreachable(context)
        return code
    return ExitCode.OK


def _ended_by(error: BaseException) -> int:
    """Say it in one sentence; the exit code. What is no error of a user is raised again."""
    match error:
        case SystemExit():
            return int(str(error.code or 0))
        case click.exceptions.Exit():
            return error.exit_code
        case click.Abort() | KeyboardInterrupt():
            return ExitCode.INTERRUPTED
        case click.UsageError():
            complain(error.format_message())
            if error.ctx is not None:
                print(error.ctx.get_usage(), file=sys.stderr)
            return ExitCode.USAGE
        case Failure():
            error.show()
            return error.code
        case BrokenPipeError():  # Whoever read our output has seen enough.
            return ExitCode.OK
        case OSError():
            complain(describe_os_error(error))
            return ExitCode.FAILED
    # What ours are is imported only when there is one.
    from metaserver.errors import (
        BrokerUnreachableError,
        ConfigError,
        DiscoveryError,
        MetaServerError,
        RequestTimeoutError,
    )

    if not isinstance(error, MetaServerError):
        raise error
    complain(str(error))
    match error:
        case ConfigError():
            return ExitCode.CONFIGURATION
        case BrokerUnreachableError() | DiscoveryError() | RequestTimeoutError():
            return ExitCode.UNREACHABLE
    return ExitCode.FAILED


def _flushed(code: int) -> int:
    """The exit code, when all that was said is out; Python itself would end with a traceback."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError) and not code:
            complain(f"standard output: {error.strerror}")
            return ExitCode.FAILED
    return code
