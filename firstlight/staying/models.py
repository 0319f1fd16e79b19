"""The model of a service: foreseen for a description, or really there."""

from __future__ import annotations

from pathlib import Path

from firstlight import engines
from firstlight.engines.base import Engine, Work
from firstlight.environments.pipconfig import read_pip_settings
from firstlight.events import Step
from firstlight.goals import uv_tool
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.models.fetch import find_fetched
from firstlight.models.provide import ServedModel, provide_model, require_model
from firstlight.models.reference import parse_reference
from firstlight.planning.request import Request
from firstlight.staying.drafting import Ground


def foreseen_model(text: str, home: Home, engine: Engine) -> ServedModel:
    """Return the model as it will be: where it lies, or where it will lie once it is fetched.

    Raises:
        UsageError: it can be no model.
    """
    if not text:
        return _whole_store(home)
    own = engine.own_model(text, home)
    if own is not None:
        return own
    if engine.fetches(text):
        return ServedModel(
            path=home.models, name=text, source=engine.name, layout="", bytes=0, reused=False, speaks=True
        )
    require_model(text)
    reference = parse_reference(text)
    if reference.source == "path":
        path = Path(reference.id).absolute()
        return ServedModel(
            path=path, name=path.name, source="folder", layout="", bytes=_bytes(path), reused=True, speaks=True
        )
    found = find_fetched(reference, home)
    name = reference.id.rpartition("/")[2]
    path = found.path if found is not None else home.models / (reference.source) / reference.id
    size = _bytes(path) if found is not None else 0
    return ServedModel(
        path=path, name=name, source=str(reference.source), layout="", bytes=size, reused=True, speaks=True
    )


def _whole_store(home: Home) -> ServedModel:
    """Return what stands for a model where an engine serves all that it keeps itself."""
    return ServedModel(path=home.models, name="", source="its own store", layout="", bytes=0, reused=True, speaks=False)


def _bytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def served_model(text: str, home: Home, under: Ground, machine: Machine, step: Step) -> ServedModel:
    """Return the model, fetched and made readable for its engine where it is not yet.

    Raises:
        UsageError: it is no model.
        NetworkFailed: no source could deliver it.
        FirstlightError: the engine cannot read it.
    """
    if not text:
        return _whole_store(home)
    engine, settings = engines.find(under.entry.engine), read_pip_settings()
    log = home.root / "logs" / f"{under.entry.engine}-service.log"
    model = engine.own_model(text, home)
    if model is None and engine.fetches(text):
        model = engine.fetch_model(text, home, step)
    if model is None:
        model = provide_model(
            text,
            talk=True,
            home=home,
            uv=uv_tool(settings, home),
            step=step,
            log=log,
            hold=(),
            layouts=engine.layouts,
        )
    if under.generation is None or engine.taking(model) is None:
        return model
    work = Work(
        plan=under.plan,
        build=under.build,
        machine=machine,
        request=Request(engine=under.entry.engine, model=text, home=home.root),
        home=home,
        settings=settings,
        log=log,
    )
    return engine.take(model, under.generation, work, step)
