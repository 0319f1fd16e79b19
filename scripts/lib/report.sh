# shellcheck shell=sh disable=SC2154 # state and venv come from environment.sh
# Sourced: what the launcher says, on stderr, and how it ends when it cannot go on.

say() { printf 'firstlight: %s\n' "$*" >&2; }

# Runs a command whose output only matters when it fails.
logged() { "$@" >"$state/log" 2>&1 </dev/null; }

# fail CODE MESSAGE [FIX]: FIX holds commands to paste, one a line. A caller who asked for JSON gets JSON.
fail() {
    say "error: $2"
    [ -z "${3-}" ] || printf '%s\n' "$3" | sed 's/^/    /' >&2
    case ${arguments-} in
        *' --json '*)
            printf '{"schema": "firstlight.error/1", "error": {"code": %s, "kind": "LauncherFailed", ' "$1"
            printf '"message": "%s", "fix": "%s"}}\n' "$(json_text "$2")" "$(json_text "${3-}")"
            ;;
    esac
    exit "$1"
}

json_text() {
    printf '%s' "$1" | tr -d '\000-\011\013-\037' | sed 's/\\/\\\\/g; s/"/\\"/g' |
        awk '{ printf "%s%s", (NR > 1 ? "\\n" : ""), $0 }'
}

# fail_with_log MESSAGE [FIX]: what the log has to say, and what to do about the cause that it names.
fail_with_log() {
    say "$1; from its log, $state/log:"
    telling_lines | sed 's/^ */    /; s#://[^/@ ]*@#://***@#g' >&2
    cause=$(cause_of_failure)
    hint=
    case $cause in
        disk) hint="free some space, then start again: df -h '$venv' \"\${TMPDIR:-/tmp}\"" ;;
        proxy) hint="check the proxy's address and password: env | grep -i proxy" ;;
        certificate) hint="name your network's CA certificates: export PIP_CERT=/path/to/ca-certificates.crt" ;;
        network) hint="$(network_hint)" ;;
    esac
    case $cause in
        proxy | certificate | network) code=4 ;;
        *) code=1 ;;
    esac
    fail "$code" "$1" "$hint${2:+
$2}"
}

telling_lines() {
    if grep -q -i -e 'error:' -e 'retrying' "$state/log"; then
        grep -i -e 'error:' -e 'retrying' "$state/log" | grep -v subprocess-exited | awk '!seen[$0]++' | tail -n 8
    else
        tail -n 8 "$state/log"
    fi
}

cause_of_failure() {
    if grep -q -i -e 'no space left' -e 'disk quota' "$state/log"; then
        echo disk
    elif grep -q -i -e 'proxyerror' -e 'cannot connect to proxy' -e 'tunnel connection failed' "$state/log"; then
        echo proxy
    elif grep -q -i -e 'certificate' -e 'SSLError' "$state/log"; then
        echo certificate
    elif grep -q -i -e 'connection' -e 'timed out' -e 'name resolution' -e 'name or service not known' \
        -e 'unreachable' -e 'HTTP [45]' -e 'HTTP error' -e 'no matching distribution' -e 'refused' "$state/log"; then
        echo network
    fi
}

network_hint() {
    printf '%s\n' "the package index did not deliver. Name one that answers here, then start again, for example:" \
        "export PIP_INDEX_URL=https://pypi.org/simple" \
        "export PIP_INDEX_URL=https://mirrors.aliyun.com/pypi/simple" \
        "or a proxy: export https_proxy=http://host:port"
    used=${https_proxy:-${HTTPS_PROXY:-${PIP_PROXY:-}}}
    [ -z "$used" ] || printf '%s\n' "the proxy in use now: $used" | sed 's#://[^/@ ]*@#://***@#g'
}
