"""A verb with verbs below it, that shows something where none of them is named."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import click

from metaserver.cli.exit_codes import ExitCode
from metaserver.cli.output import Failure


class ShowByDefault(click.Group):
    """``groups [GROUP]`` without a word in between; a group called ``reset`` is ``groups show reset``."""

    def __init__(self, *arguments: Any, usage_text: str, **options: Any) -> None:  # noqa: ANN401 - click's own
        """``usage_text``: what stands behind the verb in its usage."""
        super().__init__(*arguments, **options)
        self._usage_text = usage_text

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``show`` in front, where that is meant."""
        if ctx.resilient_parsing and not args:
            return super().parse_args(ctx, args)  # A shell asks which verbs there are.
        if not args or args[0] not in (*self.commands, *ctx.help_option_names):
            if len(args) > 1 and not args[1].startswith("-") and (hint := self.meant(args[0])):
                raise Failure(
                    f"there is no `{ctx.info_name} {args[0]}` with a second word{hint}", ExitCode.USAGE
                )
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def meant(self, word: str) -> str:
        """For a word that is nothing: the verb that comes near it; blank where none does."""
        close = get_close_matches(word, self.commands, 1)
        return f"; do you mean `metaServer {self.name} {close[0]}`?" if close else ""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of the base class
        """The text."""
        return [self._usage_text]
