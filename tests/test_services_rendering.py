"""Units of services: every value arrives as it was, old systemd gets no key that it does not know, strict is strict."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.service_specs import GPU, every_kind, spec
from support.systemd_box import Box, base_root, lacking

from firstlight.errors import UsageError
from firstlight.serving.services.hardening import needed_paths
from firstlight.serving.services.quoting import assignment, command_line, line, text, word
from firstlight.serving.services.rendering import is_ours, render_unit
from firstlight.serving.services.spec import Readiness

SUITES = {"bookworm": 252, "trixie": 257}
STRICT_MOST = {"system": 15, "user": 20}
"""Ten times the exposure that the strict hardening may have by systemd's own count; Ollama's official unit has 92.

A user's unit names no User=, which is counted as if it ran as root: 0.4 that are not there.
"""


def lines_of(unit: str) -> list[str]:
    return unit.splitlines()


def test_a_unit_says_in_its_first_line_whose_it_is() -> None:
    unit = render_unit(spec(), version=252)
    assert unit.startswith("# firstlight-service: chat\n")
    assert is_ours(unit)
    assert not is_ours("[Unit]\nDescription=# firstlight-service: chat\n")


def test_settings_that_an_old_systemd_does_not_know_are_left_out() -> None:
    new, old = (lines_of(render_unit(spec(hardening="strict"), version=version)) for version in (257, 252))
    assert "RestartSteps=6" in new
    assert not [each for each in old if each.startswith(("RestartSteps", "RestartMaxDelaySec"))]
    oldest = render_unit(spec(hardening="strict"), version=239)
    assert "ProtectProc" not in oldest
    assert "ProtectSystem=strict" in oldest


def test_nothing_of_the_installing_shell_stands_in_a_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/home/me/secret-place/bin:/usr/bin")
    assert "secret-place" not in render_unit(spec(), version=252)


def test_the_start_may_take_as_long_as_the_model_needs() -> None:
    told = lines_of(render_unit(spec(), version=252))
    assert "TimeoutStartSec=431" in told  # 420.5 s, rounded up, and ten to tell what happened
    assert any("--timeout 420.5" in each for each in told if each.startswith("ExecStartPost="))


def test_failed_starts_are_counted_over_a_time_in_which_they_can_all_happen() -> None:
    slow = spec(readiness=Readiness(path="/", timeout=1000.0, probe=("/bin/true",)))
    told = lines_of(render_unit(slow, version=252))
    interval = next(float(each.partition("=")[2]) for each in told if each.startswith("StartLimitIntervalSec="))
    assert interval > 5 * 1000


def test_a_gpu_is_let_in_by_class_and_never_by_a_pattern_of_paths() -> None:
    told = lines_of(render_unit(spec(hardening="strict"), version=252, groups=("video",)))
    assert "DeviceAllow=char-nvidia* rw" in told
    assert not [each for each in told if each.startswith("DeviceAllow=/dev/nvidia")]
    assert "PrivateDevices=yes" not in told
    assert "SupplementaryGroups=video" in told
    assert told.index("DevicePolicy=closed") < told.index("ProtectClock=yes")
    assert not [each for each in told if each.startswith("MemoryDenyWriteExecute")]


def test_basic_leaves_the_devices_alone() -> None:
    told = render_unit(spec(), version=252, groups=("video",))
    for key in ("DeviceAllow", "DevicePolicy", "ProtectClock", "ProtectHome", "SupplementaryGroups"):
        assert key not in told


def test_what_lies_in_a_home_is_bound_into_the_hidden_one() -> None:
    unit = render_unit(spec(hardening="strict", model_path=Path("/root/a model")), version=252)
    assert "ProtectHome=tmpfs\n" in unit
    assert "TemporaryFileSystem=/root:ro,mode=0755\n" in unit
    assert 'BindReadOnlyPaths="/root/a model"\n' in unit
    assert "ProtectHome=yes\n" in render_unit(spec(hardening="strict"), version=252)


def test_an_old_systemd_gets_folders_that_can_be_entered_above_what_is_bound() -> None:
    at_home = spec(hardening="strict", model_path=Path("/root/a model"))
    assert "UMask=0022\n" in render_unit(at_home, version=247)
    assert "UMask=0077\n" in render_unit(at_home, version=252)
    assert "UMask=0077\n" in render_unit(spec(hardening="strict"), version=247)


def test_what_lies_in_a_temporary_folder_stays_visible() -> None:
    basic = render_unit(spec(model_path=Path("/tmp/a model")), version=252)
    assert "PrivateTmp" not in basic
    assert "PrivateTmp=yes\n" in render_unit(spec(), version=252)
    strict = render_unit(spec(hardening="strict", model_path=Path("/tmp/a model")), version=252)
    assert "PrivateTmp=yes\n" in strict
    assert 'BindReadOnlyPaths="/tmp/a model"\n' in strict


def test_a_trial_opens_the_gpu_before_the_engine_and_belongs_to_no_boot() -> None:
    trial = render_unit(spec(hardening="strict"), version=252, trial=True)
    (check,) = (each for each in lines_of(trial) if each.startswith("ExecStartPre="))
    assert all(node in check for node in GPU)
    assert "[Install]" not in trial
    assert "Restart=no" in trial


def test_needed_paths_are_told_once_and_not_within_one_another() -> None:
    paths = needed_paths(spec(writable=(Path("/srv/store"), Path("/srv/store/blobs"))))
    assert Path("/srv/store") in paths
    assert not [one for one in paths for other in paths if one != other and one.is_relative_to(other)]


@pytest.mark.parametrize("value", ["a\nb", "a\0b", "\x1b[31m", "\udcff"])
def test_what_no_unit_can_hold_is_refused(value: str) -> None:
    for write in (word, lambda each: line(each, "the path"), lambda each: assignment("NAME", each)):
        with pytest.raises(UsageError, match="cannot stand in a unit file"):
            write(value)
    assert "\n" not in text(value)


@pytest.mark.parametrize("value", [" a", "a ", "a\\"])
def test_a_path_that_would_be_read_otherwise_is_refused(value: str) -> None:
    with pytest.raises(UsageError) as refused:
        line(value, "the path")
    assert "begins or ends" in str(refused.value.why)


def test_a_program_that_systemd_would_refuse_is_started_by_env() -> None:
    assert command_line(["/a b/python", "x"]) == '"/a b/python" x'
    assert command_line(["/a'b/python", "x"]).startswith("/usr/bin/env ")
    assert command_line(["/a$b/python", "$HOME"]) == '/usr/bin/env "/a$$b/python" "$$HOME"'


systemd = pytest.mark.skipif(lacking() is not None, reason=f"no box can be booted here: {lacking()}")


@pytest.fixture(scope="module", params=SUITES)
def machine(request: pytest.FixtureRequest) -> Iterator[tuple[Box, int]]:
    """A booted box of each release of systemd."""
    box = Box(base_root(request.param))
    try:
        box.boot()
        box.run("useradd --system firstlight; mkdir -p /units /run/user/0")
        yield box, SUITES[request.param]
    finally:
        box.destroy()


@pytest.mark.systemd
@systemd
def test_systemd_takes_every_unit_without_a_word_and_finds_strict_strict(machine: tuple[Box, int]) -> None:
    box, version = machine
    exposures = {}
    for name, kind in every_kind().items():
        unit = render_unit(kind, version=version, groups=("video", "render"), modprobe="/usr/bin/true")
        box.put(f"/units/{name}.service", unit)
        mode = "--user " if kind.scope == "user" else ""
        verified = box.run(
            f"systemd-analyze {mode}verify --man=no --recursive-errors=no /units/{name}.service",
            check=False,
            XDG_RUNTIME_DIR="/run/user/0",
        )
        assert (verified.returncode, verified.stderr) == (0, ""), f"{name}: {verified.stderr}\n{unit}"
        most = STRICT_MOST[kind.scope]
        judged = box.run(
            f"systemd-analyze {mode}security --offline=true --threshold={most} /units/{name}.service",
            check=False,
            XDG_RUNTIME_DIR="/run/user/0",
        )
        exposures[name] = judged.stdout.strip().rpartition("\n")[2]
        if kind.hardening == "strict":
            assert judged.returncode == 0, f"{name}: {judged.stdout[-200:]}"
    print(*(f"{name}: {told}" for name, told in exposures.items()), sep="\n")


@pytest.mark.systemd
@systemd
def test_the_units_of_others_stand_where_docs_say(machine: tuple[Box, int]) -> None:
    box, version = machine
    told = {}
    for file in sorted((Path(__file__).parent / "data" / "units").iterdir()):
        box.put(f"/units/{file.name}", file.read_text())
        judged = box.run(f"systemd-analyze security --offline=true /units/{file.name} | tail -n 1").stdout
        told[file.stem] = float(judged.partition(":")[2].split()[0])
    official = {252: 9.2, 257: 9.0}[version]
    assert told == {"ollama-official": official, "nixos-ollama": {252: 1.6, 257: 1.4}[version]}


@pytest.mark.systemd
@systemd
def test_the_gate_would_tell_a_unit_that_is_not_strict(machine: tuple[Box, int]) -> None:
    box, version = machine
    box.put("/units/plain.service", render_unit(spec(), version=version))
    judged = box.run("systemd-analyze security --offline=true --threshold=15 /units/plain.service", check=False)
    assert judged.returncode == 1
    wrong = render_unit(spec(), version=version).replace("Restart=on-failure", "Restart=sometimes")
    box.put("/units/wrong.service", wrong)
    verified = box.run("systemd-analyze verify --man=no --recursive-errors=no /units/wrong.service", check=False)
    assert (verified.returncode, "sometimes" in verified.stderr) == (1, True)


PRINTABLE = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
TRAPS = st.sampled_from(
    ["%h", "%%", "$HOME", "${HOME}", "$$", "\\", "\\x41", '"', "'", ";", "", " ", "a b", "-", "~", "#", "%n.d"]
)
WORDS = st.lists(st.one_of(TRAPS, PRINTABLE), min_size=1, max_size=5)


@pytest.mark.systemd
@systemd
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(commands=st.lists(WORDS, min_size=10, max_size=25), values=st.lists(PRINTABLE, min_size=5, max_size=10))
def test_systemd_reads_back_every_word_and_variable(
    machine: tuple[Box, int], commands: list[list[str]], values: list[str]
) -> None:
    box, _ = machine
    box.put(
        "/units/tell.pl",
        'open(my $f, ">>:raw", "/units/told") or die;'
        'print $f join("\\x1f", @ARGV, map { $ENV{"V$_"} } 0..$ENV{COUNT}-1), "\\x1e";',
    )
    box.run("rm -f /units/told")
    unit = ["[Service]", "Type=oneshot", assignment("COUNT", str(len(values)))]
    unit += [f"Environment={assignment(f'V{number}', value)}" for number, value in enumerate(values)]
    unit[2] = f"Environment={unit[2]}"
    unit += [f"ExecStart={command_line(['/usr/bin/perl', '/units/tell.pl', *words])}" for words in commands]
    box.put("/units/tell.service", "\n".join(unit) + "\n")
    box.run("cp /units/tell.service /run/systemd/system/ && systemctl daemon-reload && systemctl start tell")
    told = box.path("/units/told").read_bytes().decode().removesuffix("\x1e").split("\x1e")
    assert [each.split("\x1f") for each in told] == [[*words, *values] for words in commands]
