"""A service installed: refused early, tried in its sandbox, switched on and proven; or nothing of it is left."""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path

import msgspec

from firstlight import engines
from firstlight.errors import FirstlightError
from firstlight.events import Note, Reporter, step
from firstlight.files import remove_tree, write_atomic, writer_lock
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.models.provide import ServedModel
from firstlight.proof.first_token import Proof
from firstlight.proof.receipts import ModelRecord, Receipt, Recorder, timestamp, write_receipt
from firstlight.serving.keys import key_variable
from firstlight.serving.ports import free_port
from firstlight.serving.records import RECORD as DETACHED
from firstlight.serving.services import systemctl, users
from firstlight.serving.services.manager import Manager, manager_for
from firstlight.serving.services.records import Record, load, save
from firstlight.serving.services.scopes import choose as choose_scope
from firstlight.serving.services.spec import ServiceFile, ServiceSpec
from firstlight.serving.services.systemd import SystemdManager
from firstlight.staying.again import unchanged
from firstlight.staying.drafting import Ground, draft, ground
from firstlight.staying.models import foreseen_model, served_model
from firstlight.staying.proving import PROMPT, key_of, measured
from firstlight.staying.room import (
    leave_scope,
    left_by,
    make_folders,
    make_room,
    restore_record,
    settle,
    start_again,
    take_back,
)
from firstlight.staying.sharing import require_memory, require_port, rivals
from firstlight.staying.stores import current_of, link_of
from firstlight.staying.whom import AS_ROOT, choose_user
from firstlight.staying.wish import Wish, check_wish, require_port_right, require_supported


class Drafted(msgspec.Struct, frozen=True, kw_only=True):
    """A service as it would be: its description, files (a secret's content is never in them), commands, remarks."""

    spec: ServiceSpec
    files: list[ServiceFile]
    commands: list[list[str]]
    notes: list[str]
    under: Ground
    making_room: list[Record] = []
    makes_user: bool = False


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """An installed and proven service. `key` is shown once and kept nowhere but in the 0600 file."""

    spec: ServiceSpec
    seconds: float
    """From the start to the first answer of its health."""
    proof: Proof | None
    survives: str
    key: str | None = None
    notes: list[str] = []
    outside: list[Path] = []
    receipt: str | None = None
    """Where its receipt lies."""
    kept: bool = False
    """Whether it ran already, exactly as it is asked for: it was asked for a token and left alone."""


def prepare(wish: Wish, machine: Machine, home: Home) -> Drafted:
    """Return the service as it would be installed, and refuse what can be known to fail; writes nothing.

    Raises:
        UsageError: a word of the wish is wrong, or would leave the API open.
        NothingFits: no build of the engine fits.
        FirstlightError: the port is taken, the GPU's memory is, the scope cannot work here.
    """
    generation = current_of(home, wish.engine)
    under = ground(wish, machine, home, generation, link_of(home, wish.engine))
    check_wish(wish, under.entry)
    choice = choose_scope(wish.scope)
    require_supported(choice.scope, wish)
    model = foreseen_model(wish.model, home, engines.find(wish.engine))
    user, notes, makes_user = choose_user(
        wish, choice.scope, lambda who: draft(wish, under, model, home, choice.scope, who)
    )
    spec = draft(wish, under, model, home, choice.scope, user)
    require_port_right(spec.port, choice.scope, user)
    making_room = rivals(home, spec)
    require_port(home, spec, making_room)
    require_memory(home, spec, under.entry, making_room)
    manager = manager_for(choice.scope, home)
    notes = [f"scope {choice.scope}: {choice.because}; {choice.survives}", *notes]
    notes += [f"{record.spec.name} is on port {spec.port}: {spec.name} replaces it" for record in making_room]
    if isinstance(manager, SystemdManager):
        manager.check(spec)
    files = manager.files(spec)
    if spec.secrets is not None:
        files.append(ServiceFile(path=spec.secrets, content="", mode=0o600, secret=True))
    first = [users.creation()] if makes_user else []
    return Drafted(
        spec=spec,
        files=files,
        commands=[*first, *manager.commands(spec)],
        notes=notes,
        under=under,
        making_room=making_room,
        makes_user=makes_user,
    )


def install_service(wish: Wish, machine: Machine, reporter: Reporter, home: Home, *, prove: bool = True) -> Installed:
    """Install a service, start it and prove it; when anything fails, what was there before is there again.

    Args:
        wish: what is asked for.
        machine: the facts.
        reporter: takes the progress.
        home: where it is kept.
        prove: whether its first token is asked for.

    Raises:
        UsageError: a word of the wish is wrong.
        VerificationFailed: it runs and does not answer as it should.
        FirstlightError: anything else; see `prepare`.
    """
    if current_of(home, wish.engine) is None:
        raise FirstlightError(
            f"{wish.engine} is not set up",
            why=f"{home.root} has no current environment of it",
            fix=f"firstlight setup.{wish.engine}",
        )
    drafted = prepare(wish, machine, home)
    folder = drafted.spec.folder
    recorder = Recorder(reporter)
    home.prepare()
    known = load(home, wish.service_name) is not None
    with writer_lock(folder / ".lock", f"service {wish.service_name}", wait=5.0):
        try:
            installed = _install(wish, drafted, machine, recorder, home, prove=prove)
            return msgspec.structs.replace(installed, receipt=_receipt(installed, drafted, recorder, home))
        except BaseException:
            if not known and not (folder / DETACHED).exists():
                remove_tree(folder)
            raise


def _install(
    wish: Wish, drafted: Drafted, machine: Machine, reporter: Reporter, home: Home, *, prove: bool
) -> Installed:
    spec, before = drafted.spec, load(home, wish.service_name)
    for text in drafted.notes:
        reporter(Note(text, "warn" if text.startswith(AS_ROOT) else "info"))
    with step(reporter, "model", f"model {wish.model or 'on demand'}") as current:
        model = served_model(wish.model, home, drafted.under, machine, current)
    manager = manager_for(spec.scope, home)
    spec = draft(wish, drafted.under, model, home, spec.scope, spec.user)
    asked = model.speaks if prove and wish.model else None
    if ran := _ran_already(spec, before, drafted, manager, reporter, speaks=asked):
        return ran
    leaving = left_by(before, spec.scope)
    stays = before if before is not None and before.spec.scope == spec.scope else None
    with contextlib.ExitStack() as undo:
        made = _make_user(drafted, undo) or (before.made_user if before else None)
        make_folders(spec)
        for left in leaving:
            leave_scope(left, home, reporter, undo)
        make_room(drafted.making_room, home, reporter, undo)
        spec = _tried(wish, drafted, spec, model, home, manager, reporter, undo)
        key = _secrets(spec, drafted, undo)
        with step(reporter, "service", f"install {spec.name}") as current:
            outside = manager.install(spec, current)
            undo.callback(take_back, manager, spec, stays, current)
        record = msgspec.structs.replace(
            _record(spec, manager, stays, made),
            outside=outside,
            leaving=leaving,
            displaced=[other.spec.name for other in drafted.making_room],
        )
        undo.callback(restore_record, spec, before)
        save(record)
        with step(reporter, "start", f"start {spec.name}: {spec.model_id}".rstrip(": ")) as current:
            seconds = manager.restart(spec, current) if stays is not None else manager.start(spec, current)
        proof = None if asked is None else _proof(spec, drafted, reporter, speaks=asked)
        undo.pop_all()
    settle(record, drafted.making_room, home, reporter)
    opened = _open_notes(spec)
    for text in opened:
        reporter(Note(text, "info" if spec.keyed else "warn"))
    notes = [*drafted.notes, *opened]
    return Installed(
        spec=spec, seconds=seconds, proof=proof, survives=manager.survives, key=key, notes=notes, outside=outside
    )


def _record(spec: ServiceSpec, manager: Manager, stays: Record | None, made_user: str | None) -> Record:
    """Return the record of a service; `stays` is what it was under the same scope."""
    return Record(
        spec=spec,
        installed=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        made_user=made_user,
        survives=manager.survives,
        systemd=systemctl.runs(),
        origin=stays.origin if stays is not None else None,
    )


def _ran_already(
    spec: ServiceSpec,
    before: Record | None,
    drafted: Drafted,
    manager: Manager,
    reporter: Reporter,
    *,
    speaks: bool | None,
) -> Installed | None:
    """Ask a service that runs as it is asked for, and leave it alone; None where it must be started anew.

    `speaks` None: no token is asked for.
    """
    if before is None or drafted.making_room or not unchanged(manager, before, spec):
        return None
    try:
        proof = None if speaks is None else _proof(spec, drafted, reporter, speaks=speaks)
    except FirstlightError as error:
        reporter(Note(f"{spec.name} runs, and gives no token ({error.what}): it is started again", "warn"))
        return None
    text = f"{spec.name} runs already, exactly as it is asked for: it was left alone"
    reporter(Note(text))
    return Installed(
        spec=spec,
        seconds=0.0,
        proof=proof,
        survives=manager.survives,
        notes=[*drafted.notes, text, *_open_notes(spec)],
        outside=before.outside,
        kept=True,
    )


def _receipt(installed: Installed, drafted: Drafted, recorder: Recorder, home: Home) -> str | None:
    """Write down what was done, and the files outside the home; the key is not in it."""
    spec, under = installed.spec, drafted.under
    receipt = Receipt(
        what="service.install",
        started=timestamp(recorder.started),
        seconds=round(time.time() - recorder.started, 3),
        bytes=sum(record.bytes for record in recorder.steps),
        request=under.request,
        plan=under.plan,
        steps=recorder.steps,
        model=ModelRecord(
            name=spec.model_id, path=str(spec.model_path), source=spec.model, bytes=spec.model_bytes, reused=True
        ),
        outside=[str(path) for path in installed.outside],
        notes=installed.notes,
        proof=installed.proof,
        endpoint=f"{spec.base_url}/v1",
        model_id=spec.model_id,
    )
    return write_receipt(home, receipt).path


def _make_user(drafted: Drafted, undo: contextlib.ExitStack) -> str | None:
    if not drafted.makes_user:
        return None
    users.create()

    def unmake() -> None:
        with contextlib.suppress(FirstlightError):
            users.remove(users.SERVICE_USER)

    undo.callback(unmake)
    return users.SERVICE_USER


def _tried(
    wish: Wish,
    drafted: Drafted,
    spec: ServiceSpec,
    model: ServedModel,
    home: Home,
    manager: Manager,
    reporter: Reporter,
    undo: contextlib.ExitStack,
) -> ServiceSpec:
    """Prove the engine inside the strict sandbox first; where that fails, the service becomes a basic one."""
    if spec.hardening != "strict":
        return spec
    if not isinstance(manager, SystemdManager):
        return spec
    before = load(home, wish.service_name)
    if before is not None and spec.devices and manager.status(before.spec).state == "running":
        with step(reporter, "make room", f"stop {spec.name}, whose GPU memory the trial needs") as current:
            manager.stop(before.spec, current)
            undo.callback(start_again, manager, before.spec, current)
    trial = draft(wish, drafted.under, model, home, spec.scope, spec.user, trial=free_port())
    spec.folder.mkdir(parents=True, exist_ok=True)
    try:
        with step(reporter, "sandbox", f"prove {spec.engine} inside the strict sandbox") as current:
            manager.try_out(
                trial,
                current,
                lambda: measured(trial, drafted.under.launch, speaks=False, key=None) if wish.model else None,
            )
    except FirstlightError as error:
        why = f"{error.what}{f': {error.why}' if error.why else ''}"
        reporter(Note(f"the strict sandbox does not hold for {spec.engine}; basic is taken instead ({why})", "warn"))
        return msgspec.structs.replace(spec, hardening="basic")
    return spec


def _proof(spec: ServiceSpec, drafted: Drafted, reporter: Reporter, *, speaks: bool) -> Proof:
    with step(reporter, "first token", f"ask {spec.model_id}: {PROMPT}"):
        return measured(spec, drafted.under.launch, speaks=speaks, key=key_of(spec))


def _secrets(spec: ServiceSpec, drafted: Drafted, undo: contextlib.ExitStack) -> str | None:
    """Write the file with the key, or keep the one that is there; returns a key that was made now."""
    if spec.secrets is None or key_of(spec) is not None:
        return None
    key = secrets.token_urlsafe(32)
    write_atomic(spec.secrets, f"{key_variable(drafted.under.entry)}={key}\n", 0o600)
    undo.callback(spec.secrets.unlink, missing_ok=True)
    return key


def _open_notes(spec: ServiceSpec) -> list[str]:
    if spec.loopback:
        return []
    if not spec.keyed:
        return [f"its API is open to everyone who reaches {spec.host}:{spec.port}: no key is asked for"]
    return [
        f"requests to /v1 need the key; pages beside it (health, metrics) may answer without, by {spec.engine}'s design"
    ]
