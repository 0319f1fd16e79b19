"""What a person sees: timeline, quantities, progress lines, errors."""

from __future__ import annotations

import io
import json

import pytest

from firstlight.errors import NothingFits
from firstlight.events import Note, StepFinished, StepProgress, StepStarted
from firstlight.fetching.words import duration, rate, size
from firstlight.planning.plan import Refusal
from firstlight.proof.receipts import StepRecord
from firstlight.ui.ending import next_steps
from firstlight.ui.failures import as_json, show_failure
from firstlight.ui.progress import PlainProgress, amount, progress
from firstlight.ui.tables import cells, table
from firstlight.ui.terminal import speaks_unicode, write
from firstlight.ui.timeline import timeline
from firstlight.ui.views import refusal_lines


def record(name: str, offset: float, seconds: float, moved: int = 0, outcome: str = "done") -> StepRecord:
    return StepRecord(id=name, what=name, offset=offset, seconds=seconds, bytes=moved, outcome=outcome)


def test_quantities_read_as_people_write_them() -> None:
    assert [size(n) for n in (0, 999, 1500, 253_000_000, 2_100_000_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "253 MB",
        "2.1 GB",
    ]
    assert [duration(s) for s in (0.26, 42, 200, 7300)] == ["0.3 s", "42 s", "3 min 20 s", "2 h 01 min"]
    assert rate(12_000_000) == "12 MB/s"


def test_the_timeline_places_each_bar_where_its_step_ran() -> None:
    steps = [
        record("plan", 0, 1),
        record("environment", 1, 8, 80_000_000),
        record("model", 1, 4),
        record("start", 9, 11),
    ]
    lines = timeline(steps, 20.0, 80, unicode=False)
    starts = [line.index("#") for line in lines[:4]]
    lengths = [line.count("#") for line in lines[:4]]
    assert starts[0] < starts[1] == starts[2] < starts[3]
    assert lengths[0] < lengths[2] < lengths[1] < lengths[3]
    assert "80 MB 10 MB/s" in lines[1]
    assert lines[4].endswith("20 s")
    assert max(map(len, lines)) <= 80
    drawn = timeline(steps, 20.0, 80, unicode=True)
    assert "█" in drawn[1]
    assert max(map(len, drawn)) <= 80


def test_the_timeline_of_nothing_is_nothing_and_tiny_steps_are_seen() -> None:
    assert timeline([], 0, 80, unicode=True) == []
    lines = timeline([record("a", 0, 0.0001), record("b", 99.9999, 0.0001, outcome="reused")], 100, 60, unicode=True)
    assert all(any(mark in line for mark in "▏█▎") for line in lines[:2])
    assert lines[1].endswith("reused")


def test_amounts_tell_rate_and_time_left() -> None:
    text = amount(StepProgress("x", 50_000_000, 100_000_000, "bytes"), 5.0)
    assert text == "50 MB of 100 MB (50 %), 10 MB/s, 5.0 s left"
    assert amount(StepProgress("x", 3, 12, "items"), 1.0) == "3 of 12"
    assert amount(StepProgress("x", 0, 100, "bytes"), 1.0) == "0 B of 100 B (0 %), 0 B/s"


def test_plain_progress_is_lines_without_control_characters() -> None:
    stream = io.StringIO()
    with progress(stream) as reporter:
        reporter(StepStarted("environment", "make it", 0.0))
        for done in range(0, 1000, 10):
            reporter(StepProgress("environment", done, 1000, "bytes"))
        reporter(Note("look out", "warn"))
        reporter(StepFinished("environment", "make it", 0.0, 2.0, 1000, "done"))
    assert stream.getvalue().splitlines() == [
        "[environment] make it",
        "WARNING: look out",
        "[environment] done in 2.0 s, 1.0 kB at 500 B/s",
    ]


def test_plain_progress_speaks_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("firstlight.ui.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    reporter = PlainProgress(stream)
    reporter(StepStarted("start", "start it", 0.0))
    for _ in range(12):
        now[0] += 1.0
        reporter(StepProgress("start", 0, None, "items", "loading weights"))
    assert [line for line in stream.getvalue().splitlines() if "loading weights" in line] == [
        "[start] loading weights (5.0 s)",
        "[start] loading weights (10 s)",
    ]


def test_wide_characters_keep_columns_straight() -> None:
    assert cells("模型") == 4
    first, second = table([["模型", "a"], ["name", "b"]], indent="")
    assert cells(first[: first.index("a")]) == cells(second[: second.index("b")])


def test_a_poor_encoding_never_stops_a_line() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    write(stream, "Größe █")
    assert raw.getvalue() == b"Gr??e ?\n"


def test_an_error_is_a_document_and_three_lines(capsys: pytest.CaptureFixture[str]) -> None:
    show_failure(NothingFits("nothing", why="too old", fix="newer", document={"plan": {"x": 1}}), as_document=True)
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["schema"] == "firstlight.error/1"
    assert document["error"] == {
        "code": 3,
        "kind": "NothingFits",
        "message": "nothing",
        "why": "too old",
        "fix": "newer",
    }
    assert document["plan"] == {"x": 1}
    assert err.splitlines() == ["error: nothing", "  why: too old", "  fix: newer"]


def test_the_lines_to_paste_survive_names_with_quotes_and_spaces() -> None:
    model = "/home/mü ller/it's"
    text = next_steps("http://127.0.0.1:8000/v1", model)
    curl = text[text.index("-d ") + 3 : text.index("python -c")].strip()
    import shlex

    assert json.loads(shlex.split(curl)[0])["model"] == model
    assert "OpenAI(base_url='http://127.0.0.1:8000/v1'" in text
    assert "firstlight chat --url http://127.0.0.1:8000/v1 --model" in text


def test_commands_in_an_error_document_are_spelled_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRSTLIGHT_LAUNCHER", "scripts/firstlight")
    error = NothingFits("nothing", why="a firstlight home", fix="firstlight up --engine transformers")
    told = json.loads(as_json(error))["error"]
    assert told["fix"] == "scripts/firstlight up --engine transformers"
    assert told["why"] == "a firstlight home"
    error = NothingFits("nothing", why="firstlight plan --explain tells")
    assert json.loads(as_json(error))["error"]["why"] == "scripts/firstlight plan --explain tells"
    assert json.loads(as_json(error))["error"]["fix"] is None


def test_refusals_are_a_table_where_it_fits_and_blocks_where_it_does_not() -> None:
    refused = [
        Refusal(
            build="vllm-cu130", rule="compute_capability", reason="this build holds no code for it " * 4, remedy=None
        ),
        Refusal(build="vllm-cpu", rule="device", reason="not by itself", remedy="firstlight setup.vllm --cuda cpu"),
    ]
    wide = refusal_lines(refused, None)
    assert len(wide) == 3
    assert wide == refusal_lines(refused, max(map(len, wide)))
    narrow = refusal_lines(refused, 80)
    assert max(map(len, narrow)) <= 80
    assert "  vllm-cu130: compute_capability" in narrow
    assert narrow[-3:] == ["  vllm-cpu: device", "    not by itself", "    firstlight setup.vllm --cuda cpu"]
    assert sum(line.count("holds no code") for line in narrow) == 4


@pytest.mark.parametrize(
    ("variables", "encoding", "speaks"),
    [
        ({"LANG": "en_US.UTF-8"}, "utf-8", True),
        ({"LANG": "de_DE.utf8"}, "UTF-8", True),
        ({"LANG": "C", "LC_CTYPE": "C.UTF-8"}, "utf-8", True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, "utf-8", False),
        ({"LANG": "en_US.UTF-8"}, "ascii", False),
        ({}, "utf-8", False),
    ],
)
def test_marks_are_for_terminals_that_show_them(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], encoding: str, speaks: bool
) -> None:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert speaks_unicode(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) is speaks
