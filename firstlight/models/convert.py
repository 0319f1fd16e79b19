"""GGUF to safetensors: for engines that do not read GGUF, done once with the engine's own libraries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.files import remove_tree, write_atomic
from firstlight.models.local import inspect_folder
from firstlight.models.locking import one_writer
from firstlight.models.package import require_gguf
from firstlight.models.spelling import spell_for_all
from firstlight.models.store import make_readable
from firstlight.process import Completed, run

_WORKER = Path(__file__).with_name("gguf_worker.py")

_MARKER = ".firstlight-conversion.json"
"""Says which GGUF file a folder was made from."""


def convert_gguf(
    gguf: Path,
    folder: Path,
    python: Path,
    *,
    step: Step,
    log: Path,
    environment: Mapping[str, str | None] | None = None,
    hold: tuple[int, ...] = (),
) -> Path:
    """Return `folder` with the model of a GGUF file as bfloat16 safetensors; made once, then reused.

    Args:
        gguf: the model.
        folder: where the result goes; it appears at once and whole.
        python: an interpreter whose environment has torch, transformers and gguf.
        step: takes notes on how far it is.
        log: takes the output of the conversion.
        environment: variables for that interpreter.
        hold: descriptors that it keeps open.

    Raises:
        FirstlightError: the file is damaged, the environment lacks a library, memory or disk ran out.
    """
    require_gguf(gguf)
    with one_writer(folder.with_name(f".{folder.name}.lock"), f"model {folder.name}", step) as lock:
        if _made_from(folder, gguf):
            return folder
        _require_room(gguf, folder)
        staging = folder.with_name(f".{folder.name}.converting")
        remove_tree(staging)
        staging.mkdir(parents=True)
        try:
            _convert(gguf, staging, python, step=step, log=log, environment=environment, hold=(*hold, lock))
            spell_for_all(staging)  # the same folder serves engines with transformers 4 and 5
            inspect_folder(staging)
            make_readable(staging)
            write_atomic(staging / _MARKER, json.dumps(_identity(gguf)))
            remove_tree(folder)
            staging.rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder


def _identity(gguf: Path) -> dict[str, object]:
    return {"schema": "firstlight.conversion/1", "gguf": gguf.name, "size": gguf.stat().st_size}


def _made_from(folder: Path, gguf: Path) -> bool:
    """Tell whether `folder` is the whole result of converting this file."""
    try:
        if json.loads((folder / _MARKER).read_bytes()) != _identity(gguf):
            return False
        inspect_folder(folder)
    except (OSError, ValueError, FirstlightError):
        return False
    return True


def _require_room(gguf: Path, folder: Path) -> None:
    # 4-bit weights grow to 16 bits: four times, and what is written is all there is.
    wanted, free = 4 * gguf.stat().st_size, shutil.disk_usage(folder.parent).free
    if free < wanted:
        raise FirstlightError(
            f"no room to convert {gguf.name}: about {wanted / 1e9:.2f} GB to write, {free / 1e9:.2f} GB free",
            why=f"the result goes to {folder.parent}",
            fix="choose a folder with more room: export FIRSTLIGHT_HOME=/path/with/room",
        )


def _convert(
    gguf: Path,
    staging: Path,
    python: Path,
    *,
    step: Step,
    log: Path,
    environment: Mapping[str, str | None] | None,
    hold: tuple[int, ...],
) -> None:
    done = False

    def line(text: str) -> None:
        nonlocal done
        start = text.find('{"event"')
        if start < 0:
            return
        try:
            event = json.loads(text[start:])
        except ValueError:
            return
        if event["event"] == "note":
            step.note(f"{gguf.name}: {event['text']}")
        done = done or event["event"] == "done"

    variables: dict[str, str | None] = {
        "HF_HUB_OFFLINE": "1",  # nothing is to be looked up: everything is in the file
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONPATH": None,
        "PYTHONHOME": None,
        "CUDA_VISIBLE_DEVICES": "",  # a GPU in use elsewhere must not matter
        **(environment or {}),
    }
    argv = (str(python), "-u", str(_WORKER), str(gguf.parent), gguf.name, str(staging))
    ended = run(argv, environment=variables, log=log, on_line=line, hold=hold, leash=True)
    if ended.returncode != 0 or not done:
        raise _failed(gguf, python, ended, log)


def _failed(gguf: Path, python: Path, ended: Completed, log: Path) -> FirstlightError:
    lines = [line for line in ended.tail.splitlines() if line.strip()]
    last = lines[-1] if lines else "it printed nothing"
    fix = f"see {log}"
    if "No module named" in last or "ImportError" in last or "install gguf" in last.lower():
        why, fix = f"the environment of {python} lacks a library: {last}", f"{python} -m pip install gguf"
    elif ended.returncode == -9:
        why, fix = (
            "it was killed, most likely because memory ran out",
            "close other programs, or choose a smaller model",
        )
    elif "No space left" in ended.tail:
        why, fix = "the disk is full", "export FIRSTLIGHT_HOME=/path/with/room"
    else:
        why = last
    return FirstlightError(
        f"{gguf.name} could not be converted", why=why[:400], fix=fix, evidence="\n".join(lines[-12:])
    )
