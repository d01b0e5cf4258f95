#!/bin/sh
# The name MetaQ's users type.
exec "$(dirname -- "$(readlink -f -- "$0")")/metaServer" "$@"
