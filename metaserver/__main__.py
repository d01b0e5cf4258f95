"""``python -m metaserver``: the same as ``metaServer``."""

from metaserver.cli import main

if __name__ == "__main__":
    main()
