"""Builds one environment at its final place: the interpreter, then the wheels, then the metadata."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.environments.conda import CondaPackage, create_prefix
from firstlight.environments.direct_wheels import fetch_direct
from firstlight.environments.distributions import InstalledPackage, add_metadata_shim, canonical, python_minor
from firstlight.environments.locking.conda_files import from_canonical, specs_of, stock
from firstlight.environments.pipconfig import PipSettings, network_variables
from firstlight.environments.platforms import conda_overrides
from firstlight.environments.spec import EnvironmentSpec
from firstlight.environments.venvs import create_venv
from firstlight.environments.wheels import install_wheels, repair_wheels
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.home import Home


class Phase(Step):
    """A part of a step: its bytes are counted on top of what the step has done before."""

    def __init__(self, step: Step) -> None:
        super().__init__(step.reporter, step.id, step.what)
        self._whole = step
        self._before = step.bytes

    def progress(
        self, done: int, total: int | None = None, unit: Literal["bytes", "items"] = "bytes", detail: str = ""
    ) -> None:
        """Say how far this part is."""
        if unit == "bytes":
            done += self._before
            total = None if total is None else total + self._before
        self._whole.progress(done, total, unit, detail)


class Contents(msgspec.Struct, frozen=True):
    """What an environment was built of."""

    conda: list[CondaPackage]
    wheels: list[InstalledPackage]


def assemble(
    prefix: Path,
    spec: EnvironmentSpec,
    home: Home,
    settings: PipSettings,
    *,
    step: Step,
    log: Path,
    hold: tuple[int, ...],
    suspicious: bool,
) -> Contents:
    """Build the environment that `spec` describes in `prefix`, and return what it was built of.

    Args:
        prefix: where; it can never be moved afterwards.
        spec: what.
        home: whose caches are used.
        settings: the user's pip configuration.
        step: takes the progress of all parts.
        log: file for what the parts say.
        hold: descriptors that every program keeps open.
        suspicious: check every file against its hash, because an equal environment is being replaced; cached wheels
            that turn out damaged are fetched again.

    Raises:
        FirstlightError: see `create_prefix`, `create_venv` and `install_wheels`.
    """
    python = prefix / "bin" / "python"
    conda: list[CondaPackage] = []
    if spec.kind == "conda":
        conda = _conda(prefix, spec, home, settings, step=step, log=log, hold=hold)
    else:
        create_venv(
            prefix, spec.python_path or spec.python, cache=home.wheel_cache, step=Phase(step), log=log, hold=hold
        )
    if python_minor(python) != spec.python:
        raise FirstlightError(
            f"the environment has Python {python_minor(python)}, not {spec.python}",
            why=f"it was made of {spec.python_path or ', '.join(spec.conda_specs)}",
            fix=f"name another Python: --python {python_minor(python)}",
        )
    wheels = _wheels(python, spec, home, settings, step=step, log=log, hold=hold, suspicious=suspicious)
    for name, version in spec.shims:
        add_metadata_shim(python, name, version)
    return Contents(conda, wheels)


def _conda(
    prefix: Path,
    spec: EnvironmentSpec,
    home: Home,
    settings: PipSettings,
    *,
    step: Step,
    log: Path,
    hold: tuple[int, ...],
) -> list[CondaPackage]:
    """Make the conda part: of the very packages of a lock, else of what a solver finds in the channels."""
    variables = network_variables(settings, os.environ) | conda_overrides(spec.wheels.platform)
    specs, channels = spec.conda_specs, spec.channels
    if spec.conda_locked:
        archives = home.conda_cache / "archives"
        channels = (stock(spec.conda_locked, spec.channels, archives, settings, step=Phase(step)),)
        specs = specs_of(spec.conda_locked)
    made = create_prefix(
        prefix, specs, channels, home.conda_cache, step=Phase(step), log=log, hold=hold, variables=variables
    )
    return from_canonical(made, channels[0], prefix) if spec.conda_locked else made


def _wheels(
    python: Path,
    spec: EnvironmentSpec,
    home: Home,
    settings: PipSettings,
    *,
    step: Step,
    log: Path,
    hold: tuple[int, ...],
    suspicious: bool,
) -> list[InstalledPackage]:
    if not spec.wheels.wishes:
        return []

    kept = home.wheel_cache.with_name("files")
    direct = fetch_direct(spec.wheels, settings, kept, python=spec.python, step=Phase(step))

    def install(reinstall: list[str]) -> list[InstalledPackage]:
        return install_wheels(
            python,
            direct.wheels,
            settings,
            home.wheel_cache,
            step=Phase(step),
            log=log,
            hold=hold,
            expected_bytes=spec.expected_download or None,
            reinstall=reinstall,
        )

    installed = install([])
    bad = repair_wheels(python, home.wheel_cache, step=step, log=log, hold=hold) if suspicious else []
    if bad:
        again = {canonical(package.name): package for package in install(bad)}
        installed = [again.get(canonical(package.name), package) for package in installed]
    return direct.told(installed)
