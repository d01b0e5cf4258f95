"""The command line: ``metaServer VERB``, one module for each family of verbs.

::

    main             the table of verbs; a verb's module is imported only when it is called
    exit_codes       what a script can rely on
    installation     which files and which folder a command speaks of
    options          options that several verbs share
    processes        is a node running, start one, wait for its end
    output           sentences, sizes, tables
    signals          what a verb that is under way does at a signal
    role_change      what promote, follow and switchover (handover) have in common

    lifecycle        start, stop, restart, status
    foreground       the node itself, in this process
    catch_up         how far a slave has come with copying
    administration   slave-status, reload, stats, topics, check-config
    produce, consume messages in and out, of one broker
    cluster          the same and more through discovery: cluster_produce, group_consume, topic_report
    groups           groups of consumers: group_report, group_reset
    dead_letters     what groups could not deal with, in a store or a topic: letters
    offline          dump-log, verify: on files, without a broker
    compare          two replicas over the wire, byte by byte
    demo             master, slave and a crash in one terminal

Every verb pays for its imports, ``start`` twice: nothing heavy is imported before it is needed.
"""

from metaserver.cli.main import main

__all__ = ["main"]
