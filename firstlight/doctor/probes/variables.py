"""The environment variables that decide about engines and downloads, without the secrets in them."""

from __future__ import annotations

import re

import msgspec

from firstlight.doctor.looking import Look

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_OTHERS = (
    "CC",
    "CONDA_PREFIX",
    "CUDA_HOME",
    "CUDA_VISIBLE_DEVICES",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "NVIDIA_VISIBLE_DEVICES",
    "PYTHONHOME",
    "PYTHONPATH",
    "TMPDIR",
    "VIRTUAL_ENV",
    "XDG_RUNTIME_DIR",
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@|^[^/@:\s]+:[^/@\s]+@")


class Variables(msgspec.Struct, frozen=True, kw_only=True):
    """The variables that are set, by name."""

    values: tuple[tuple[str, str], ...] = ()

    def get(self, name: str) -> str | None:
        """Return a variable's value, None where it is not set or empty."""
        return next((value for key, value in self.values if key == name and value), None)

    def proxy(self, kind: str) -> str | None:
        """Return a proxy (`http_proxy`, …) in either spelling; the lower-case one wins, as in curl and requests."""
        return self.get(kind) or self.get(kind.upper())


def read(look: Look) -> Variables:
    """Return the variables that count; passwords in proxy addresses are left out."""
    return parse(dict(look.system.environment))


def parse(environment: dict[str, str]) -> Variables:
    """Return the variables that count out of a whole environment."""
    names = [*PROXIES, *(name.upper() for name in PROXIES), *_OTHERS]
    return Variables(
        values=tuple((name, _CREDENTIALS.sub("", environment[name])) for name in names if name in environment)
    )
