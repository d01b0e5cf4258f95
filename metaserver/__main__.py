"""``python -m metaserver``: the same as ``metaServer``."""

import signal


def main() -> None:
    """Run the command line. Ctrl-C ends it without a word while it is still being loaded."""
    is_heard = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_heard:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from metaserver.cli import main as run  # noqa: PLC0415 - this takes most of the time of a short command

    if is_heard:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
