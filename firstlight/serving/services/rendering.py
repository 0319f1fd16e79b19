"""From a ServiceSpec to the text of its systemd unit: a function of the spec, the systemd version and the groups."""

from __future__ import annotations

import math
import shlex

from firstlight.resources import data_folder
from firstlight.serving.services import hardening
from firstlight.serving.services.quoting import assignment, command_line, line, text, word
from firstlight.serving.services.spec import ServiceSpec

MARKER = "# firstlight-service:"
"""Begins the first line of every unit of ours; a file without it is somebody else's."""
_STEPS_SINCE = 254
"""The systemd that knows RestartSteps= and RestartMaxDelaySec= (systemd.service(5))."""
_EXEC_SINCE = 240
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_POST_GRACE = 10
"""Seconds that systemd waits longer than our own waiting program, so that this one tells what happened."""
_KNOWN_SINCE = {"ProtectProc": 247, "ProcSubset": 247, "ProtectClock": 245, "ProtectKernelLogs": 244}
_POLL = 'until "$@" >/dev/null 2>&1; do kill -0 "$MAINPID" 2>/dev/null || exit 1; sleep 0.2; done'
_OPEN = (
    'for node do ( : <>"$node" ) 2>/dev/null'
    ' || { echo "firstlight: the GPU cannot be opened in here: $node"; exit 1; }; done'
)


def unit_name(name: str) -> str:
    """Return the file name of a service's unit."""
    return f"{name}.service"


def service_path(first: str) -> str:
    """Return the PATH of a service: its engine's programs first, then the system's; nothing of the installing shell."""
    return f"{first}:{_PATH}"


def render_unit(
    spec: ServiceSpec, *, version: int, groups: tuple[str, ...] = (), trial: bool = False, modprobe: str | None = None
) -> str:
    """Return the text of the service's unit.

    Args:
        spec: the service.
        version: of systemd; settings that it does not know are left out.
        groups: the GPU groups that this machine has.
        trial: a unit that is only tried: it must be able to open the GPU's nodes, is not started again, and belongs to
            no boot target.
        modprobe: NVIDIA's program that makes the device nodes which nobody has made at boot; None: it is not here.

    Raises:
        UsageError: a value cannot stand in a unit file.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - not HTML: every value is quoted for systemd below
    )
    secrets = None if spec.secrets is None else line(str(spec.secrets), f"the path {spec.secrets}")
    values = {
        "marker": f"{MARKER} {spec.name}",
        "name": spec.name,
        "scope": spec.scope,
        "description": text(f"{spec.engine} serves {spec.model_id or 'models on demand'} (firstlight)"),
        "mounts": [word(str(path)) for path in hardening.needed_paths(spec)],
        "trial": trial,
        "type": "exec" if version >= _EXEC_SINCE else "simple",
        "online": not spec.loopback,
        "start_interval": math.ceil(spec.start_interval),
        "start_burst": spec.start_burst,
        "user": spec.user if spec.scope == "system" else None,
        "folder": line(str(spec.state or spec.folder), f"the path {spec.state or spec.folder}"),
        "environment": [assignment(name, value) for name, value in sorted(spec.environment.items())],
        "unset": list(spec.unset),
        "secrets": secrets,
        "exec_start": command_line(spec.argv),
        "before": _before(spec, modprobe, trial=trial),
        "ready": command_line(waiting_words(spec)),
        "start_timeout": math.ceil(spec.readiness.timeout) + _POST_GRACE,
        "stop_timeout": math.ceil(spec.stop_timeout),
        "restart_delay": f"{spec.restart_delay:g}",
        "restart_most": f"{spec.restart_most:g}" if version >= _STEPS_SINCE else None,
        "limits": _limits(spec),
        "folders": _managed_folders(spec),
        "settings": [
            (name, value)
            for name, value in hardening.settings(spec, groups, version=version)
            if version >= _KNOWN_SINCE.get(name, 0)
        ],
    }
    return environment.get_template("systemd/service.j2").render(values)


def _before(spec: ServiceSpec, modprobe: str | None, *, trial: bool) -> list[str]:
    """Return what runs before the engine: the GPU's nodes made, and for a trial opened."""
    if not spec.devices:
        return []
    # With full rights (+): the service itself may gain none; without it a GPU that nobody has used since the boot is
    # not there. That it fails is told by the engine (-).
    made = [f"-+{command_line((modprobe, '-u', '-c=0'))}"] if modprobe is not None and spec.scope == "system" else []
    return made + ([command_line(("/bin/sh", "-c", _OPEN, "devices", *spec.devices))] if trial else [])


def waiting_words(spec: ServiceSpec) -> list[str]:
    """Return the command that ends with 0 once the service answers; MAINPID in its environment is the engine's."""
    ready = spec.readiness
    if ready.interpreter is not None and ready.waiting is not None:
        words = [str(ready.interpreter), "-I", "-S", str(ready.waiting), "--host", spec.reachable_host]
        return [*words, "--port", str(spec.port), "--path", ready.path, "--timeout", f"{ready.timeout:g}"]
    return ["/bin/sh", "-c", _POLL, "ready", *ready.probe]


def _limits(spec: ServiceSpec) -> list[tuple[str, str]]:
    limits = spec.limits
    found = [("LimitNOFILE", limits.open_files), ("LimitMEMLOCK", limits.locked_memory)]
    found.append(("MemoryMax", limits.memory_max))
    return [(name, str(value)) for name, value in found if value is not None]


def _managed_folders(spec: ServiceSpec) -> list[tuple[str, str]]:
    """Return the folders that systemd makes, hands to the service's user, and can clean away again."""
    if spec.scope != "system":
        return []
    found = []
    if spec.state is not None:
        found += [("StateDirectory", spec.state.name), ("StateDirectoryMode", "0750")]
    if spec.cache is not None:
        name = spec.cache.name
        nested = [name]
        for folder in spec.cache_folders:
            parts = folder.split("/")
            nested += ["/".join([name, *parts[: depth + 1]]) for depth in range(len(parts))]
        found += [("CacheDirectory", " ".join(dict.fromkeys(nested))), ("CacheDirectoryMode", "0750")]
    return found


def is_ours(unit_text: str) -> bool:
    """Tell whether a unit's text is one of ours, by its first line."""
    return unit_text.startswith(MARKER)


def shell_words(words: list[str]) -> str:
    """Return a command as it is typed."""
    return shlex.join(words)
