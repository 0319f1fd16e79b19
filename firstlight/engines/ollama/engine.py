"""Ollama as an engine: a release's archive for an environment, and a server that keeps models of its own."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec

from firstlight.engines.base import Serving, ServingRequest, Work
from firstlight.engines.ollama import models, serving
from firstlight.engines.ollama.installing import ReleaseWish, provide_release
from firstlight.engines.ollama.program import PROGRAM, says
from firstlight.environments.archives import ArchiveStore
from firstlight.environments.preview import PlannedFile, Preview
from firstlight.environments.spec import MANIFEST, Generation
from firstlight.errors import UsageError
from firstlight.events import Step
from firstlight.home import Home
from firstlight.models.provide import ServedModel
from firstlight.planning.plan import Launch


class Ollama:
    """Ollama's own server."""

    name = "ollama"
    layouts: tuple[str, ...] = ("gguf", models.LAYOUT)

    def store(self, home: Home) -> ArchiveStore:
        """Return where its versions lie."""
        return ArchiveStore(home, self.name)

    def environment(self, work: Work, step: Step) -> Generation:
        """Return a version of the build's release, unpacked beside the others."""
        present = self._present(work)
        if present is not None:
            step.reused(present.id)
            return present
        wish = ReleaseWish(build=work.build, afresh=work.afresh, here=work.here)
        return provide_release(wish, self.store(work.home), step=step, hold=work.hold).generation

    def _present(self, work: Work) -> Generation | None:
        """Return a whole version of the release that has the build's archives: the current one, else the newest.

        Builds of one release share archives: another one needs nothing new. A copy elsewhere counts where it is in use.
        """
        store, wanted = self.store(work.home), {asset.name for asset in work.build.assets}
        current = None if work.afresh else store.current()
        if current is not None and current.kind == "adopted" and current.release == work.build.release:
            return None if current.problems else current
        whole = [
            item
            for item in ([] if work.afresh else store.list())
            if item.release == work.build.release and item.kind == "archive" and item.state != "building"
            if not item.problems and wanted <= {archive.name for archive in item.archives}
        ]
        latest = whole[-1] if whole else None
        return next((item for item in whole if current is not None and item.id == current.id), latest)

    def foresee(self, work: Work) -> Preview:
        """Return what `environment` would write: archives in the downloads, a version beside the others, one link."""
        store, build = self.store(work.home), work.build
        if self._present(work) is not None:
            return Preview(files=[], commands=[])
        downloads = work.home.downloads / self.name / build.release
        version = store.folder / build.release
        paths = [*(downloads / asset.name for asset in build.assets), version / MANIFEST, version / PROGRAM]
        files = [PlannedFile(path=str(path)) for path in paths]
        files[-1] = msgspec.structs.replace(files[-1], mode="0755")
        files.append(PlannedFile(path=str(store.folder / "current"), mode="0777"))
        return Preview(files=files, commands=[])

    def describe_adopted(self, prefix: Path, home: Home, now: str) -> Generation:
        """Return the generation that would stand for a copy that is there already.

        Raises:
            UsageError: there is none, it does not run, or it is one of ours.
        """
        release = _release_of(prefix)
        self._refuse_own(prefix, home)
        whole = prefix.expanduser().absolute()
        name = f"adopted-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]}"
        return Generation(
            engine=self.name,
            id=name,
            build=name,
            kind="adopted",
            python="",
            prefix=whole,
            state="built",
            created=now,
            release=release,
            program=PROGRAM,
        )

    def adopt(self, prefix: Path, home: Home) -> Generation:
        """Take a copy of Ollama that lies elsewhere; it is never written into."""
        return self.store(home).adopt(prefix, PROGRAM, _release_of(prefix))

    def _refuse_own(self, prefix: Path, home: Home) -> None:
        if prefix.expanduser().resolve().is_relative_to(self.store(home).folder.resolve()):
            raise UsageError(f"{prefix} is firstlight's own version already", fix="firstlight setup.list")

    def own_model(self, text: str, home: Home) -> ServedModel | None:
        """Return the model of the store that `text` names."""
        return models.stored(text, home)

    def fetches(self, text: str) -> bool:
        """Tell whether words name a model that only one of its registries can know."""
        return models.from_registry(text) is not None

    def fetch_model(self, text: str, home: Home, step: Step) -> ServedModel:
        """Pull a model from its registry into the store, and return it."""
        return models.pulled(text, home, step)

    def taking(self, model: ServedModel) -> str | None:
        """Return in words what must be done with a model before the server can read it."""
        return None if model.layout == models.LAYOUT else "take the GGUF file into Ollama's store, by a link"

    def take(self, model: ServedModel, generation: Generation, work: Work, step: Step) -> ServedModel:  # noqa: ARG002
        """Return a GGUF model as one of the store."""
        return models.taken_in(model, work.home, step)

    def check_flags(self, flags: tuple[str, ...]) -> None:
        """Refuse words that are no settings of its server: it has no flags."""
        serving.settings(flags)

    def serving(self, request: ServingRequest) -> Serving:
        """Return how `ollama serve` is started."""
        return serving.serving(request)

    def load(self, base_url: str, serving_: Serving, launch: Launch) -> str | None:
        """Have the server load the model; returns the device that it took."""
        return serving.load(base_url, serving_, launch)


def _release_of(prefix: Path) -> str:
    program = prefix.expanduser().absolute() / PROGRAM
    fix = f"name the folder above bin/ollama, as its archive makes it: --adopt {'/usr/local'}"
    if not program.is_file():
        raise UsageError(f"{prefix} holds no Ollama", why=f"{program} is not there", fix=fix)
    told = says(program)
    if told.version is None:
        raise UsageError(f"{program} does not run", why=told.why, fix=fix)
    return told.version
