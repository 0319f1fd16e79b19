# shellcheck shell=sh disable=SC2154 # root and venv come from scripts/firstlight
# Sourced by scripts/firstlight for `test`: every check of the project, in the order cheap to dear; ends the process.

. "$root/scripts/lib/environment.sh"

# Packages that the tests use beside Python, as command-or-file:Debian package.
test_packages='
gcc:gcc
/usr/include/stdio.h:libc6-dev
mmdebstrap:mmdebstrap
systemd-nspawn:systemd-container
nsenter:util-linux
unshare:util-linux
setpriv:util-linux
mount:mount
busybox:busybox
/usr/share/python-wheels:python3-venv
/usr/lib/x86_64-linux-gnu/libnuma.so.1:libnuma1
shellcheck:shellcheck
'
stages='prepare shellcheck ruff-check ruff-format mypy import-rules pytest'

run_stages() {
    table='' result=0
    for name in $stages; do
        if [ "$result" != 0 ]; then
            table="$table$name - not run
"
            continue
        fi
        [ "$name" = prepare ] || say "── $name"
        begin=$(seconds_since 0)
        (run_stage "$name" "$@")
        result=$?
        case $result in
            0) outcome=ok ;;
            77) outcome='left out' result=0 ;;
            *) outcome="FAILED (exit $result)" ;;
        esac
        table="$table$name $(seconds_since "$begin") $outcome
"
        choose_folder 2>/dev/null # the subshell that made the environment kept its place to itself
    done
    printf '\n%s' "$table" | while read -r name seconds outcome; do
        [ -z "$name" ] && echo || printf '%-13s %7s s  %s\n' "$name" "$seconds" "$outcome"
    done
    exit "$result"
}

# Each in a subshell. Exit code 77: left out, as the stage itself has said.
run_stage() {
    stage=$1
    shift
    case $stage in
        prepare) prepare ;;
        shellcheck) check_shell_files ;;
        ruff-check) tool -m ruff check . ;;
        ruff-format) tool -m ruff format --check . ;;
        mypy) tool -m mypy ;;
        import-rules) tool "$venv/bin/lint-imports" ;;
        pytest) run_pytest "$@" ;;
    esac
}

# Since boot, or since the moment that an earlier call printed.
seconds_since() {
    awk -v begin="$1" '{ printf "%.2f", $1 - begin }' /proc/uptime
}

tool() { (cd -- "$root" && "$venv/bin/python" "$@"); }

prepare() {
    find_lacking
    if [ -n "$lacking" ] && [ -z "$sudo" ] && [ "${FIRSTLIGHT_SYSTEM_PACKAGES:-}" != no ] && command -v apt-get >/dev/null 2>&1; then
        install_test_packages
    fi
    ready "$venv" || make_environment ""
    state=$venv/.firstlight
    cmp -s "$root/pyproject.toml" "$state/tests" && return
    take_lock
    say "installing what the tests need"
    : >"$state/unfinished"
    get_pip
    run_pip install --quiet --editable "${root}[test]" || fail_with_log "could not install what the tests need"
    cp "$root/pyproject.toml" "$state/tests" && rm -f "$state/unfinished"
    exec 9>&-
}

find_lacking() {
    lacking=
    for entry in $test_packages; do
        if ! command -v "${entry%:*}" >/dev/null 2>&1 && [ ! -e "${entry%:*}" ]; then
            lacking="$lacking ${entry#*:}"
        fi
    done
}

install_test_packages() {
    say "as root, installing what the tests use:$lacking"
    export DEBIAN_FRONTEND=noninteractive
    apt_log=$(mktemp) || return 1
    # shellcheck disable=SC2086
    if ! { apt-get -q update && apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 install $lacking; } \
        >"$apt_log" 2>&1 </dev/null; then
        say "apt-get could not install them all; its last lines:"
        tail -n 5 "$apt_log" | sed 's/^/    /' >&2
    fi
    rm -f "$apt_log"
}

check_shell_files() {
    if ! command -v shellcheck >/dev/null 2>&1; then
        say "LEFT OUT: shellcheck is not installed (${sudo}apt-get install shellcheck)"
        return 77
    fi
    (cd -- "$root" && shellcheck --external-sources --source-path=. scripts/firstlight scripts/lib/*.sh .ci/run)
}

run_pytest() {
    find_lacking
    selection='not gpu and not real_install'
    if ! may_mount; then
        left_out=$(tool -m pytest --collect-only -q -m "root and $selection" 2>/dev/null | grep -c '::')
        selection="$selection and not root"
        say "LEFT OUT: $left_out tests that need root and the right to mount (this is uid $(id -u))"
    fi
    [ -z "$lacking" ] || say "LACKING:$lacking: tests that use these will fail (${sudo}apt-get install$lacking)"
    # A test that fails is run once more: on a stalled machine one in thousands loses a race. What passed only then is told (-raR).
    tool -m pytest -m "$selection" --reruns 1 -raR "$@"
}

may_mount() {
    [ -z "$sudo" ] && unshare --mount mount -t tmpfs tmpfs /mnt >/dev/null 2>&1
}

run_stages "$@"
