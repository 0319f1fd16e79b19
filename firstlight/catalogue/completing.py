"""Fills in what follows for a build from its CUDA line and from its torch, so that each figure is written once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from firstlight.catalogue.types import Build, CudaLine, TorchLine


def completed(build: Build, lines: Mapping[str, CudaLine], torches: Sequence[TorchLine]) -> Build:
    """Return the build with drivers, C library, Pythons and torch's capabilities filled in.

    Raises:
        ValueError: its CUDA line or its torch is not in the catalogue, or a version is none.
    """
    torch = _torch_of(build, torches)
    cudas = [cuda for cuda in (build.cuda, torch.cuda if torch is not None and build.cuda else None) if cuda]
    unknown = [cuda for cuda in cudas if cuda not in lines]
    if unknown:
        raise ValueError(f"cuda.toml has no line {unknown[0]}")
    drivers, native = [lines[cuda].driver for cuda in cudas], [lines[cuda].native_driver for cuda in cudas]
    if torch is None:
        libc, pythons = build.libc, build.pythons
    else:
        libc = max((build.libc or torch.libc, torch.libc), key=_numbers)
        pythons = [minor for minor in build.pythons or torch.pythons if minor in torch.pythons]
    return msgspec.structs.replace(
        build,
        torch_cuda=torch.cuda if torch is not None else None,
        driver=build.driver or (max(drivers, key=_numbers) if drivers else None),
        native_driver=build.native_driver or (max(native, key=_numbers) if native else None),
        libc=libc,
        pythons=pythons,
        companions={**(torch.companions if torch is not None else {}), **build.companions},
        torch_capabilities=torch.capabilities if torch is not None else None,
        torch_ptx=torch.ptx if torch is not None else None,
    )


def _torch_of(build: Build, torches: Sequence[TorchLine]) -> TorchLine | None:
    if build.torch is None:
        return None
    for line in torches:
        if line.release == build.torch and line.local == build.torch_local and line.arch == build.arch:
            return line
    raise ValueError(f"torch.toml has no torch {build.torch_version} for {build.arch}")


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f'"{version}" is no version: it must be numbers and dots')
    return tuple(int(part) for part in parts)
