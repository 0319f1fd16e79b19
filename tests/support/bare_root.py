"""Throw-away Debian roots: the machine of someone who has nothing yet, not even Python, curl or wget.

The root is made once with mmdebstrap from the apt sources of this machine and kept. Each test gets a copy-on-write
layer over it, and runs commands in it with mount and process namespaces of their own: when a command ends, however it
ends, the kernel takes its mounts and processes away. Needs root and mount(2). The network is this machine's.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import urllib.parse
from pathlib import Path

# Where the certificate bundle lies inside: the usual place stays free for the package ca-certificates.
CERTIFICATES = "/run/host-certificates.crt"
CERTIFICATE_VARIABLES = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
USER = "someone"
USER_ID = 1000

# $1 base, $2 layer, $3 numeric user, $4 folder; then "SOURCE:TARGET" up to "--"; then NAME=value… and the command.
ENTER = r"""
set -e
base=$1 layer=$2 user=$3 folder=$4 root=$2/root
shift 4
mount --make-rprivate /
if [ -d "$layer/upper" ]; then
    mount -t overlay overlay -o "lowerdir=$base,upperdir=$layer/upper,workdir=$layer/work" "$root"
else
    mount --bind "$root" "$root"
fi
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
while [ "$1" != -- ]; do
    source=${1%%:*} target=$root${1#*:}
    if [ -d "$source" ]; then
        mkdir -p "$target"
    else
        mkdir -p "${target%/*}"
        : >"$target"
    fi
    mount --bind "$source" "$target"
    mount -o remount,bind,ro "$target"
    shift
done
shift
exec chroot "$root" setpriv --reuid="$user" --regid="$user" --clear-groups \
    env -i "--chdir=$folder" "$@"
"""


class BareRoot:
    """One throw-away root in `layer`; what commands write stays until the folder is removed."""

    def __init__(self, base: Path, layer: Path) -> None:
        self.base, self.layer = base, layer
        (layer / "root").mkdir(parents=True)
        self.tree = layer / "upper"
        self.tree.mkdir()
        (layer / "work").mkdir()
        self.binds: list[str] = []
        self.variables: dict[str, str] = {}
        if not _overlay_works(base, layer):
            # A machine whose own root is an overlay: a real copy instead.
            shutil.rmtree(self.tree)
            self.tree = layer / "root"
            subprocess.run(["cp", "-a", "--reflink=auto", f"{base}/.", self.tree], check=True)
        self._furnish()

    def path(self, inside: str) -> Path:
        """Return where a file that was written inside lies outside."""
        return self.tree / inside.lstrip("/")

    def put(self, inside: str, text: str, mode: int = 0o644) -> None:
        """Write a file, readable inside by everyone."""
        file = self.path(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def put_checkout(self, repository: Path, inside: str, owner: int = 0) -> None:
        """Copy the project as a clone would bring it: without environments, caches and history."""
        target = self.path(inside)
        unwanted = shutil.ignore_patterns(".venv*", ".git", "__pycache__", ".*_cache", "*.egg-info", "dist", "build")
        shutil.copytree(repository, target, ignore=unwanted, symlinks=True)
        for path in (target, *target.rglob("*")):
            os.chown(path, owner, owner, follow_symlinks=False)

    def run(self, *command: str, user: int = 0, folder: str = "/", seconds: float = 600, **more: str):
        """Return the finished command; it starts with a clean environment plus this machine's way to the indexes."""
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": f"/home/{USER}" if user else "/root",
            "LANG": "C.UTF-8",
            **self.variables,
            **more,
        }
        inside = [f"{name}={value}" for name, value in environment.items()]
        enter = [ENTER, "enter", str(self.base), str(self.layer), str(user), folder, *self.binds, "--"]
        return subprocess.run(
            ["unshare", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "sh", "-c", *enter, *inside, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def _furnish(self) -> None:
        """The user, name resolution, pip's configuration, proxies and certificates of this machine."""
        for file, line in (
            ("passwd", f"{USER}:x:{USER_ID}:{USER_ID}::/home/{USER}:/bin/sh\n"),
            ("group", f"{USER}:x:{USER_ID}:\n"),
        ):
            self.put(f"/etc/{file}", (self.base / "etc" / file).read_text() + line)
        self.path(f"/home/{USER}").mkdir(parents=True)
        for file in ("resolv.conf", "hosts"):
            self.path(f"/etc/{file}").unlink(missing_ok=True)
            self.put(f"/etc/{file}", Path("/etc", file).read_text())
        for name, value in os.environ.items():
            if name.startswith("PIP_") or name.lower() in {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}:
                self.variables[name] = value
        self._pip_configuration()
        os.chown(self.path(f"/home/{USER}"), USER_ID, USER_ID)

    def _pip_configuration(self) -> None:
        named = os.environ.get("PIP_CONFIG_FILE", "")
        home = Path.home()
        files = {
            Path("/etc/pip.conf"): ["/etc/pip.conf"],
            home / ".pip" / "pip.conf": ["/root/.pip/pip.conf", f"/home/{USER}/.pip/pip.conf"],
            home / ".config" / "pip" / "pip.conf": [
                f"{place}/.config/pip/pip.conf" for place in ("/root", f"/home/{USER}")
            ],
        }
        if named and named != os.devnull:
            files[Path(named)] = ["/etc/pip-named.conf"]
            self.variables["PIP_CONFIG_FILE"] = "/etc/pip-named.conf"
        words = [os.environ.get(f"PIP_{name}", "") for name in ("FIND_LINKS", "INDEX_URL", "EXTRA_INDEX_URL")]
        certificate = next((os.environ[name] for name in CERTIFICATE_VARIABLES if os.environ.get(name)), None)
        for file, targets in files.items():
            if not file.is_file():
                continue
            for target in targets:
                self.put(target, file.read_text())
            parser = configparser.RawConfigParser()
            parser.read(file)
            for section in parser.sections():
                words += [
                    parser.get(section, key, fallback="") for key in ("find-links", "index-url", "extra-index-url")
                ]
                certificate = certificate or parser.get(section, "cert", fallback=None)
        self._bind_places(" ".join(words).split(), certificate)

    def _bind_places(self, places: list[str], certificate: str | None) -> None:
        for place in places:
            local = place.startswith("file://")
            folder = Path(urllib.parse.unquote(urllib.parse.urlsplit(place).path) if local else place)
            # The files of an index lie beside its pages.
            folder = folder.parent if local and folder.name == "simple" else folder
            if folder.is_absolute() and folder.is_dir() and f"{folder}:{folder}" not in self.binds:
                self.binds.append(f"{folder}:{folder}")
        if certificate and Path(certificate).is_file():
            self.binds.append(f"{certificate}:{CERTIFICATES}")
            self.variables.update(dict.fromkeys(CERTIFICATE_VARIABLES, CERTIFICATES))


def _overlay_works(base: Path, layer: Path) -> bool:
    options = f"lowerdir={base},upperdir={layer}/upper,workdir={layer}/work"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", options, f"{layer}/root"],
        capture_output=True,
        check=False,
    )
    return tried.returncode == 0


def minimal_debian() -> Path:
    """Return the pristine root of this machine's release, made at the first call on this machine (about 15 s)."""
    sources, suite = _sources()
    kept = apt_settings()
    name = hashlib.sha256("\n".join([platform.machine(), *sources, *kept]).encode()).hexdigest()[:12]
    home = os.environ.get("FIRSTLIGHT_TEST_ROOTS") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = Path(home) / "firstlight-tests" / f"{suite}-{name}"
    base.parent.mkdir(parents=True, exist_ok=True)
    with base.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            _make(base, suite, sources, kept)
    return base


def apt_settings() -> list[str]:
    """Return this machine's settings of apt that decide whether its sources can be read: proxies, checks of dates."""
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in settings if re.match(r"Acquire::(\w+::Proxy|Check-|Retries)", line, re.IGNORECASE)]


def sources_of(suite: str) -> list[str]:
    """Return this machine's apt sources as another release of Debian has them; none where this is no Debian."""
    if "ID=debian" not in Path("/etc/os-release").read_text().splitlines():
        return []
    found, own = _sources()
    return [line.replace(own, suite) for line in found]


def _make(base: Path, suite: str, sources: list[str], settings: list[str]) -> None:
    partial = base.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    options = [f"--aptopt={line}" for line in settings]
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", *options, suite, partial, "-"],
        input="\n".join(sources) + "\n",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    for program in ("python3", "curl", "wget"):
        assert not (partial / "usr" / "bin" / program).exists(), f"{program} is in a minimal Debian"
    partial.rename(base)


def _sources() -> tuple[list[str], str]:
    """Return this machine's apt sources for its own release, one line each, and the release's name."""
    suite = next(
        line.partition("=")[2].strip('"')
        for line in Path("/etc/os-release").read_text().splitlines()
        if line.startswith("VERSION_CODENAME=")
    )
    found: list[str] = []
    for file in (Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))):
        if file.suffix == ".list" and file.is_file():
            found += [
                line.strip() for line in file.read_text().splitlines() if re.match(rf"deb .* {suite}\S* main", line)
            ]
        elif file.suffix == ".sources":
            found += [line for stanza in file.read_text().split("\n\n") for line in _lines_of(stanza, suite)]
    return found, suite


def _lines_of(stanza: str, suite: str) -> list[str]:
    """Return a deb822 stanza as one-line sources, as far as it is about this release."""
    field = dict(re.findall(r"^([A-Za-z-]+):\s*(.+)$", stanza, re.MULTILINE))
    if "main" not in field.get("Components", "").split() or field.get("Enabled") == "no":
        return []
    key = f"[signed-by={field['Signed-By']}] " if field.get("Signed-By", "").startswith("/") else ""
    return [
        f"deb {key}{address} {one} {field['Components']}"
        for address in field["URIs"].split()
        for one in field["Suites"].split()
        if one.startswith(suite)
    ]
