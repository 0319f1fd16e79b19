"""The tool itself in its home: a copy that still runs when the root disk is gone, without network."""

from __future__ import annotations

import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import firstlight
from firstlight.errors import FirstlightError
from firstlight.files import remove_tree, switch_symlink, write_atomic
from firstlight.home import Home
from firstlight.serving.services.hooks import launcher
from firstlight.serving.tool_archive import members

if TYPE_CHECKING:
    from importlib.metadata import Distribution

_PACKAGE = Path(firstlight.__file__).parent


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The tool in a home: how it is started, and whether it was copied now."""

    launcher: Path
    fresh: bool


def keep_tool(home: Home) -> Kept:
    """Copy the running tool with everything that it needs into the home, once per version; no network.

    Raises:
        FirstlightError: it runs from loose files, or the home cannot be written.
    """
    folder = home.root / "tool"
    if Path(sys.prefix).resolve().parent == folder.resolve():
        return Kept(launcher=launcher(home), fresh=False)
    parts = _distributions()
    name = _identity(parts)
    try:
        fresh = not (folder / name).is_dir()
        if fresh:
            _copy(parts, folder / name)
        switch_symlink(folder / "current", name)
        _write_launcher(home)
        for entry in folder.iterdir():
            if entry.is_dir() and not entry.is_symlink() and entry.name != name:
                remove_tree(entry)
    except OSError as error:
        raise FirstlightError(
            f"the tool cannot be kept in {folder}", why=error.strerror or str(error), fix=f"df -h {home.root}"
        ) from error
    return Kept(launcher=launcher(home), fresh=fresh)


def _write_launcher(home: Home) -> None:
    from firstlight.serving.templated import render

    text = render("kept-tool.sh.j2", python=_minor(), version=firstlight.__version__)
    write_atomic(launcher(home), text, 0o755)


def _minor() -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def _distributions() -> list[Distribution]:
    """Return the installed distributions that the tool needs, itself among them."""
    from importlib.metadata import PackageNotFoundError, distribution

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: dict[str, Distribution] = {}
    rest = ["firstlight"]
    while rest:
        name = rest.pop()
        if name in found:
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError as error:
            raise FirstlightError(
                "this firstlight cannot be copied into its home",
                why=f"it runs from loose files: the package {name} is not installed here",
                fix="start it by scripts/firstlight, or install its wheel",
            ) from error
        wanted = [Requirement(text) for text in _requirements(found[name])]
        rest += [
            canonicalize_name(each.name)
            for each in wanted
            if each.marker is None or each.marker.evaluate({"extra": ""})
        ]
    return [found[name] for name in sorted(found)]


def _requirements(part: Distribution) -> list[str]:
    """Return what a distribution needs; in a checkout its pyproject.toml may be newer than what is installed of it."""
    project = _PACKAGE.parent / "pyproject.toml"
    if part.metadata["Name"] != "firstlight" or not project.is_file():
        return part.requires or []
    import tomli

    needed: list[str] = tomli.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    return needed


def _identity(parts: list[Distribution]) -> str:
    """Return a name that changes with any file of ours and any version of another package."""
    digest = sha256("".join(f"{part.metadata['Name']} {part.version}\n" for part in parts).encode())
    digest.update(f"{sys.version_info[:2]} {os.uname().machine}".encode())
    for name, file in sorted(members()):
        digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def _copy(parts: list[Distribution], target: Path) -> None:
    """Make a virtual environment of copies; it appears whole."""
    staging = target.with_name(f".making-{os.getpid()}")
    remove_tree(staging)
    site = staging / "lib" / f"python{_minor()}" / "site-packages"
    site.mkdir(parents=True)
    (staging / "bin").mkdir()
    try:
        for part in parts:
            _copy_distribution(part, site, staging)
        for name, file in members():
            place = site / name if name.startswith("firstlight/") else site / "firstlight" / "_data" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
        base = Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()
        (staging / "bin" / "python").symlink_to(base)
        (staging / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy_distribution(part: Distribution, site: Path, staging: Path) -> None:
    """Copy the files of a distribution to the same places; for ours only its description, the rest is copied whole."""
    ours = part.metadata["Name"] == "firstlight"
    for file in part.files or []:
        source = Path(str(part.locate_file(file)))
        target = Path(os.path.normpath(site / file))
        wanted = not ours or ".dist-info" in str(file)
        if wanted and source.suffix != ".pyc" and target.is_relative_to(staging) and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(source, target)  # packages are replaced, never written to in place
            except OSError:  # another disk, or files of another user
                shutil.copy2(source, target)
