"""How a service is shut in: `basic` harms no engine; `strict` leaves open what CUDA and torch need, and nothing more.

Figures and incompatibilities were measured with systemd 252 and 257; docs/services.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from firstlight.serving.services.quoting import word
from firstlight.serving.services.spec import ServiceSpec

Setting = tuple[str, str]

_WITHOUT_MOUNTS: tuple[Setting, ...] = (
    ("NoNewPrivileges", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
)
"""What any manager can do, a user's own too: no mount namespace is needed."""
_BASIC: tuple[Setting, ...] = (
    ("ProtectSystem", "full"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
)
_STRICT: tuple[Setting, ...] = (
    ("ProtectSystem", "strict"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectHostname", "yes"),
    ("PrivateTmp", "yes"),
    ("PrivateMounts", "yes"),
    ("PrivateUsers", "yes"),
    ("ProtectProc", "invisible"),
    # Not `pid`: the driver's libraries read /proc/driver/nvidia, and every allocator /proc/meminfo.
    ("ProcSubset", "all"),
    ("CapabilityBoundingSet", ""),
    ("AmbientCapabilities", ""),
    # AF_NETLINK: getifaddrs(3), which NCCL and torch.distributed choose their interface by; AF_UNIX: ZeroMQ.
    ("RestrictAddressFamilies", "AF_INET AF_INET6 AF_UNIX AF_NETLINK"),
    ("RestrictNamespaces", "yes"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged"),
    ("SystemCallErrorNumber", "EPERM"),
    ("RemoveIPC", "yes"),
    ("KeyringMode", "private"),
)
# No MemoryDenyWriteExecute: torch, Triton and numba make code at run time.
_GPU_DEVICES = ("char-nvidia* rw", "char-drm rw", "char-kfd rw")
"""Classes, not paths: systemd expands no pattern in a path, and old and new drivers register other classes."""
_WSL_DEVICE = "/dev/dxg"
GPU_GROUPS = ("video", "render")
_CLEAR_FOLDERS_SINCE = 252
"""Older systemd (seen with 247) makes the folders above what it binds with the unit's own mask: nobody could enter."""
_ROOTS = "/root"
_HOMES = ("/home", _ROOTS, "/run/user")
_TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108 - looked for, not written to


def settings(spec: ServiceSpec, groups: tuple[str, ...] = (), *, version: int) -> Iterator[Setting]:
    """Give the settings of [Service] that shut a service in.

    Args:
        spec: the service.
        groups: of `GPU_GROUPS` those that this machine has; a unit that names another does not start.
        version: of systemd.
    """
    yield from _WITHOUT_MOUNTS
    if spec.hardening == "basic":
        yield "UMask", "0027"
        if spec.scope == "system":
            yield from _BASIC
            if not _within(spec, _TEMPORARY):
                yield "PrivateTmp", "yes"
        return
    homes = list(_homes(spec))
    closed = version < _CLEAR_FOLDERS_SINCE and any(name.startswith("Bind") for name, _ in homes)
    yield "UMask", "0022" if closed else "0077"
    # In a user's own name space there is no /proc/kmsg to hide, and systemd 252 fails at hiding it.
    yield from (each for each in _STRICT if spec.scope == "system" or each[0] != "ProtectKernelLogs")
    yield from _devices(spec, groups)
    yield from homes
    for folder in spec.writable:
        yield "ReadWritePaths", f"-{word(str(folder))}"
    if spec.cache is not None and spec.scope == "user":
        yield "ReadWritePaths", f"-{word(str(spec.cache))}"


def _devices(spec: ServiceSpec, groups: tuple[str, ...]) -> Iterator[Setting]:
    if not spec.devices:
        yield "PrivateDevices", "yes"
        yield "ProtectClock", "yes"
        return
    yield "DevicePolicy", "closed"
    for each in _GPU_DEVICES:
        yield "DeviceAllow", each
    if _WSL_DEVICE in spec.devices:
        yield "DeviceAllow", f"{_WSL_DEVICE} rw"
    # By itself it would close the GPU too: it implies DeviceAllow=char-rtc (systemd.exec(5)).
    yield "ProtectClock", "yes"
    if groups and spec.scope == "system":
        yield "SupplementaryGroups", " ".join(groups)


def _homes(spec: ServiceSpec) -> Iterator[Setting]:
    """Hide the homes; where something that the service reads lies there, that alone is bound into the empty folder."""
    at_home = _within(spec, _HOMES)
    inside = [*at_home, *_within(spec, _TEMPORARY)]
    colon = any(":" in str(path) for path in inside)  # the list of binds would take it for its own
    yield "ProtectHome", ("read-only" if colon else "tmpfs") if at_home else "yes"
    if not colon and spec.scope == "system" and any(path.is_relative_to(_ROOTS) for path in at_home):
        # Newer systemd (seen with 257) lets root alone enter the empty folder over this one.
        yield "TemporaryFileSystem", f"{_ROOTS}:ro,mode=0755"
    for path in inside if not colon else ():
        yield ("BindPaths" if path in spec.writable else "BindReadOnlyPaths"), word(str(path))


def _within(spec: ServiceSpec, folders: tuple[str, ...]) -> list[Path]:
    """Return what the service needs that lies in some folders."""
    return [path for path in needed_paths(spec) if any(path.is_relative_to(folder) for folder in folders)]


def needed_paths(spec: ServiceSpec) -> list[Path]:
    """Return the folders that a service must be able to reach, each once, none within another."""
    wanted = [spec.folder, spec.link.parent, spec.model_path, *spec.writable]
    wanted += [path for path in (spec.readiness.interpreter, Path(spec.argv[0])) if path is not None]
    if spec.cache is not None and spec.scope == "user":
        wanted.append(spec.cache)
    ordered = sorted({_real_prefix(path) for path in wanted} | set(wanted))
    kept: list[Path] = []
    for path in ordered:
        if not any(path.is_relative_to(above) for above in kept):
            kept.append(path)
    return kept


def _real_prefix(path: Path) -> Path:
    """Return where a path really lies; a Python's whole installation for an interpreter."""
    real = path.resolve()
    return real.parent.parent if real.parent.name == "bin" and real.is_file() else real
