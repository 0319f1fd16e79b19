# shellcheck shell=sh disable=SC2154 # root and venv come from scripts/firstlight
# Sourced by scripts/firstlight: makes or mends the environment. Uses $root and ready(); sets $venv.
#
# Killed at any instant, the next start puts it right: `unfinished` is written before the first change and taken away
# after the last, and an environment that holds it is made again from nothing.

PATH=${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
export PATH

. "$root/scripts/lib/report.sh"
. "$root/scripts/lib/python.sh"

make_environment() {
    arguments=" $* " # fail() looks here for --json
    choose_folder
    ready "$venv" && return
    take_lock
    if ! ready "$venv"; then
        look_at_what_is_there
        [ -x "$venv/bin/python" ] || make_venv
        install_firstlight
    fi
    exec 9>&- # the lock
}

# A checkout that cannot be written to keeps its environment in the user's cache.
choose_folder() {
    if [ -w "$root" ] && { [ ! -e "$venv" ] || [ -w "$venv" ]; }; then
        return
    fi
    home=${HOME:-}
    if [ -z "$home" ] && [ "$(id -u)" = 0 ]; then home=/root; fi
    [ -n "${XDG_CACHE_HOME:-$home}" ] || fail 1 "$root is read-only, and neither HOME nor XDG_CACHE_HOME is set" \
        "name a folder that can be written to: export XDG_CACHE_HOME=/path/to/folder"
    venv=${XDG_CACHE_HOME:-$home/.cache}/firstlight/venv-$(cd -P -- "$root" && pwd -P | cksum | tr ' ' -)
    ready "$venv" || say "$root cannot be written to: the environment goes to $venv"
}

# One start at a time makes it. The kernel gives the lock back when its owner dies, however it dies.
take_lock() {
    state=$venv/.firstlight
    if ! { mkdir -p "$state" && true >>"$state/lock"; } 2>/dev/null; then
        fail 1 "cannot write to $venv" "see who owns it and how full the disk is: ls -ld '$venv'; df -h '$venv'"
    fi
    exec 9>>"$state/lock"
    command -v flock >/dev/null 2>&1 || return 0 # no guard where a machine has no flock
    flock -n 9 2>/dev/null && return
    say "another start is making the environment: waiting for it"
    flock 9 2>/dev/null || say "this file system has no locks: going on without"
}

# Everything but our own state folder, where the lock is held.
empty_environment() {
    for entry in "$venv"/* "$venv"/.[!.]* "$venv"/..?*; do
        case $entry in
            "$state") ;;
            *) rm -rf -- "$entry" ;;
        esac
    done
    rm -rf "$state/checkout" "$state/pyproject.toml" "$state/tests" "$state/installer"
}

look_at_what_is_there() {
    if [ -e "$state/unfinished" ]; then
        say "an earlier start did not finish: making the environment again"
        empty_environment
    elif [ -f "$state/checkout" ]; then
        look_at_own
    elif [ -f "$venv/pyvenv.cfg" ]; then
        if probe_python "$venv/bin/python" && [ -x "$venv/bin/python" ]; then
            say "installing into the environment that is already in $venv"
        else
            say "the environment in $venv does not work ($refusal): making it again"
            empty_environment
        fi
    else
        for entry in "$venv"/* "$venv"/.[!.]*; do
            [ "$entry" = "$state" ] || [ ! -e "$entry" ] || fail 1 "$venv is there and is no Python environment" \
                "move it away and start again: mv '$venv' '$venv.old'"
        done
    fi
    : >"$state/unfinished"
}

look_at_own() {
    IFS= read -r made_for <"$state/checkout"
    # shellcheck disable=SC3013
    if [ ! "$made_for" -ef "$root" ]; then
        say "the environment was made for $made_for: making it again"
        empty_environment
    elif ! probe_python "$venv/bin/python"; then
        say "the Python of the environment is gone ($refusal): making it again"
        empty_environment
    elif [ -f "$venv/bin/firstlight" ] && cmp -s "$root/pyproject.toml" "$state/pyproject.toml"; then
        : # same content: only the file's time has changed
    else
        say "pyproject.toml has changed: installing again"
    fi
}

make_venv() {
    find_python # sets $python and $python_version, or fails
    say "making the environment with $python (Python $python_version)"
    logged "$python" -B -I -m venv --without-pip "$venv" || fail_with_log "could not make an environment with $python"
}

get_pip() {
    [ -f "$state/installer/pip/__main__.py" ] && return
    "$venv/bin/python" -B -E -s "$root/scripts/lib/get_installer.py" pip "$state" >/dev/null 2>"$state/log" ||
        fail_with_log "could not get pip, which Python $found_version lacks" "$(installer_package)"
}

# Settings that are right elsewhere and wrong inside an own environment: targets, and the constraints of an image.
run_pip() {
    (
        unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_CONSTRAINT PIP_BUILD_CONSTRAINT PIP_NO_BUILD_ISOLATION PIP_NO_DEPS
        export PIP_USER=0 PIP_ROOT_USER_ACTION=ignore
        logged "$venv/bin/python" -B -I "$state/installer/pip" --disable-pip-version-check --no-input "$@"
    )
}

install_firstlight() {
    probe_python "$venv/bin/python" || fail 1 "the new environment does not run: $refusal" "remove it: rm -rf '$venv'"
    rm -f "$state/checkout.new" "$state/pyproject.new"
    cp -p "$root/pyproject.toml" "$state/pyproject.new"
    if ! cmp -s "$state/pyproject.new" "$state/pyproject.toml" || [ ! -f "$venv/bin/firstlight" ]; then
        get_pip
        say "installing firstlight and what it needs (about a minute; the log: $state/log)"
        run_pip install --quiet --editable "$root" || fail_with_log "could not install what firstlight needs"
        rm -f "$state/tests"
        # Machines that tell Python to write no bytecode would otherwise compile the program on every start.
        "$venv/bin/python" -I -m compileall -q "$root/firstlight" >/dev/null 2>&1 || :
        say "ready"
    fi
    finish
}

# The stamps, in this order: only the last step makes the environment count.
finish() {
    if ! { (cd -P -- "$root" && pwd -P) >"$state/checkout.new" && mv -f "$state/checkout.new" "$state/checkout" &&
        mv -f "$state/pyproject.new" "$state/pyproject.toml" && rm -f "$state/unfinished"; }; then
        fail 1 "cannot write to $state" "see how full the disk is: df -h '$state'"
    fi
}
