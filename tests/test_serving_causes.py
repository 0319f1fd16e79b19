"""The true cause is found in logs of every known failure, and the generic last line never passes for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstlight.errors import FirstlightError
from firstlight.serving.causes import clean_line, find_cause, find_causes, load_causes, progress_line, read_log

LOGS = Path(__file__).parent / "data" / "logs"
SAMPLES = sorted(LOGS.glob("*/*.log"))
PROCESS = "(EngineCore pid=4242) ERROR 11-23 10:00:41 [core.py:1100] "
GENERIC = (
    "(APIServer pid=4100) RuntimeError: Engine core initialization failed. See root cause above. "
    "Failed core proc(s): {'EngineCore': 1}"
)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_sample_log_tells_its_cause(path):
    lines = path.read_text().split("\n")
    found = find_causes(list(enumerate(lines, 1)), load_causes(path.parent.name))[0]
    assert found.cause is not None
    assert found.cause.id == path.name.partition(".")[0]
    assert found.line in lines[found.number - 1]
    alone = find_cause(path.read_text(), load_causes(path.parent.name))
    assert alone == (found if found.cause.fatal else None)


@pytest.mark.parametrize("engine", sorted(folder.name for folder in LOGS.iterdir()))
def test_every_known_cause_has_a_sample_log(engine):
    known = {cause.id for cause in load_causes(engine)}
    assert known == {path.name.partition(".")[0] for path in (LOGS / engine).glob("*.log")}


@pytest.mark.parametrize("engine", sorted(folder.name for folder in LOGS.iterdir()))
def test_every_cause_has_words_a_fix_and_a_source(engine):
    for cause in load_causes(engine):
        assert cause.cause
        assert cause.fix
        assert cause.source


def test_an_engine_without_a_file_has_no_known_causes(tmp_path):
    assert load_causes("nothing", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ('[[cause]]\nid = "a"\npattern = "("\ncause = "c"\nfix = "f"\nsource = "s"\n', "no regular expression"),
        ('[[cause]]\nid = "a"\npattern = "x"\ncause = "c"\nfix = "f"\nsource = "s"\n' * 2, "already"),
        ('[[cause]]\nid = "a"\nwhere = "x"\n', "wrong"),
        ("[[cause]\n", "wrong"),
    ],
)
def test_a_damaged_file_is_told(tmp_path, text, sign):
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "causes.toml").write_text(text)
    with pytest.raises(FirstlightError) as caught:
        load_causes("engine", tmp_path)
    assert sign in f"{caught.value.what} {caught.value.why}"
    assert "causes.toml" in caught.value.what


def test_an_unknown_cause_is_the_first_exception_and_not_the_generic_end():
    log = "\n".join(
        [
            "(APIServer pid=4100) INFO 11-23 10:00:02 [api_server.py:1] starting",
            PROCESS + "EngineCore failed to start.",
            PROCESS + "Traceback (most recent call last):",
            PROCESS + '  File "core.py", line 1, in run',
            PROCESS + "    run()",
            PROCESS + "KeyError: 'model.layers.0.weight'",
            *["(APIServer pid=4100)   more of the stack"] * 100,
            GENERIC,
        ]
    )
    found = find_cause(log, load_causes("vllm"))
    assert found is not None
    assert (found.cause, found.line, found.number) == (None, "KeyError: 'model.layers.0.weight'", 6)
    assert "run()" in found.excerpt


def test_tracebacks_of_two_processes_that_interleave_are_kept_apart():
    one, two = "(Worker pid=1) ERROR 11-23 10:00:00 [w.py:1] ", "(Worker pid=2) ERROR 11-23 10:00:00 [w.py:1] "
    log = "\n".join(
        [
            one + "Traceback (most recent call last):",
            two + "Traceback (most recent call last):",
            two + '  File "b.py", line 2, in b',
            two + "ValueError: second",
            one + '  File "a.py", line 1, in a',
            one + "ValueError: first",
        ]
    )
    found = find_cause(log, [])
    assert found is not None
    assert found.line == "ValueError: first"


def test_the_first_of_chained_exceptions_is_the_cause():
    log = """Traceback (most recent call last):
  File "a.py", line 1, in a
FileNotFoundError: [Errno 2] No such file or directory: 'model.safetensors'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "b.py", line 2, in b
RuntimeError: loading failed"""
    found = find_cause(log, [])
    assert found is not None
    assert found.line.startswith("FileNotFoundError")


def test_how_a_program_ends_is_not_why():
    log = """Traceback (most recent call last):
  File "runners.py", line 1, in run
asyncio.exceptions.CancelledError
ERROR:    the tokenizer file is damaged
ERROR:    Application startup failed. Exiting."""
    found = find_cause(log, [])
    assert found is not None
    assert found.line == "the tokenizer file is damaged"


def test_a_log_that_holds_only_the_generic_line_tells_that_line():
    found = find_cause(GENERIC, load_causes("vllm"))
    assert found is not None
    assert found.cause is None
    assert "See root cause above" in found.line


@pytest.mark.parametrize(
    "log",
    [
        "",
        "\n\n",
        "INFO:     Application startup complete.\nINFO 11-23 10:00:00 [a.py:1] CUDA out of memory. Tried to allocate\n",
        "WARNING 11-23 10:00:00 [ops.py:7] Triton is not installed. triton-cpu is expected on x86 CPUs.\n",
    ],
)
def test_a_log_without_a_failure_has_no_cause(log):
    assert find_cause(log, load_causes("vllm")) is None


def test_an_error_goes_before_a_warning_of_a_more_specific_pattern():
    log = "\n".join(
        [
            "WARNING 11-23 10:00:00 [a.py:1] libcudart.so.13: cannot open shared object file: No such file",
            PROCESS + "ValueError: No available memory for the cache blocks. Try increasing x",
        ]
    )
    found = find_cause(log, load_causes("vllm"))
    assert found is not None
    assert found.cause is not None
    assert found.cause.id == "no-cache-blocks"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("\x1b[1;36m(EngineCore_DP0 pid=35109)\x1b[0;0m ERROR 09-17 05:40:55 [v1/engine/core.py:712] boom", "boom"),
        ("Aug 17 18:42:18 host server[8052]: (APIServer pid=8052) ValueError: x", "ValueError: x"),
        ("2026-11-23 10:00:00,123 - engine - ERROR - api.py:12 - boom", "boom"),
        ("ERROR 06-01 22:03:06 api_server.py:40] boom", "boom"),
        ("[rank0]: ValueError: x", "ValueError: x"),
        ("E1123 11:26:37.857000 9307 torch/_library/x.py:53] boom", "boom"),
        ("(RayWorkerWrapper pid=7, ip=10.0.0.2) boom", "boom"),
        ("Loading shards:  50%|#####     | 1/2 [00:01<00:01,  1.00it/s]", ""),
        ("\rLoading shards:   0% Completed | 0/1 [00:00<?, ?it/s]", ""),
        ("Loading shards: 100%|##########| 2/2 [00:02<00:00,  1.00it/s]RuntimeError: boom", "RuntimeError: boom"),
        ("old text\rnew text\r", "new text"),
    ],
)
def test_a_line_is_read_without_its_prefixes_colours_and_bars(raw, text):
    assert clean_line(raw) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("(APIServer pid=1) INFO 11-23 10:00:02 [a.py:1] Loading weights took 2 s", "Loading weights took 2 s"),
        ("(APIServer pid=1) WARNING 11-23 10:00:02 [a.py:1] Found ulimit of 20000", ""),
        ("W1123 11:26:37.857000 9307 torch/x.py:53] Triton not available", ""),
        ("/env/x.py:12: FutureWarning: it is deprecated", ""),
        ("reserved_cpus=[1]", ""),
        ("Loading shards:  50%|#####     | 1/2 [00:01<00:01,  1.00it/s]", ""),
    ],
)
def test_a_person_who_waits_sees_what_happens_and_no_noise(raw, text):
    assert progress_line(raw) == text


def test_a_log_is_read_from_where_this_run_began(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("ValueError: of the last run\n")
    offset = log.stat().st_size
    with log.open("a") as stream:
        stream.write("of this run\n")
    assert read_log(log, offset) == "of this run\n"
    assert read_log(tmp_path / "absent") == ""


def test_of_a_huge_log_both_ends_are_read(tmp_path):
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        stream.write(b"ValueError: at the head\n")
        stream.truncate(40 * 1024 * 1024)
        stream.seek(0, 2)
        stream.write(b"\nat the tail\n")
    text = read_log(log)
    assert text.startswith("ValueError: at the head")
    assert text.endswith("at the tail\n")
    assert len(text) < 20 * 1024 * 1024
