"""``completion``: the script that makes a shell complete verbs and options."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class, shell_complete

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure, say

if TYPE_CHECKING:
    from click.shell_completion import ShellComplete

_SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_METASERVER_COMPLETE"
"""In the environment when a shell asks; the scripts set it."""
_NAMES = ("metaServer", "metaServer.sh")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS), required=False)
@click.pass_context
def completion(context: click.Context, shell: str | None) -> None:
    """Print the script that makes SHELL complete verbs and options; without SHELL for the one in use.

    bash: `metaServer completion bash > ~/.local/share/bash-completion/completions/metaServer`;
    zsh: `eval "$(metaServer completion zsh)"` in .zshrc; fish: `metaServer completion fish >
    ~/.config/fish/completions/metaServer.fish`.
    """
    chosen = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    if chosen not in _SHELLS:
        raise Failure(f"say for which shell: {', '.join(_SHELLS)}", ExitCode.USAGE)
    found = get_completion_class(chosen)
    root = context.find_root().command
    # The template alone: a shell of that kind need not be installed here.
    say("\n".join(_script(found(root, {}, name, VARIABLE)) for name in _NAMES if found is not None))


def _script(asker: ShellComplete) -> str:
    return asker.source_template % asker.source_vars()


def answer_shell(commands: click.Command, instruction: str) -> int:
    """What a shell asked for, to standard output; an exit code."""
    return shell_complete(commands, {}, _NAMES[0], VARIABLE, instruction)
