"""The process that solves and installs conda packages: one JSON request on stdin, JSON lines on stdout.

A process of its own, because py-rattler 0.28 may crash when the interpreter ends, after all work is done: this one ends
in `os._exit`. It also keeps `import rattler` out of every other command, and can be stopped when a mirror hangs.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

_BEAT = 1.0  # seconds between looks at whether repodata still arrives


def tell(event: str, **values: Any) -> None:
    """Write one line for the parent."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


class Progress:
    """Takes rattler's callbacks (the structural protocol `InstallerReporter`) and tells bytes and links."""

    def __init__(self, total: int, packages: int) -> None:
        self.total = total
        self.packages = packages
        self.linked = 0
        self._done: dict[int, int] = {}
        self._told = 0.0

    def _tell(self, detail: str, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._told > 0.1:
            self._told = now
            tell("progress", done=sum(self._done.values()), total=self.total, detail=detail)

    def on_download_progress(self, download_idx: int, progress: int, total: int | None) -> None:
        """Take how far a download is, in bytes."""
        self._done[download_idx] = progress
        self._tell(f"downloading ({total or 0} bytes)" if not self.total else "downloading")

    def on_link_start(self, _operation: int, package_name: str) -> int:
        """Take that a package is being linked into the prefix."""
        self._tell(f"linking {package_name}", force=True)
        return self.linked

    def on_link_complete(self, _index: int) -> None:
        """Take that a package is linked."""
        self.linked += 1
        self._tell(f"{self.linked} of {self.packages} packages", force=True)

    def on_populate_cache_start(self, operation: int, _package_name: str) -> int:
        """Take that a package is wanted; the number that is returned stands for it from now on."""
        return operation

    def on_download_start(self, cache_entry: int) -> int:
        """Take that a package's download begins, perhaps once more."""
        return cache_entry

    def _number(self, *_arguments: object) -> int:
        return 0

    def _nothing(self, *_arguments: object) -> None:
        return None

    on_validate_start = on_unlink_start = on_post_link_start = on_pre_unlink_start = _number
    on_transaction_start = on_transaction_operation_start = on_validate_complete = on_download_completed = _nothing
    on_populate_cache_complete = on_unlink_complete = on_transaction_operation_complete = _nothing
    on_transaction_complete = on_post_link_complete = on_pre_unlink_complete = _nothing


def _size(folder: Path) -> int:
    total = 0
    for root, _folders, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(root) / name).stat().st_size
            except OSError:
                continue
    return total


def _beat(folder: Path, stop: threading.Event) -> None:
    """Tell that repodata still arrives, as long as files grow: the solver has no progress of its own."""
    seen = -1
    while not stop.wait(_BEAT):
        size = _size(folder)
        if size != seen:
            seen = size
            tell("alive")


def _package(record: Any) -> dict[str, Any]:
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "subdir": record.subdir,
        "url": record.url,
        "sha256": record.sha256.hex() if record.sha256 else None,
        "size": record.size,
        "file": record.file_name,
    }


async def _solve(request: dict[str, Any], client: Any) -> list[Any]:
    from rattler import Channel, Gateway, VirtualPackage, VirtualPackageOverrides, solve

    detected = VirtualPackage.detect(VirtualPackageOverrides.from_env())
    gateway = Gateway(cache_dir=Path(request["cache"]) / "repodata", client=client)
    channels = [Channel(channel) for channel in request["channels"]]
    virtual = [package.into_generic() for package in detected]
    records: list[Any] = await solve(channels, request["specs"], gateway=gateway, virtual_packages=virtual)
    return records


async def work(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Create the prefix that the request describes, and return its packages."""
    from rattler import Client, MatchSpec, install
    from rattler.package_cache import PackageCache, ValidationMode

    client = Client.default_client(max_retries=2)
    tell("phase", name="solve")
    stop = threading.Event()
    threading.Thread(target=_beat, args=(Path(request["cache"]) / "repodata", stop), daemon=True).start()
    records = await _solve(request, client)
    stop.set()
    store = Path(request["cache"]) / "pkgs"
    missing = [r for r in records if not (store / f"{r.name.normalized}-{r.version}-{r.build}").is_dir()]
    tell("phase", name="install")
    await install(
        records,
        Path(request["prefix"]),
        # Files of prefixes are hard links to the cache: one that was edited in place must not come into another prefix.
        package_cache=PackageCache.new_layered([store], validation_mode=ValidationMode.full()),
        client=client,
        show_progress=False,
        requested_specs=[MatchSpec(spec)._match_spec for spec in request["specs"]],  # noqa: SLF001 - 0.28 wants these
        reporter=Progress(sum(record.size or 0 for record in missing), len(records)),
    )
    return [_package(record) for record in records]


def main() -> int:
    """Do what the request on stdin, or as the one argument, says; 0 when it is done."""
    request = json.loads(sys.argv[1] if len(sys.argv) > 1 else sys.stdin.read())
    try:
        tell("result", packages=asyncio.run(work(request)))
    except Exception as error:  # noqa: BLE001 - whatever rattler raises is told to the parent, which knows what it means
        tell("error", kind=type(error).__name__, message=str(error))
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
