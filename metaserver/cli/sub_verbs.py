"""A verb with verbs below it, that shows something where none of them is named."""

from __future__ import annotations

from typing import Any

import click


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
            args = ["show", *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - of the base class
        """The text."""
        return [self._usage_text]
