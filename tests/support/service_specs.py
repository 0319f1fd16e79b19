"""Descriptions of services that stand for every kind of unit that the templates can make."""

from __future__ import annotations

from pathlib import Path

from firstlight.serving.services.spec import Readiness, ServiceSpec

HOME = Path("/var/lib/firstlight")
GPU = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia0")


def spec(**changes: object) -> ServiceSpec:
    """A service of the system on a GPU; `changes` are its fields."""
    values: dict[str, object] = {
        "name": "chat",
        "engine": "vllm",
        "scope": "system",
        "folder": HOME / "services" / "chat",
        "generation": "vllm-1.0-cu129-01234567",
        "link": HOME / "environments" / "vllm" / "current",
        "model": "owner/name",
        "model_path": HOME / "models" / "hub" / "a model 100%",
        "model_id": "name",
        "port": 8000,
        "argv": ("/usr/bin/true", "-m", "vllm", "serve", str(HOME / "models" / "hub" / "a model 100%")),
        "environment": {"PATH": "/usr/bin:/bin", "HOME": "/var/lib/firstlight-chat"},
        "unset": ("PYTHONPATH",),
        "secrets": HOME / "services" / "chat" / "environment",
        "user": "firstlight",
        "cache": Path("/var/cache/firstlight-chat"),
        "cache_folders": ("huggingface/hub",),
        "state": Path("/var/lib/firstlight-chat"),
        "devices": GPU,
        "readiness": Readiness(
            path="/health", timeout=420.5, interpreter=Path("/usr/bin/true"), waiting=HOME / "services/chat/ready.py"
        ),
    }
    return ServiceSpec(**(values | changes))  # type: ignore[arg-type]


def every_kind() -> dict[str, ServiceSpec]:
    """One service for each unit that the templates can make, by a name of its own."""
    found = {}
    for scope in ("system", "user"):
        for hardening in ("basic", "strict"):
            for devices in ((), GPU):
                for host in ("127.0.0.1", "0.0.0.0"):
                    kind = spec(scope=scope, hardening=hardening, devices=devices, host=host)
                    where = "gpu" if devices else "cpu"
                    found[f"{scope}-{hardening}-{where}-{'near' if kind.loopback else 'wide'}"] = kind
    found["system-basic-gpu-probe"] = spec(readiness=Readiness(path="/", timeout=30.0, probe=("/usr/bin/true", "list")))
    found["system-strict-gpu-home"] = spec(
        hardening="strict", model_path=Path("/root/a model"), writable=(Path("/home/someone/models"),)
    )
    return found
