"""A box with firstlight in it, and an engine that is set up: the machine on which services are installed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path

from support import honest_engine
from support.command import REPOSITORY
from support.fake_ollama import unpack
from support.systemd_box import Box

from firstlight.catalogue.loading import load_catalogue
from firstlight.environments.generations import Store
from firstlight.environments.spec import Generation, write_manifest
from firstlight.events import silent, step
from firstlight.home import Home
from firstlight.serving.services.supervisor import SupervisorManager

HOME = "/var/lib/firstlight"
MODEL = "/srv/models/a model 100% good"
ENGINE = "transformers"
PORT = 8123


class ServiceMachine:
    """A box; `firstlight` runs in it as root, or as a user."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.python = sys.executable

    def firstlight(
        self, *words: str, check: bool = True, user: str | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of firstlight inside."""
        script = shlex.join([self.python, "-m", "firstlight", *words])
        more = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore", **variables}
        return self.box.run(f"cd / && {script}", check=check, user=user, seconds=300, **more)

    def status(self, name: str = ENGINE, **more: str) -> dict[str, object]:
        """Return what `service.status --json` prints."""
        ended = self.firstlight("service.status", name, "--json", check=False, **more)
        assert ended.stdout, ended.stderr
        found: dict[str, object] = json.loads(ended.stdout)
        return found

    def ask(self, path: str = "/health", port: int = PORT) -> str:
        """Return what the service answers, by the box's own perl: it has no curl; empty where nothing does."""
        program = (
            "use IO::Socket::INET; my ($p, $path) = @ARGV; "
            'my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => $p, Timeout => 5) or exit 1; '
            'print $s "GET $path HTTP/1.0\\r\\nHost: 127.0.0.1\\r\\n\\r\\n"; local $/; '
            "my $a = <$s>; $a =~ s/^.*?\\r\\n\\r\\n//s; print $a;"
        )
        ended = self.box.run(f"perl -e '{program}' {port} {path}", check=False)
        return ended.stdout

    def wait_for(self, seen: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something is seen; the time only guards against waiting for ever."""
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, self.box.run("journalctl --no-pager -n 60", check=False).stdout
            time.sleep(0.05)

    def behave(self, how: str | None) -> None:
        """Say what the engine does from its next start on."""
        note = self.box.path(MODEL) / "behaviour"
        note.unlink(missing_ok=True)
        if how is not None:
            note.write_text(how)

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Return what systemctl prints."""
        return self.box.run(f"systemctl {' '.join(words)}", check=check).stdout.strip()


def furnish(box: Box, *, home: str = HOME) -> ServiceMachine:
    """Put firstlight, an engine's environment and a model into a box that is not booted yet."""
    show_python(box)
    add_generation(box, "first", home=home, current=True)
    folder = box.path(MODEL)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / "tokenizer.json").write_text("{}")
    # Root's own folder is closed in Debian; the interpreter of these tests may lie in it.
    box.path("/root").chmod(0o711)
    return ServiceMachine(box)


def furnish_supervisor(box: Box, *, home: str = HOME) -> None:
    """Put the supervisor's own program into the box's home, as an earlier service has left it."""
    with tempfile.TemporaryDirectory() as place:
        manager = SupervisorManager(Home(Path(place) / "home"))
        with step(silent, "supervisor", "supervisor") as current:
            manager.place.prepare(current)
        shutil.copytree(manager.place.folder / "site", box.path(f"{home}/supervisor/site"))


_ASK = "import sys, sysconfig; print(sys.base_prefix, sysconfig.get_path('stdlib'), sep='\\n')"


def show_python(box: Box, *more: Path) -> None:
    """Show the interpreter of the tests, and others, with their libraries and the project, at their own places."""
    shown = {REPOSITORY, Path(sys.prefix)}
    needed = []
    for interpreter in (Path(sys.executable), *more):
        asked = subprocess.run([str(interpreter), "-c", _ASK], capture_output=True, text=True, check=True).stdout
        base, library = (Path(line) for line in asked.split("\n")[:2])
        real = interpreter.resolve()
        if base == Path("/usr"):  # of the system: its own folders alone, the box has its own /usr
            shown.add(library)
            for name in {real, *_links(interpreter)}:
                box.bind(real, name)
        else:
            shown.add(base)
        needed += [real, *sorted((library / "lib-dynload").glob("*.so"))]
    for folder in sorted(shown):
        if not any(folder != other and folder.is_relative_to(other) for other in shown):
            box.bind(folder)
    listed = subprocess.run(["ldd", *map(str, needed)], capture_output=True, text=True, check=False).stdout
    libraries = [Path(name) for name in sorted(set(re.findall(r"=> (/\S+) \(", listed)))]
    if next(box.path("/lib").glob("*-linux-gnu/libc-2.*.so"), None) is not None:
        _lend_loader(box, [Path(sys.executable).resolve(), *(each.resolve() for each in more)], libraries)
        return
    for library in libraries:
        if not box.path(library).exists() and not any(library.is_relative_to(folder) for folder in shown):
            box.bind(library)


_OF_C = ("c", "m", "dl", "rt", "util", "pthread", "resolv", "nss_files", "nss_dns", "gcc_s", "stdc++")


def _lend_loader(box: Box, interpreters: list[Path], libraries: list[Path]) -> None:
    """Let interpreters of this machine run where the C library is older: with this machine's own, by its loader."""
    lent = Path("/opt/lent")
    outside = box.path(lent)
    outside.mkdir(mode=0o755, parents=True, exist_ok=True)
    (loader,) = Path("/lib64").glob("ld-linux*.so.*")
    # Its wheels may name what the C library holds itself by now.
    parts = (each for name in _OF_C for each in loader.resolve().parent.glob(f"lib{name}.so.[0-9]"))
    for library in [*libraries, *parts, loader]:
        shutil.copy2(library.resolve(), outside / library.name)
    for number, interpreter in enumerate(interpreters):
        shutil.copy2(interpreter, outside / f"python{number}")
        words = f'exec {lent}/{loader.name} --library-path {lent} --argv0 "$0" {lent}/python{number} "$@"'
        starter = box.place / f"python{number}"
        starter.write_text(f"#!/bin/sh\n{words}\n")
        starter.chmod(0o755)
        box.bind(starter, interpreter)


def _links(interpreter: Path) -> list[Path]:
    """Return the links in /usr/bin on the way from an interpreter to its program."""
    found = []
    while interpreter.is_symlink():
        interpreter = interpreter.parent / interpreter.readlink()
        if interpreter.parent == Path("/usr/bin") and interpreter.is_symlink():
            found.append(interpreter)
    return found


def add_generation(
    box: Box, name: str, *, behaviour: str = "honest", home: str = HOME, current: bool = False,
    engine: str = ENGINE, module: str = "transformers.cli.transformers",
) -> str:  # fmt: skip
    """Make an environment of the engine in the box's home as `setup` would have; returns its id."""
    entry = load_catalogue().engines[engine]
    build = next(build for build in entry.build if build.cuda is None)
    generation = f"{build.id}-{name}"
    inside = Path(home, "environments", engine, generation)
    outside = box.path(inside)
    outside.parent.mkdir(parents=True, exist_ok=True)
    venv.EnvBuilder(symlinks=True, with_pip=False).create(outside)
    honest_engine.write(outside, behaviour, module)
    manifest = Generation(
        engine=engine, id=generation, build=build.id, kind="venv", python="3.11", prefix=inside, state="proven",
        created=f"2026-11-23T00:00:0{len(list(outside.parent.iterdir())) % 10}Z",
    )  # fmt: skip
    write_manifest(outside, manifest)
    box.put(f"{home}/firstlight-home.json", '{"schema": "firstlight.home/1"}\n')
    if current:
        Store(Home(box.path(home)), engine).switch(manifest)
    return generation


def add_release(box: Box, release: str = "0.35.1", *, home: str = HOME) -> None:
    """Unpack a release of (a small) Ollama in the box's home as `ollama.install` would have, and make it current."""
    entry = load_catalogue().engines["ollama"]
    build = next(build for build in entry.build if build.release == release and build.cuda is None)
    inside = Path(home, "ollama", release)
    unpack(box.path(inside), release)
    manifest = Generation(
        engine="ollama", id=release, build=build.id, kind="archive", python="", prefix=inside, state="proven",
        created="2026-11-23T00:00:00Z",
    )  # fmt: skip
    write_manifest(box.path(inside), manifest)
    (box.path(home) / "ollama" / "current").symlink_to(release)
