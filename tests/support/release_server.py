"""A loopback server that hands out Ollama's releases as the project does: `vX.Y.Z/<asset>` and `vX.Y.Z/sha256sum.txt`.

The archives have the true layout; the program in them is a small fake (see `fake_ollama`).
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from support.fake_ollama import asset_name, build_archive
from support.faults import Faults
from support.faulty_route import Route
from support.faulty_server import FaultyServer, faulty_server

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
OTHER = {"amd64": "arm64", "arm64": "amd64"}[ARCH]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


class ReleaseServer:
    """The releases of one host; the archives are made in `folder` and may be used from there too."""

    def __init__(self, server: FaultyServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.url = server.url
        self._sums: dict[str, dict[str, str]] = {}

    def add(
        self,
        release: str,
        *,
        arch: str = ARCH,
        variant: str | None = None,
        faults: Faults | None = None,
        sums: bool = True,
        filler: int = 0,
        behaviour: Mapping[str, str] | None = None,
    ) -> Release:
        """Make an archive of a release and serve it; with `sums` the release's list of sums has it."""
        file = self.folder / f"v{release}" / asset_name(release, arch, variant)
        if not file.exists():
            file = build_archive(file.parent, release, arch, variant, filler=filler, behaviour=behaviour)
        return self.serve(release, file, faults=faults, sums=sums)

    def serve(self, release: str, file: Path, *, faults: Faults | None = None, sums: bool = True) -> Release:
        """Serve a file as an archive of a release."""
        route = self.server.add(f"/v{release}/{file.name}", file, faults)
        listed = self._sums.setdefault(release, {"Ollama.app.zip": "0" * 64, "OllamaSetup.exe": "1" * 64})
        if sums:
            listed[file.name] = sha256(file)
            text = "".join(f"{listed[name]}  ./{name}\n" for name in sorted(listed, reverse=True))
            self.server.add(f"/v{release}/sha256sum.txt", text.encode())
        return Release(file, sha256(file), route)


class Release:
    """One archive that is served."""

    def __init__(self, file: Path, digest: str, route: Route) -> None:
        self.file, self.sha256, self.route = file, digest, route


@contextlib.contextmanager
def release_server(folder: Path, host: str = "127.0.0.1") -> Iterator[ReleaseServer]:
    """Serve until the block ends; 127.0.0.2 and on are other hosts."""
    with faulty_server(host) as server:
        yield ReleaseServer(server, folder)
