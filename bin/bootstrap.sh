# Sourced, not run. Gives every script of the checkout the same virtual environment, made on first use.
#
# Expects $root, the checkout. `bootstrap_python` sets PYTHON; `bootstrap_python test` installs the
# test tools as well. METASERVER_PYTHON names an interpreter that has what is needed: then nothing is
# installed. Messages go to standard error. Sourced by bin/metaServer, tools/test and tools/check.

bootstrap_say() {
    printf 'metaServer: %s\n' "$*" >&2
}

# Sets BOOTSTRAP_WITH to the newest interpreter that can make an environment. Each is tried, not just
# looked for: the shims of version managers exist for versions that are not there.
bootstrap_find() {
    too_old=""
    no_venv=""
    for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            too_old="$candidate is Python $version"
        elif ! "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            no_venv="$candidate (Python $version)"
        else
            BOOTSTRAP_WITH=$candidate
            return 0
        fi
    done
    if [ -n "$no_venv" ]; then
        bootstrap_say "$no_venv cannot make a virtual environment: the module venv or ensurepip is missing."
        bootstrap_say "On Debian and Ubuntu: apt install python3-venv. Or set METASERVER_PYTHON."
    elif [ -n "$too_old" ]; then
        bootstrap_say "Python 3.11 or newer is needed, $too_old. Install one, or set METASERVER_PYTHON."
    else
        bootstrap_say "no Python found: Python 3.11 or newer is needed. Install one, or set METASERVER_PYTHON."
    fi
    return 1
}

# Whether the environment holds what pyproject.toml asks for now, for the checkout where it lies now.
bootstrap_is_current() {
    [ -x "$venv/bin/python" ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]
}

bootstrap_install() {
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$BOOTSTRAP_WITH" -m venv --clear "$venv" >&2 || return 1
    fi
    rm -f "$venv/.installed" "$venv/.installed-test"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -e "$1" >&2 || return 1
    printf '%s\n' "$wanted" >"$venv/.installed"
    printf '%s\n' "$wanted" >"$stamp"
}

bootstrap_python() {
    if [ -n "${METASERVER_PYTHON:-}" ]; then
        PYTHON=$METASERVER_PYTHON
        export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
        return 0
    fi
    venv=$root/.venv
    PYTHON=$venv/bin/python
    wanted="$(cksum <"$root/pyproject.toml") $root"
    stamp=$venv/.installed
    target=$root
    if [ "${1:-}" = test ]; then
        stamp=$venv/.installed-test
        target="${root}[test]"
    elif [ -f "$venv/.installed-test" ]; then # The tests need more: keep what they need up to date too.
        stamp=$venv/.installed-test
        target="${root}[test]"
    fi
    if bootstrap_is_current; then
        return 0
    fi
    bootstrap_find || exit 1
    # The lock belongs to descriptor 9 of this shell and ends with it, however it ends.
    exec 9>"$root/.venv.lock" || exit 1
    "$BOOTSTRAP_WITH" - <<'LOCK' || exit 1
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("metaServer: another start is setting up the environment; waiting", file=sys.stderr)
    fcntl.flock(9, fcntl.LOCK_EX)
LOCK
    if ! bootstrap_is_current; then
        bootstrap_say "setting up $venv with $BOOTSTRAP_WITH; this happens once and takes a minute"
        if ! bootstrap_install "$target"; then
            bootstrap_say "the environment could not be set up; the reason is above. Remove $venv to start afresh."
            exit 1
        fi
    fi
    exec 9>&-
}
