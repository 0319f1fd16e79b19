"""Converting GGUF: what is refused, what failing leaves behind. That it works is shown with real transformers
in test_models_synthetic.py (marker `engine`)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.hub_client import Remembered

from firstlight.errors import FirstlightError
from firstlight.models.convert import convert_gguf
from firstlight.models.synthetic import write_synthetic_model
from firstlight.process import group_alive

# Stands in for an engine's interpreter: it writes what a conversion writes, or fails as one does.
INTERPRETER = """#!{python}
import json, os, shutil, signal, sys
_flag, worker, folder, name, target = sys.argv[1:]
print(json.dumps({{"event": "note", "text": "unpacking the weights"}}), flush=True)
mode = open(folder + "/mode").read()
if mode == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if mode == "full":
    sys.exit("OSError: [Errno 28] No space left on device")
for file in os.listdir({model!r}):
    shutil.copy(os.path.join({model!r}, file), target)
if mode == "half":
    open(target + "/model.safetensors", "r+b").truncate(1000)
if mode != "silent":
    print(json.dumps({{"event": "done"}}), flush=True)
"""


@pytest.fixture
def converting(tmp_path):
    model = write_synthetic_model(tmp_path / "result")
    python = tmp_path / "python"
    python.write_text(INTERPRETER.format(python=sys.executable, model=str(model)))
    python.chmod(0o755)
    source = tmp_path / "source"
    source.mkdir()
    (source / "tiny.gguf").write_bytes(b"GGUF" + bytes(60))
    remembered = Remembered()

    def convert(mode):
        (source / "mode").write_text(mode)
        return convert_gguf(
            source / "tiny.gguf",
            tmp_path / "converted" / "tiny",
            python,
            step=remembered.step(),
            log=tmp_path / "log",
        )

    convert.said = remembered
    convert.target = tmp_path / "converted" / "tiny"
    convert.source = source / "tiny.gguf"
    return convert


def test_it_appears_whole_and_is_reused(converting):
    assert converting("fine") == converting.target
    assert "unpacking the weights" in converting.said.text()
    assert json.loads((converting.target / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert converting("killed") == converting.target  # not run again
    converting.source.write_bytes(b"GGUF" + bytes(61))
    with pytest.raises(FirstlightError):  # another file: not the same model any more
        converting("killed")


@pytest.mark.parametrize(
    ("mode", "said"),
    [("killed", "memory ran out"), ("full", "the disk is full"), ("silent", "unpacking"), ("half", "")],
)
def test_a_failure_leaves_nothing_behind(converting, mode, said):
    with pytest.raises(FirstlightError) as caught:
        converting(mode)
    assert said in caught.value.why
    assert caught.value.fix
    assert [path.name for path in converting.target.parent.iterdir()] == [".tiny.lock"]
    assert converting("fine") == converting.target


def test_an_environment_without_the_libraries_is_named(converting, tmp_path):
    with pytest.raises(FirstlightError) as caught:
        convert_gguf(
            converting.source, tmp_path / "x", Path(sys.executable), step=Remembered().step(), log=tmp_path / "l"
        )
    assert "torch" in caught.value.why
    assert caught.value.fix


def test_what_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"PK\x03\x04")
    for name, said in [("a.gguf", "no GGUF file"), ("b.gguf", "cannot read")]:
        with pytest.raises(FirstlightError, match=said):
            convert_gguf(
                tmp_path / name, tmp_path / "x", Path(sys.executable), step=Remembered().step(), log=tmp_path / "l"
            )


CONVERT = """
import subprocess
import sys
import time
from pathlib import Path
from firstlight.events import Step, silent
from firstlight.models.convert import convert_gguf
source, target, python, log = map(Path, sys.argv[1:])
convert_gguf(source, target, python, step=Step(silent, "x", "x"), log=log)
"""


def test_after_a_kill_the_next_conversion_need_not_wait(converting, tmp_path):
    """The converter holds the lock of the model's folder, and ends soon after its parent."""
    slow = tmp_path / "slow-python"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    slow.chmod(0o755)
    words = [
        sys.executable,
        "-c",
        CONVERT,
        str(converting.source),
        str(converting.target),
        str(slow),
        str(tmp_path / "l"),
    ]
    with subprocess.Popen(words) as parent:
        deadline = time.monotonic() + 30
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        parent.kill()
    assert converting("whole") == converting.target
    assert not group_alive(int((tmp_path / "pid").read_text()))
