"""The pip layer: wheels installed into an environment by uv, from the sources that pip would use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from firstlight.environments.distributions import (
    InstalledPackage,
    add_metadata_shim,
    canonical,
    damaged,
    freeze,
    prefix_of,
    python_minor,
)
from firstlight.environments.origins import Sources, with_origins
from firstlight.environments.owning import DirectWheel, Owned, companion_lines
from firstlight.environments.pipconfig import PipSettings, without_credentials
from firstlight.environments.platforms import arch_of, libc_of
from firstlight.environments.uv_errors import explain, failed_address, failed_wheel, is_network_failure
from firstlight.environments.uv_program import UvResult, find_uv, run_uv
from firstlight.environments.wheelset import (
    WheelSet,
    install_words,
    locked_file,
    locked_words,
    needs_no_index,
    sources_of,
    wish_files,
    without_place,
)
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.files import write_atomic
from firstlight.machine.space import says_full

__all__ = [
    "DirectWheel",
    "InstalledPackage",
    "Owned",
    "WheelSet",
    "add_metadata_shim",
    "find_uv",
    "freeze",
    "install_wheels",
    "repair_wheels",
]

_CHANGED = re.compile(r"^ [+~] ([^=@\s]+)(?:==(\S+)|@(\S+))?(?: \(from (.+)\))?$")
_SUM = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_UNPACKED = 3  # wheels grow about this much when they are unpacked (measured on the sets of torch and its kin)


def install_wheels(
    python: Path,
    wheels: WheelSet,
    settings: PipSettings,
    cache: Path,
    *,
    step: Step,
    log: Path,
    hold: tuple[int, ...] = (),
    expected_bytes: int | None = None,
    reinstall: Sequence[str] = (),
) -> list[InstalledPackage]:
    """Install a wheel set into an environment and return what was installed, with where each wheel came from.

    Wheels are checked against the hashes of the set and of the index. Cached ones are not fetched again. An extra index
    that does not answer is left out, loudly, as pip does; the default index must answer.

    Args:
        python: `PREFIX/bin/python` of the environment; nothing outside PREFIX and `cache` is written.
        wheels: what to install.
        settings: the user's pip configuration.
        cache: uv's cache; on the filesystem of the environment its files are hard links.
        step: takes the progress, in bytes.
        log: file that uv's messages are appended to.
        hold: descriptors that uv keeps open.
        expected_bytes: bytes to download, until uv knows better.
        reinstall: distributions to install again, though they are there.

    Raises:
        VerificationFailed: a wheel is not the one that was promised, or is damaged.
        NetworkFailed: a source did not deliver; every source is named.
        FirstlightError: no set of versions fits, no room, not an environment, or anything else that uv says.
    """
    minor = python_minor(python)
    if wheels.python_version and wheels.python_version != minor:
        raise FirstlightError(
            f"the environment {prefix_of(python)} has Python {minor}, the wheels are for {wheels.python_version}",
            fix="build it again: firstlight setup.repair",
        )
    cache.mkdir(parents=True, exist_ok=True)
    work = _Work(python, settings, cache, step, log, hold, expected_bytes, tuple(reinstall))
    installed: dict[str, InstalledPackage] = {}
    for install in ([work.install_locked] if wheels.locked else []) + ([] if wheels.whole else [work.install]):
        result, sources = install(wheels)
        if result.returncode != 0:
            lock = wheels.lock_file if install == work.install_locked else None
            failure = explain(
                result.messages,
                what=f"the lock {lock}" if lock else ", ".join(wheels.wishes[:3]),
                sources=[*sources.owners, *sources.names],
                prefix=prefix_of(python),
                cache=cache,
                needed=expected_bytes * _UNPACKED if expected_bytes else None,
            )
            if lock and lock not in failure.what:
                failure.why = f"{failure.why} (held by the lock {lock})"
            if wheels.locked and not failure.what.startswith("no room"):  # there would be none either
                failure.fix = f"{failure.fix or 'run it again'}; or resolve afresh instead of the lock: add --unlocked"
            raise failure
        changed = with_origins(_changed(result.messages), python, sources, cache, hold)
        sums = work.sums if install == work.install_locked else {}
        installed |= {package.name: _with_sum(package, sums) for package in changed}
    return list(installed.values())


class _Work:
    """One installation: uv is run until it is done, or until no place is left that could stand in for a failed one."""

    def __init__(
        self,
        python: Path,
        settings: PipSettings,
        cache: Path,
        step: Step,
        log: Path,
        hold: tuple[int, ...],
        expected: int | None,
        reinstall: tuple[str, ...],
    ) -> None:
        self.python, self.settings, self.cache, self.log, self.hold = python, settings, cache, log, hold
        self.step, self.expected = step, expected
        self.reinstall = [word for name in reinstall for word in ("--reinstall-package", name)]
        self.linking = {} if "UV_LINK_MODE" in os.environ else _link_mode(prefix_of(python), cache, step)
        self.silent: list[str] = []
        self.sums: dict[str, str] = {}
        """Of what is fetched by its address: the sum that its bytes were held against, which uv does not tell."""

    def install(self, wheels: WheelSet) -> tuple[UvResult, Sources]:
        """Run uv and return how it ended, with the sources of the last run."""
        further = False
        while True:
            held = self._write(wheels, further=further)
            sources = sources_of(wheels, self.settings, self.silent)
            result = self._run(wheels, sources)
            if result.returncode == 0:
                return result, sources
            other = self._other_place(wheels, result)
            if other is not None:
                wheels = other
            elif not further and any(line in " ".join(result.messages) for line in held):
                further = True  # something does ask for a companion that its owner's listing lacks
            elif not self._leave_out(sources, result):
                return result, sources

    def install_locked(self, wheels: WheelSet) -> tuple[UvResult, Sources]:
        """Install the lines of a lock and return how it ended, with the sources of the last run."""
        file = locked_file(prefix_of(self.python))
        while True:
            write_atomic(file, "".join(f"{line}\n" for line in self._addressed(wheels)))
            sources = sources_of(wheels, self.settings, self.silent)
            words = [*locked_words(self.python, wheels), *self.reinstall, *sources.arguments]
            result = self._uv(words, sources)
            if result.returncode == 0:
                return result, sources
            other = self._other_place(wheels, result)
            if other is not None:
                wheels = other
            elif not self._leave_out(sources, result):
                return result, sources

    def _addressed(self, wheels: WheelSet) -> list[str]:
        """Return the lines of a lock, those that others than the registry own with the addresses of their files.

        What its owner's listing lacks keeps its bare line: that fails with its name, unless the registry has it.
        """
        owned = {item.name: item for item in wheels.owned}
        direct = {item.name: item for item in wheels.direct}
        named = {line: line.partition("==")[0] for line in wheels.locked}
        lines = companion_lines(
            [owned[name] for name in named.values() if name in owned],
            self.settings,
            python=python_minor(self.python),
            arch=arch_of(wheels.locked_platform),
            libc=libc_of(wheels.locked_platform),
            further=True,
        )
        lines |= {name: direct[name].requirement for name in named.values() if name in direct}
        known = {name: _sum_of(line, lines.get(name, "")) for line, name in named.items()}
        self.sums = {name: value for name, value in known.items() if value}
        return [_with_address(line, lines.get(name)) for line, name in named.items()]

    def _write(self, wheels: WheelSet, *, further: bool) -> list[str]:
        """Write the wish files; returns the companions that are held to a version because no file of them is known."""
        held: list[str] = []
        for wish in wish_files(wheels, prefix_of(self.python), without_index=needs_no_index(wheels, self.settings)):
            content = wish.content
            if content is None:
                lines = companion_lines(
                    wheels.companions,
                    self.settings,
                    python=python_minor(self.python),
                    arch=arch_of(wheels.platform),
                    libc=libc_of(wheels.platform),
                    further=further,
                )
                held = [line for line in lines.values() if " @ " not in line]
                content = "".join(f"{line}\n" for line in lines.values())
            write_atomic(wish.file, content)
        return held

    def _run(self, wheels: WheelSet, sources: Sources) -> UvResult:
        return self._uv([*install_words(self.python, wheels), *self.reinstall, *sources.arguments], sources)

    def _uv(self, words: list[str], sources: Sources) -> UvResult:
        return run_uv(
            words,
            environment={**sources.variables, **self.linking},
            cache=self.cache,
            step=self.step,
            log=self.log,
            hold=self.hold,
            expected=self.expected,
            doing=f"asking {', '.join(_hosts([*sources.owners, *sources.names]))}",
        )

    def _other_place(self, wheels: WheelSet, result: UvResult) -> WheelSet | None:
        """Return the set with another place for what could not be fetched, or came wrong; not where a disk is full."""
        if says_full(" ".join(result.messages)):
            return None
        failed = failed_address(result.messages) if is_network_failure(result.messages) else None
        other = without_place(wheels, failed or failed_wheel(result.messages) or "")
        if other is None:
            return None
        changed, gone, instead = other
        self.step.warn(f"{gone} does not deliver: {instead} stands in for it")
        return changed

    def _leave_out(self, sources: Sources, result: UvResult) -> bool:
        """Leave an extra index of the user out that does not answer, as pip does; the default index must answer."""
        if not is_network_failure(result.messages):
            return False
        address = without_credentials(failed_address(result.messages) or "")
        extra = next((name for name in sources.names[1:] if _under(address, name)), None)
        if extra is None or extra in self.silent or any(_under(address, owner) for owner in sources.owners):
            return False
        self.step.warn(f"{extra} does not answer: it is left out")
        self.silent.append(extra)
        return True


def _with_address(line: str, address: str | None) -> str:
    """Return the line of a lock with the address of its file in place of its version; the lock's hashes hold it."""
    if address is None or " @ " not in address:
        return line
    return f"{address.partition('#')[0]} {line.partition(' ')[2]}"


def _sum_of(line: str, address: str) -> str | None:
    """Return the sum of the file that a line of a lock leads to, None where no page tells which of several it is."""
    told = address.partition("#sha256=")[2].lower()
    held = _SUM.findall(line)
    return held[0] if len(held) == 1 else next((value for value in held if value == told), None)


def _with_sum(package: InstalledPackage, sums: Mapping[str, str]) -> InstalledPackage:
    if package.sha256 is not None:
        return package
    return msgspec.structs.replace(package, sha256=sums.get(canonical(package.name)))


def _hosts(names: Sequence[str]) -> list[str]:
    """Return what a person calls the sources: the hosts of web addresses, folders as they are."""
    return list(dict.fromkeys(urlsplit(without_credentials(name)).netloc or name for name in names))


def _under(address: str, source: str) -> bool:
    return f"{address}/".startswith(f"{without_credentials(source).rstrip('/')}/")


def _link_mode(prefix: Path, cache: Path, step: Step) -> dict[str, str]:
    if prefix.stat().st_dev == cache.stat().st_dev:
        return {}
    step.note(f"the cache {cache} is on another filesystem than {prefix}: wheels are copied, not linked")
    return {"UV_LINK_MODE": "copy"}


def _changed(messages: Sequence[str]) -> list[InstalledPackage]:
    """Return what uv's lines ` + name==version` say."""
    found = []
    for line in messages:
        match = _CHANGED.match(line)
        if match and match[2]:
            source, _, fragment = (match[4] or "").partition("#")
            sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
            found.append(InstalledPackage(name=match[1], version=match[2], source=source or None, sha256=sha256))
    return found


def repair_wheels(python: Path, cache: Path, *, step: Step, log: Path, hold: tuple[int, ...] = ()) -> list[str]:
    """Forget cached wheels whose files in the environment do not match their RECORD; returns their names.

    An environment that was just built and does not match was linked from a damaged cache: install again after this.
    """
    names = sorted(damaged(python))
    if names:
        step.warn(f"damaged in the cache, fetched again: {', '.join(names)}")
        run_uv(["cache", "clean", *names], environment={}, cache=cache, step=step, log=log, hold=hold)
    return names
