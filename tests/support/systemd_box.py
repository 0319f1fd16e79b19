"""A throw-away Debian booted under a real systemd as process 1: no Docker, and no systemd on this machine.

The pristine root is made once with mmdebstrap and kept; every box gets a copy-on-write layer of its own. Needs root,
overlay mounts, systemd-nspawn, nsenter and mmdebstrap (Debian: systemd-container, util-linux, mmdebstrap).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from support.bare_root import apt_settings, sources_of

PACKAGES = "systemd,systemd-sysv,dbus,libpam-systemd,dbus-user-session"
CGROUPS = Path("/sys/fs/cgroup/unified") if Path("/sys/fs/cgroup/unified").is_dir() else Path("/sys/fs/cgroup")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@functools.cache
def lacking() -> str | None:
    """Return why no box can be booted here, None where it can."""
    if os.geteuid() != 0:
        return f"needs root (this is uid {os.geteuid()})"
    missing = [name for name in ("systemd-nspawn", "mmdebstrap", "nsenter") if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (apt-get install systemd-container mmdebstrap)"
    if not os.access(CGROUPS / "cgroup.procs", os.W_OK):
        return f"needs control groups of its own ({CGROUPS} cannot be written)"
    with tempfile.TemporaryDirectory() as name:
        for part in ("lower", "upper", "work", "root"):
            (Path(name) / part).mkdir()
        layers = f"lowerdir={name}/lower,upperdir={name}/upper,workdir={name}/work"
        words = ["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", layers, f"{name}/root"]
        tried = subprocess.run(words, capture_output=True, text=True, check=False)
    said = tried.stderr.strip().rpartition("\n")[2]
    return None if tried.returncode == 0 else f"needs the right to mount overlays in {tempfile.gettempdir()}: {said}"


def base_root(suite: str | None = None) -> Path:
    """Return the pristine root of a Debian release, made at the first call on this machine (20 s, 200 MB).

    Without a name that of FIRSTLIGHT_TEST_SUITE, by which the life of a unit is run on another systemd by hand.
    """
    suite = suite or os.environ.get("FIRSTLIGHT_TEST_SUITE") or "bookworm"
    return made_root(f"systemd-{suite}", suite, PACKAGES)


def made_root(name: str, suite: str, packages: str) -> Path:
    """Return a pristine root with these packages, made at the first call from the apt sources of this machine."""
    home = os.environ.get("FIRSTLIGHT_TEST_ROOTS") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = Path(home) / "firstlight-tests" / name
    base.parent.mkdir(parents=True, exist_ok=True)
    with base.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            partial = base.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            settings = [f"--aptopt={line}" for line in apt_settings()]
            sources = sources_of(suite)
            words = ["mmdebstrap", "--variant=minbase", *settings, f"--include={packages}", suite, str(partial)]
            made = subprocess.run(
                [*words, *(["-"] if sources else [])],
                input="".join(f"{line}\n" for line in sources),
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert made.returncode == 0, made.stderr[-3000:]
            partial.rename(base)
    return base


class Box:
    """One machine; what is written in it stays over reboots and goes with `destroy`."""

    def __init__(self, base: Path, folder: Path | None = None, *, offline: bool = True, devices: bool = False) -> None:
        self.name = f"box-{uuid.uuid4().hex[:8]}"
        # Not in a folder of pytest: another run of it would tidy away what is mounted here.
        self.place = (folder or Path(tempfile.gettempdir())) / f"firstlight-{self.name}"
        self.offline, self.devices = offline, devices
        self.binds: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        for name in ("upper", "work", "root"):
            (self.place / name).mkdir(parents=True)
        self.root = self.place / "root"
        layers = f"lowerdir={base},upperdir={self.place}/upper,workdir={self.place}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, self.root], check=True)
        # Ours, so that nothing has to be asked for at the first boot.
        (self.root / "etc" / "hostname").write_text(f"{self.name}\n")

    def bind(self, source: Path, inside: Path | str | None = None) -> None:
        """Show a file or folder of this machine inside, read-only; before the boot."""
        self.binds.append(f"--bind-ro={source}:{inside or source}")

    def put(self, inside: str | Path, text: str, mode: int = 0o644) -> Path:
        """Write a file."""
        file = self.path(inside)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return file

    def path(self, inside: str | Path) -> Path:
        """Return where a file of the box lies outside."""
        return self.root / str(inside).lstrip("/")

    def _words(self) -> list[str]:
        words = ["systemd-nspawn", "--quiet", "-D", str(self.root), "-M", self.name, "--keep-unit", "--register=no"]
        words += ["--console=pipe", "--link-journal=no", *self.binds]
        words += ["--private-network"] if self.offline else ["--resolv-conf=replace-host"]
        return words + (["--capability=all"] if self.devices else [])  # device lists need bpf(2)

    def boot(self, seconds: float = 180.0) -> float:
        """Boot it and return the seconds until systemd says that it runs."""
        environment = dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1")
        if self.devices:
            environment["SYSTEMD_SECCOMP"] = "0"

        def own_group() -> None:  # else its slices would land in this machine's root group
            (CGROUPS / self.name).mkdir(exist_ok=True)
            (CGROUPS / self.name / "cgroup.procs").write_text("0")

        begun = time.monotonic()
        with (self.place / "console.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._words(), "-b"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=own_group,  # noqa: PLW1509 - the tests that boot boxes start no threads before
            )
        while time.monotonic() - begun < seconds and self.process.poll() is None:
            if self.leader() is not None:
                state = self.run("systemctl is-system-running", check=False).stdout.strip()
                if state in {"running", "degraded"}:
                    return time.monotonic() - begun
            time.sleep(0.05)
        raise RuntimeError((self.place / "console.log").read_text(errors="replace")[-2000:])

    def leader(self) -> int | None:
        """Return the box's process 1 as this machine counts it."""
        if self.process is None:
            return None
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for child in children:
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{child}/exe").readlink().name == "systemd":
                        return int(child)
        return None

    def run(
        self, script: str, *, check: bool = True, seconds: float = 120.0, user: str | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell script inside, as root or as a user (without a login: no XDG_RUNTIME_DIR)."""
        variables = {"PATH": PATH, "HOME": f"/home/{user}" if user else "/root", "LANG": "C.UTF-8", **more}
        inside = ["sh", "-c", script]
        if user:
            inside = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", *inside]
        words = ["nsenter", "-t", str(self.leader()), *["-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "env", "-i"]]
        words += [f"{name}={value}" for name, value in variables.items()]
        # In a group of the box: whoever comes from outside of them, newer systemd knows nothing of (EUNATCH).
        group = CGROUPS / self.name / "payload" / "entered"
        enter = ["sh", "-c", 'mkdir -p "$0" && echo 0 >"$0/cgroup.procs"; exec "$@"', str(group)]
        ended = subprocess.run(
            [*enter, *words, *inside],
            stdin=subprocess.DEVNULL,
            text=True,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        assert not check or ended.returncode == 0, f"{script}\n{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
        return ended

    def bare(self, script: str, *, seconds: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a script in the same machine without systemd: process 1 is a stub."""
        words = [*self._words(), "--as-pid2", "sh", "-c", script]
        return subprocess.run(
            words, text=True, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )

    def power_off(self, seconds: float = 60.0) -> None:
        """Shut it down, orderly."""
        if self.process is None:
            return
        self.process.terminate()  # nspawn asks the box's systemd for an orderly shutdown
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def reboot(self) -> float:
        """Shut it down and boot it again; returns the seconds of the boot."""
        self.power_off()
        return self.boot()

    def destroy(self) -> None:
        """End it and remove all of it."""
        if self.process is not None and self.process.poll() is None:
            self.power_off()
        ended = subprocess.run(["umount", self.root], capture_output=True, check=False)
        if ended.returncode != 0:  # a process that was killed a moment ago still holds it
            subprocess.run(["umount", "--lazy", self.root], check=False)
        for hierarchy in (CGROUPS, Path("/sys/fs/cgroup/systemd")):
            for folder, _, _ in os.walk(hierarchy / self.name, topdown=False):
                with contextlib.suppress(OSError):
                    Path(folder).rmdir()
        shutil.rmtree(self.place, ignore_errors=True)
