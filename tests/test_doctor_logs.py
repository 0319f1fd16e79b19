"""`doctor --log FILE`: whose log it is, what it died of above its generic last line, and files that are no logs."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import tracemalloc
from pathlib import Path

import pytest

from firstlight.doctor.log_file import FAILURE_WORDS, HARM_WORDS, read_end, read_parts
from firstlight.doctor.logs import known_pages, read_log
from firstlight.doctor.story import remedy_of
from firstlight.errors import UsageError
from firstlight.serving.causes import load_causes

LOGS = Path(__file__).parent / "data" / "logs"
SAMPLES = sorted(LOGS.glob("*/*.log"))
NOISE = b'INFO:     127.0.0.1:50000 - "POST /v1/chat/completions HTTP/1.1" 200 OK\n'
ONE_LINERS = {"libraries-not-found", "libstdcxx-too-old", "server-not-running", "pynvml-warning"}
"""What stands in small logs alone: of clients, of installers, of the first lines of a run."""


def name_of(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_each_sample_log_becomes_a_finding_with_cause_line_and_remedy(path):
    engine = None if path.parent.name == "systemd" else path.parent.name
    known = {cause.id: cause for cause in load_causes(path.parent.name)}
    cause = known[path.name.partition(".")[0]]
    found = read_log(path, engine)[0]
    assert (found.id, found.group, found.subject) == ("log", "log", cause.id)
    assert found.status == ("fail" if cause.fatal else "warn")
    assert cause.cause in found.summary
    assert found.source == cause.source
    assert re.match(r"line [\d,]+ of ", found.detail)
    assert found.evidence
    assert found.remedy.text


@pytest.mark.parametrize("path", [p for p in SAMPLES if p.parent.name != "systemd"], ids=name_of)
def test_a_log_is_never_taken_for_that_of_another_engine(path):
    found = read_log(path)[0]
    text = path.read_text()
    mentioned = {name for name in known_pages() if re.search(rf"\b{name}\b|{name}/", text)}
    assert found.affects in ([], [path.parent.name]) or set(found.affects) <= mentioned


@pytest.mark.parametrize(
    ("engine", "line"),
    [
        ("vllm", "(APIServer pid=4100) INFO 11-23 10:00:02 [utils.py:233] non-default args: {'port': 8000}"),
        ("ollama", 'time=2026-06-02T22:38:00Z level=INFO source=routes.go:1933 msg="server config" env="map[]"'),
        ("ollama", "Jun 02 22:38:01 node-1 ollama[812]: Error: something"),
        ("ollama", "1月 10 22:07:10 node-1 ollama[812]: Error: something"),
        ("ollama", "ollama-1  | 2025/09/20 00:25:06 routes.go:1466: INFO server config"),
        ("transformers", '  File "/env/lib/python3.12/site-packages/transformers/cli/serving/server.py", line 1, in x'),
    ],
)
def test_the_engine_is_known_by_its_signs(tmp_path, engine, line):
    log = tmp_path / "server.log"
    log.write_text(f"{line}\nKeyError: 'x'\nError: nobody knows this one\n")
    assert read_log(log)[0].affects == [engine]


def test_every_engine_with_causes_has_signs():
    engines = {path.parent.name for path in LOGS.parents[2].glob("envs/*/builds.toml")}
    with_causes = {path.parent.name for path in LOGS.parents[2].glob("envs/*/causes.toml")}
    assert set(known_pages()) == engines & with_causes


def test_an_unknown_writer_is_said_and_the_nearest_engine_used():
    found = read_log(LOGS / "vllm" / "libcudart-13.log")[0]
    assert found.affects == []
    assert "which engine wrote it: this is what it means for vllm" in found.detail


def test_the_generic_last_line_is_named_as_such():
    found = read_log(LOGS / "vllm" / "shared-memory.log")[0]
    assert found.summary.startswith("vllm: the GPUs cannot talk")
    assert "NCCL error: unhandled system error" in found.detail
    assert (
        "The last line says only: (APIServer pid=4100) RuntimeError: Engine core initialization failed." in found.detail
    )


def test_the_systemd_lines_around_it_do_not_hide_the_programs_own_error():
    assert read_log(LOGS / "ollama" / "port-taken.log")[0].subject == "port-taken"
    unit = read_log(LOGS / "systemd" / "unit-exec.log")[0]
    assert (unit.subject, unit.affects) == ("unit-exec", ["ollama"])


def test_an_unknown_failure_shows_its_line_and_where_to_read_on(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("vLLM API server version 1\n" * 3 + "Traceback (most recent call last):\nKeyError: 'layers.0'\n")
    (found,) = read_log(log)
    assert (found.status, found.subject) == ("fail", "unknown")
    assert "KeyError: 'layers.0'" in found.summary
    assert found.remedy.commands == [f"less +5 {log}"]


def test_a_healthy_log_is_ok(tmp_path):
    log = tmp_path / "server.log"
    log.write_bytes(b"vLLM API server version 0.32.0\nINFO:     Application startup complete.\n" + NOISE * 10)
    (found,) = read_log(log)
    assert (found.status, found.summary) == ("ok", "no failure in the log of vllm")


START = "(APIServer pid=1) INFO 11-23 10:00:02 [utils.py:233] non-default args: {'port': 8000}\n"
PORT = "[Errno 98] error while attempting to bind on address ('0.0.0.0', 8000): address already in use\n"
MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


def test_the_last_run_counts_and_not_one_before_it(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(START + PORT + START + MEMORY)
    assert [finding.subject for finding in read_log(log)] == ["out-of-memory"]


def test_a_failure_of_an_earlier_run_is_only_a_warning(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(START + MEMORY + START + "INFO:     Application startup complete.\n")
    (found,) = read_log(log)
    assert (found.status, found.subject) == ("warn", "out-of-memory")
    assert "an earlier run: 1 began after it" in found.detail


def test_more_than_one_thing_that_is_wrong_is_told_the_worst_first(tmp_path):
    log = tmp_path / "server.log"
    log.write_text((LOGS / "ollama" / "corrupt-manifests.log").read_text() + "Error: digest mismatch, file must be\n")
    found = read_log(log)
    assert [(finding.subject, finding.status) for finding in found] == [
        ("digest-mismatch", "fail"),
        ("corrupt-manifests", "warn"),
    ]


def test_what_many_causes_lead_to_is_told_only_without_a_better_one():
    assert [finding.subject for finding in read_log(LOGS / "ollama" / "driver-too-old.log")] == ["driver-too-old"]
    assert [finding.subject for finding in read_log(LOGS / "ollama" / "cpu-only.log")] == ["cpu-only"]


def test_secrets_of_a_log_stay_out_of_the_findings(tmp_path):
    log = tmp_path / "server.log"
    log.write_text(
        START + "api_key=['sk-abcdefghijklmnop']\nHF_TOKEN=hf_abcdefghijklmnopqrst\n"
        "ValueError: cannot log in with Bearer hf_abcdefghijklmnopqrst at https://user:pass@proxy:3128\n"
    )
    told = repr(read_log(log))
    assert "cannot log in" in told
    for secret in ("sk-abcdef", "hf_abcdef", "user:pass"):
        assert secret not in told


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("windows.log", lambda raw: raw.replace(b"\n", b"\r\n")),
        ("windows-utf16.log", lambda raw: raw.decode().replace("\n", "\r\n").encode("utf-16")),
        ("bom.log", lambda raw: b"\xef\xbb\xbf" + raw),
        (
            "colours.log",
            lambda raw: raw.replace(b"ERROR", b"\x1b[31mERROR\x1b[0m").replace(b"Free", b"\x1b[1mFree\x1b[m"),
        ),
        ("server.log.1.gz", gzip.compress),
        ("server.log.bz2", bz2.compress),
        ("server.log.xz", lzma.compress),
        ("emptied-while-open.log", lambda raw: bytes(3 << 20) + raw),
        ("no-last-end.log", lambda raw: raw.rstrip(b"\n")),
        ("gbk.log", lambda raw: "模型：千问\n".encode("gbk") * 50 + raw),
        (
            "docker-json.log",
            lambda raw: b"".join(
                json.dumps({"log": line + "\n", "stream": "stderr", "time": "2026-11-23T10:00:00.1Z"}).encode() + b"\n"
                for line in raw.decode().splitlines()
            ),
        ),
        (
            "kubelet.log",
            lambda raw: b"".join(
                b"2026-11-23T10:00:00.123456789+08:00 stderr F " + line + b"\n" for line in raw.splitlines()
            ),
        ),
        (
            "short-iso.log",
            lambda raw: b"".join(
                b"2026-11-23T10:00:00+0800 node-1 vllm[77]: " + line + b"\n" for line in raw.splitlines()
            ),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_log_is_read_in_every_wrapping(tmp_path, name, pack):
    log = tmp_path / name
    log.write_bytes(pack((LOGS / "vllm" / "gpu-memory-held.log").read_bytes()))
    found = read_log(log)[0]
    assert (found.subject, found.affects) == ("gpu-memory-held", ["vllm"])


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\0" * 5000], ids=["empty", "line-ends", "hole"])
def test_an_empty_log_says_which_one_to_name(tmp_path, content):
    log = tmp_path / "server.log"
    log.write_bytes(content)
    (found,) = read_log(log)
    assert found.status == "warn"
    assert "empty" in found.summary
    assert found.remedy.commands == ["journalctl -u NAME --no-pager > server.log"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x7fELF\2\1\1" + bytes(range(256)) * 300, "a program or library"),
        (b"GGUF\3\0\0\0" + b"general.name" * 99, "a model"),
        (b"LPKSHHRH" + bytes(4000), "a journal of systemd"),
        (b"\x28\xb5\x2f\xfd" + bytes(range(256)) * 9, "zstd"),
        (bytes(range(256)) * 300, "no text"),
    ],
)
def test_a_binary_file_is_refused_in_words(tmp_path, content, words):
    log = tmp_path / "server.log"
    log.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_log(log)
    assert words in caught.value.what
    assert str(log) in caught.value.fix


def test_what_is_no_readable_file_is_refused_in_words(tmp_path):
    for path in (tmp_path / "absent.log", tmp_path, Path("/dev/zero")):
        with pytest.raises(UsageError) as caught:
            read_log(path)
        assert str(path) in caught.value.what
        assert caught.value.fix


def test_a_packed_log_that_was_cut_short_is_read_as_far_as_it_goes(tmp_path):
    raw = (LOGS / "vllm" / "gpu-memory-held.log").read_bytes() + NOISE * 5000
    whole = gzip.compress(raw, 0)
    log = tmp_path / "server.log.gz"
    log.write_bytes(whole[: len(whole) * 3 // 4])
    assert read_log(log)[0].subject == "gpu-memory-held"
    log.write_bytes(b"\x1f\x8b garbage")
    with pytest.raises(UsageError):
        read_log(log)


def big_log(path: Path, *, before: int, cause: bytes, after: int, last: bytes = b"") -> Path:
    """A log with megabytes of requests before and after its cause."""
    block = NOISE * (1_000_000 // len(NOISE))
    with path.open("wb") as stream:
        stream.write(START.encode())
        for _ in range(before):
            stream.write(block)
        stream.write(cause)
        for _ in range(after):
            stream.write(block)
        stream.write(last)
    return path


GENERIC = b"RuntimeError: Engine core initialization failed. See root cause above.\n"


@pytest.mark.parametrize(("before", "after"), [(0, 60), (30, 30), (60, 0), (55, 5)])
def test_the_cause_is_found_anywhere_in_a_big_log_with_its_line_number(tmp_path, before, after):
    log = big_log(tmp_path / "big.log", before=before, cause=MEMORY.encode(), after=after, last=GENERIC)
    found = read_log(log)[0]
    number = 2 + before * (1_000_000 // len(NOISE))
    assert found.subject == "out-of-memory"
    assert found.detail.startswith(f"line {number:,} of {log}")
    assert "60 MB" in found.detail


def test_a_big_log_takes_little_memory(tmp_path):
    log = big_log(tmp_path / "big.log", before=60, cause=MEMORY.encode() * 50_000, after=60, last=GENERIC)
    tracemalloc.start()
    try:
        assert read_log(log)[0].subject == "out-of-memory"
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert log.stat().st_size > 120_000_000
    assert peak < 80_000_000


def test_a_line_without_an_end_takes_little_memory(tmp_path):
    log = tmp_path / "big.log"
    with log.open("wb") as stream:
        stream.write(MEMORY.encode())
        for _ in range(60):
            stream.write(b"x" * 1_000_000)
    tracemalloc.start()
    try:
        assert read_log(log)[0].subject == "out-of-memory"
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


def test_without_time_the_end_is_read_all_the_same(tmp_path):
    log = big_log(tmp_path / "big.log", before=40, cause=b"", after=0, last=MEMORY.encode())
    parts = read_parts(log, seconds=0.0)
    assert parts.extent == "late"
    assert parts.lines[-1][1] + "\n" == MEMORY
    end = read_end(log, seconds=0.0)
    assert end.lines[-1][1] + "\n" == MEMORY
    assert end.extent == "end"


@pytest.mark.parametrize("path", SAMPLES, ids=name_of)
def test_no_failure_is_passed_over_in_a_big_log(path):
    """The words by which parts of a huge log are kept stand in every sample of a server's failure."""
    if path.name.partition(".")[0] not in ONE_LINERS:
        assert any(word in path.read_bytes() for word in FAILURE_WORDS + HARM_WORDS)


@pytest.mark.parametrize(
    "engine", sorted(path.parent.name for path in LOGS.parent.parent.parent.glob("envs/*/causes.toml"))
)
def test_every_fix_reads_as_words_and_commands(engine):
    for cause in load_causes(engine):
        remedy = remedy_of(cause)
        assert remedy.text
        assert "   (" not in remedy.text
        for command in remedy.commands:
            assert command[0] != " "
            assert command in cause.fix
        assert remedy.needs_root is any("sudo " in command for command in remedy.commands)


def test_a_fix_with_two_ways_keeps_both():
    cause = next(cause for cause in load_causes("vllm") if cause.id == "gpu-memory-held")
    remedy = remedy_of(cause)
    assert remedy.text == "stop it (nvidia-smi names it), or take less"
    assert remedy.commands == ["firstlight serve.vllm --model MODEL -- --gpu-memory-utilization 0.6"]
