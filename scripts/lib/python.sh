# shellcheck shell=sh disable=SC2154,SC2034 # root, venv and state come from, and python goes to, the sourcing files
# Sourced: finds a Python that firstlight runs on, else gets one: the distribution's packages (root), then uv.

# Prints one line about a good Python; else says why not. Any Python since 2.7 can read it.
probe='import sys
sys.path[:] = [p for p in sys.path if p not in ("", ".")]
v = sys.version_info[:2]
if not (3, 10) <= v < (3, 14):
    sys.exit("is Python %d.%d" % v)
import os
for name in ("ssl", "venv", "zlib", "ctypes", "hashlib"):
    try:
        __import__(name)
    except Exception as problem:
        sys.exit("Python %d.%d cannot import %s: %s" % (v + (name, problem)))
base = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
print("%d.%d" % v + " " + base)'

# probe_python FILE: 0 and found_version, found_path; else 1 and the reason in $refusal.
probe_python() {
    if [ ! -x "$1" ]; then
        refusal="$1: not there"
        return 1
    fi
    if answer=$("$1" -B -E -s -c "$probe" 2>&1 </dev/null); then
        found_version=${answer%% *} found_path=${answer#* }
        [ -x "$found_path" ] && return 0
        refusal="$1: answers strangely"
    else
        refusal="$1: ${answer##*
}"
        case $answer in
            "is Python 3."[789]) old_python=${old_python:-$1} ;; # good enough to fetch uv
        esac
    fi
    return 1
}

sudo='sudo '
[ "$(id -u)" != 0 ] || sudo=

note() { tried="$tried
$*"; }

# accept FILE: the first good one wins. The path without links is kept, so that a later upgrade of the distribution's
# python3 to another version is seen (a dangling link) instead of half-working.
accept() {
    if probe_python "$1"; then
        python=$found_path python_version=$found_version
        return 0
    fi
    [ ! -x "$1" ] || note "$refusal"
    return 1
}

find_python() {
    tried='' old_python='' python=''
    if [ -n "${FIRSTLIGHT_PYTHON:-}" ]; then
        chosen=$(command -v "$FIRSTLIGHT_PYTHON" || printf '%s' "$FIRSTLIGHT_PYTHON")
        accept "$chosen" || fail 1 "FIRSTLIGHT_PYTHON cannot be used: $refusal" \
            "name a Python 3.10 to 3.13, or let firstlight choose: unset FIRSTLIGHT_PYTHON"
        return
    fi
    python_on_path || python_in_homes || python_from_packages || python_from_uv || no_python
}

python_on_path() {
    for name in python3.13 python3.12 python3.11 python3.10 python3 python; do
        old_ifs=$IFS IFS=:
        set -f
        # shellcheck disable=SC2086
        set -- $PATH
        set +f
        IFS=$old_ifs
        # Each folder, not only the first hit: a pyenv shim without a version behind it hides the real one.
        for folder; do
            ! accept "$folder/$name" || return 0
        done
    done
    return 1
}

# Folders where conda, pyenv and uv keep whole Pythons. They are read; nothing is ever written to them.
python_in_homes() {
    user_home=${HOME:-/root}
    for candidate in "$user_home/miniconda3" "$user_home/miniforge3" "$user_home/anaconda3" /opt/conda /opt/miniconda3 \
        /opt/miniforge3 /root/miniconda3 /root/miniforge3 /root/anaconda3 /mnt/workspace/miniconda3 \
        "${PYENV_ROOT:-$user_home/.pyenv}"/versions/3.1[0123]* \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$user_home/.local/share}/uv/python}"/cpython-3.1[0123]*; do
        ! accept "$candidate/bin/python3" || return 0
    done
    return 1
}

python_from_packages() {
    manager=
    for name in apt-get dnf yum microdnf zypper apk; do
        ! command -v "$name" >/dev/null 2>&1 || { manager=$name && break; }
    done
    if [ -z "$manager" ]; then
        note "packages of the distribution: none of apt-get, dnf, yum, microdnf, zypper, apk is here"
    elif [ -n "$sudo" ]; then
        note "packages of the distribution ($manager): not root, and firstlight never calls sudo by itself"
    elif [ "${FIRSTLIGHT_SYSTEM_PACKAGES:-}" = no ]; then
        note "packages of the distribution ($manager): FIRSTLIGHT_SYSTEM_PACKAGES=no"
    else
        say "no Python 3.10 to 3.13 on this machine: as root, installing one with $manager"
        packages_with "$manager" && python_on_path && return 0
        note "packages of the distribution ($manager): no Python 3.10 to 3.13 came of it${problem:+: $problem}"
    fi
    return 1
}

packages_with() {
    case $1 in
        apt-get) packages_of_debian ;;
        dnf | yum) packages_of_rpm "$1" -q -y ;;
        microdnf) packages_of_rpm microdnf -y ;;
        zypper) packages_of_suse ;;
        apk) install_packages apk add --no-cache python3 ca-certificates ;;
    esac
}

# install_packages COMMAND…: said before, and with its last line as $problem when it fails.
install_packages() {
    say "running: $*"
    logged "$@" && return
    problem=$(grep -v '^[[:space:]]*$' "$state/log" | tail -n 1)
    return 1
}

packages_of_debian() {
    export DEBIAN_FRONTEND=noninteractive
    install_packages apt-get -q update || say "apt-get update failed ($problem): trying with the lists that are here"
    for v in 3.13 3.12 3.11 3.10; do
        if apt-cache show "python$v-venv" >/dev/null 2>&1; then
            install_packages apt-get -q -y --no-install-recommends -o DPkg::Lock::Timeout=120 install \
                "python$v" "python$v-venv" ca-certificates
            return
        fi
    done
    # Too old for firstlight, but it can fetch uv.
    apt-cache show python3 >/dev/null 2>&1 && install_packages apt-get -q -y --no-install-recommends install \
        python3 ca-certificates
}

# rpm names: EL 8 and 9 python3.12, Fedora python3.13; where only the default exists it is tried last.
packages_of_rpm() {
    for package in python3.13 python3.12 python3.11 python3.10 python3; do
        ! install_packages "$@" install "$package" ca-certificates || return 0
    done
    return 1
}

packages_of_suse() {
    for package in python313 python312 python311 python310 python3; do
        ! install_packages zypper --non-interactive --quiet install "$package" ca-certificates || return 0
    done
    return 1
}

python_from_uv() {
    uv=
    for candidate in "$(command -v uv || :)" "${HOME:-/root}/.local/bin/uv" "${HOME:-/root}/.cargo/bin/uv" "$state/uv"; do
        # A pyenv shim without a version behind it does not run.
        [ -n "$uv" ] || ! "$candidate" --version >/dev/null 2>&1 || uv=$candidate
    done
    if [ -z "$uv" ] && [ -n "$old_python" ]; then
        say "getting uv from the package index with $old_python"
        uv=$("$old_python" -B -E -s "$root/scripts/lib/get_installer.py" uv "$state" 2>"$state/log") || {
            note "uv: $(tail -n 1 "$state/log")"
            return 1
        }
    fi
    if [ -z "$uv" ]; then
        note "uv: not here, and no Python 3.7 or newer to fetch it with"
        return 1
    fi
    say "getting Python 3.12 with uv${UV_PYTHON_INSTALL_MIRROR:+ from $UV_PYTHON_INSTALL_MIRROR}"
    if UV_PYTHON_INSTALL_BIN=0 with_certificates logged "$uv" python install 3.12; then
        found=$("$uv" python find --no-project --python-preference only-managed 3.12 2>/dev/null)
        accept "$found" && return 0
    fi
    note "uv ($uv python install 3.12): $(tail -n 1 "$state/log" | sed 's/^ *//')"
    return 1
}

# uv does not know pip's variable for certificates.
with_certificates() {
    if [ -n "${PIP_CERT:-}" ] && [ -z "${SSL_CERT_FILE:-}" ]; then
        (SSL_CERT_FILE=$PIP_CERT && export SSL_CERT_FILE && "$@")
    else
        "$@"
    fi
}

# What would give a Python its installer, said when the index could not.
installer_package() {
    ! command -v apt-get >/dev/null 2>&1 || echo "or: ${sudo}apt-get install python$found_version-venv"
}

no_python() {
    rm -f "$state/unfinished"
    if [ -n "$sudo" ] && command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        say "sudo works here without a password: the first command below will do"
    fi
    say "what was tried:"
    printf '%s\n' "${tried#?}" | sed 's/^/    /' >&2
    case $manager in
        apt-get) packages="${sudo}apt-get update && ${sudo}apt-get install -y python3 python3-venv ca-certificates" ;;
        zypper) packages="${sudo}zypper install python312" ;;
        apk) packages="${sudo}apk add python3" ;;
        '') packages= ;;
        *) packages="${sudo}$manager install -y python3.12" ;;
    esac
    fail 1 "no Python 3.10 to 3.13 is here, and none could be got" "do one of these, then start again:
${packages:+$packages
}curl -LsSf https://astral.sh/uv/install.sh | sh
export UV_PYTHON_INSTALL_MIRROR=https://a-mirror-of/python-build-standalone/releases/download
export FIRSTLIGHT_PYTHON=/path/to/python3.12"
}
