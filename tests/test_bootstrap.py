"""First boots: user-data that cloud-init takes, and a script that reaches a service on a bad network too."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.command import firstlight

from firstlight.errors import UsageError
from firstlight.serving.first_boot import FirstBoot, Places, too_big_for, user_data
from firstlight.serving.tool_archive import Archive, pack_tool
from firstlight.serving.user_data_check import problems_of

TOOL = """\
#!/bin/sh
# A stand-in for the tool: it notes what it is asked for, and fails as often as the file `fails` says.
state=/var/lib/firstlight
echo "$*" >>"$state/calls"
read -r left code word 2>/dev/null <"$state/fails" || left=0
if [ "$left" -gt 0 ] && [ "${1%%.*}" = "$word" ]; then
    echo "$((left - 1)) $code $word" >"$state/fails"
    exit "$code"
fi
[ "$1" != service.install ] || [ ! -d /run/systemd/system ] || {
    cat >/etc/systemd/system/chat.service <<UNIT
[Service]
ExecStart=/usr/bin/python3 -m http.server 8123 --bind 127.0.0.1
[Install]
WantedBy=multi-user.target
UNIT
    systemctl daemon-reload && systemctl enable --now chat.service
}
"""


def archive_of(tool: str = TOOL) -> Archive:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz") as tar:
        entry = tarfile.TarInfo("firstlight/scripts/firstlight")
        entry.size, entry.mode = len(tool.encode()), 0o755
        tar.addfile(entry, io.BytesIO(tool.encode()))
    data = stream.getvalue()
    return Archive(data=data, sha256=hashlib.sha256(data).hexdigest())


def script_of(text: str) -> str:
    """Return the script that stands in user-data."""
    block = text.split(f"path: {Places().script}", 1)[1].split("content: |\n", 1)[1]
    lines = []
    for line in block.split("\n"):
        if line and not line.startswith("      "):
            break
        lines.append(line[6:])
    return "\n".join(lines)


def wish(**changes) -> FirstBoot:
    return FirstBoot(**{"engine": "transformers", "model": "owner/model", "name": "chat", **changes})


class Server(ThreadingHTTPServer):
    """Serves one file; the first answers are those of `faults`: a status, or bytes that are not the file's."""

    def __init__(self, data: bytes, faults: list[int | bytes]) -> None:
        self.data, self.faults, self.asked = data, faults, 0
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/firstlight.tar.xz"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        fault = self.server.faults.pop(0) if self.server.faults else self.server.data
        body = fault if isinstance(fault, bytes) else b""
        self.send_response(200 if isinstance(fault, bytes) else fault)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve():
    running = []

    def start(data: bytes, faults: list[int | bytes]) -> Server:
        server = Server(data, faults)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


class Machine:
    """The places that the script writes to, each a folder of the test's laid over this machine's."""

    PLACES = ("/opt", "/usr/local/bin", "/var/lib", "/var/log")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for place in self.PLACES:
            self.path(place).mkdir(parents=True)
        (self.path("/var/lib") / "firstlight").mkdir()

    def path(self, inside: str) -> Path:
        return self.folder / inside.lstrip("/")

    def run(self, script: str, **variables: str) -> int:
        file = self.folder / "script.sh"
        file.write_text(script)
        mounts = "".join(f'mount --bind "$0{place}" {place} && ' for place in self.PLACES)
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{mounts} exec sh $0/script.sh", str(self.folder)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "FIRSTLIGHT_BOOTSTRAP_PAUSE": "0", **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.stderr == ""
        return done.returncode

    @property
    def marker(self) -> dict[str, str]:
        lines = self.path("/var/lib/firstlight/bootstrap.done").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def calls(self) -> list[str]:
        return self.path("/var/lib/firstlight/calls").read_text().splitlines()

    @property
    def log(self) -> str:
        return self.path("/var/log/firstlight-bootstrap.log").read_text()


@pytest.fixture
def machine(tmp_path):
    python = shutil.which("python3", path="/usr/bin:/bin")
    if os.geteuid() != 0 or shutil.which("unshare") is None or python is None:
        pytest.skip("needs root, unshare(1) and the system's own Python")
    return Machine(tmp_path / "machine")


CALLS = ["--version", "setup.transformers --yes", "service.install transformers --model owner/model --yes --name chat"]


@pytest.mark.root
def test_a_bad_network_is_tried_again_until_the_service_answers(machine, serve):
    archive = archive_of()
    server = serve(archive.data, [503, b"<html>log in first</html>", archive.data[:100]])
    machine.path("/var/lib/firstlight/fails").write_text("2 4 setup\n")
    assert machine.run(script_of(user_data(wish(source=server.url), archive))) == 0
    assert server.asked == 4
    assert machine.marker["status"] == "0"
    assert machine.calls == [CALLS[0], CALLS[1], CALLS[1], *CALLS[1:]]
    assert "its SHA-256 is" in machine.log
    assert "fetch the tool (attempt 4 of 8)" in machine.log
    assert (machine.path("/usr/local/bin") / "firstlight").readlink() == Path("/opt/firstlight/scripts/firstlight")

    assert machine.run(script_of(user_data(wish(source=server.url), archive))) == 0
    assert server.asked == 4
    assert len(machine.calls) == 5  # done is done
    assert "done already" in machine.log


@pytest.mark.root
def test_what_no_network_caused_ends_at_once_with_its_status(machine, serve):
    archive = archive_of()
    server = serve(archive.data, [])
    machine.path("/var/lib/firstlight/fails").write_text("1 3 setup\n")
    script = script_of(user_data(wish(source=server.url), archive))
    assert machine.run(script) == 3
    assert machine.marker["status"] == "3"
    assert machine.marker["step"] == "set up transformers"
    assert machine.calls == CALLS[:2]

    assert machine.run(script) == 0  # by hand, after the cause was mended: it goes on where it stopped
    assert server.asked == 1
    assert machine.marker["status"] == "0"


@pytest.mark.root
def test_a_network_that_never_delivers_ends_with_status_4(machine, serve):
    archive = archive_of()
    server = serve(archive.data, [503] * 9)
    script = script_of(user_data(wish(source=server.url), archive))
    assert machine.run(script, FIRSTLIGHT_BOOTSTRAP_ATTEMPTS="3") == 4
    assert (machine.marker["status"], server.asked) == ("4", 3)


@pytest.mark.root
def test_a_tool_that_travels_inside_is_held_against_its_hash(machine):
    archive = archive_of()
    text = user_data(wish(), archive)
    assert Places().archive in text
    machine.path(Places().archive).write_bytes(archive.data[:-1])
    assert machine.run(script_of(text)) == 5
    assert machine.marker["step"] == "unpack the tool"
    machine.path(Places().archive).write_bytes(archive.data)
    assert machine.run(script_of(text)) == 0


@pytest.mark.root
def test_a_second_run_leaves_the_first_one_alone(machine):
    archive = archive_of()
    machine.path(Places().archive).write_bytes(archive.data)
    script = script_of(user_data(wish(), archive))
    inner = machine.folder / "inner.sh"
    inner.write_text(script)
    both = script.replace("finish 0 ", f"sh {inner} 9>&-; finish 0 ")
    assert machine.run(both) == 0
    assert "another run is at work" in machine.log
    assert machine.marker["status"] == "0"


@pytest.mark.root
def test_the_key_that_is_shown_once_is_not_in_the_log(machine):
    says = "[ \"$1\" = service.install ] || exit 0\necho before\necho 'API key, shown this once: sk-hush'\necho after\n"
    archive = archive_of(f"{TOOL}{says}")
    machine.path(Places().archive).write_bytes(archive.data)
    assert machine.run(script_of(user_data(wish(host="0.0.0.0"), archive))) == 0
    shown = machine.log.split("install and prove the service", 1)[1]
    assert "before\nAPI key, shown this once: not in this log, see the file below\nafter\n" in shown
    assert not machine.path("/var/lib/firstlight/bootstrap.done.pipe").exists()


@pytest.mark.root
def test_awkward_words_arrive_as_they_are(machine):
    model = '/models/it\'s 100% "mine"; $(touch /opt/owned) `x` \\n ünï'
    archive = archive_of(TOOL.replace('echo "$*"', "printf '%s\\n' \"$4\""))
    machine.path(Places().archive).write_bytes(archive.data)
    assert machine.run(script_of(user_data(wish(model=model), archive))) == 0
    assert machine.calls[-1] == model
    assert not machine.path("/opt/owned").exists()


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="needs cloud-init")
@pytest.mark.parametrize(
    "changes",
    [{}, {"token": "hf_secret: 'x'"}, {"model": "a: b # c 'd' \"e\" %", "flags": ("--x", "{y}")}],
    ids=["plain", "token", "awkward"],
)
def test_cloud_init_takes_the_user_data(tmp_path, changes):
    file = tmp_path / "user-data"
    file.write_text(user_data(wish(**changes), archive_of()))
    seen = subprocess.run(["cloud-init", "schema", "-c", str(file)], capture_output=True, text=True, check=False)
    assert seen.returncode == 0, seen.stdout + seen.stderr
    assert "Valid cloud-config" in seen.stdout


def test_no_secret_is_in_user_data_unless_asked_for_and_then_only_root_reads_it(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")
    assert "hf_of_this_machine" not in user_data(wish(), archive_of())
    text = user_data(wish(token="hf_asked_for"), archive_of())
    assert text.count("hf_asked_for") == 1
    before = text.split("hf_asked_for")[0]
    assert before.rindex("permissions: '0600'") > before.rindex(f"path: {Places().token}")
    assert f"HF_TOKEN_PATH={Places().token}" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#cloud-config\nwrite_file:\n  - path: /a\n", 'no key write_file (did you mean "write_files"?)'),
        ("#cloud-config\nruncmds: []\n", 'did you mean "runcmd"?'),
        ("#cloud-config \nruncmd: []\nruncmd: []\n", "stands there twice"),
        ("runcmd: []\n", "first line is not #cloud-config"),
        ("#cloud-config\n", "no keys at all"),
        ("#cloud-config\n{}\n", "no keys at all"),
        ("", "first line is not #cloud-config"),
        ("\ufeff#cloud-config\nruncmd: []\n", "byte order mark"),
        ('#cloud-config\n{"runcmd": [a],\n "write_file": []}\n', "line 3: cloud-init has no key write_file (did"),
        ("#cloud-config\n'runcmd': []\n\"Package\": []\n", 'line 3: cloud-init has no key Package (did you mean "pack'),
        ("#cloud-config\nusers: [&a {runcmds: []}]\n<<: *a\n", "line 2: cloud-init has no key runcmds"),
        ("#cloud-config\n? runcmd\n: []\n? zzz\n: 1\n", "line 4: cloud-init has no key zzz"),
        ("#cloud-config\n12: a\n", "line 2: a key must be a word, not 12"),
        ("#cloud-config\n[a]: b\n", "line 2: a key must be a word, not a sequence"),
        ("#cloud-config\n- a\n", "line 2: it is no mapping of keys, but a list"),
        ("#cloud-config\nhello\n", "line 2: it is no mapping of keys, but a text"),
        ("#cloud-config\nruncmd:\n\t- a\n", "line 3: YAML takes no tab"),
        ("#cloud-config\nruncmd: [a\n", "it is no YAML: while parsing a flow sequence"),
        ("#cloud-config\nruncmd: *nobody\n", "line 2: it is no YAML: found undefined alias"),
        ("#cloud-config\nruncmd: []\n---\nusers: []\n", "line 3: a second document begins here"),
        ("#cloud-config\nruncmd: !mine x\n", "line 2: it is no YAML: could not determine a constructor"),
        ("#cloud-config\nruncmd: 2024-13-45\n", "no YAML that cloud-init reads"),
        ("#cloud-config\nruncmd: \x1b[31m\n", "line 2: YAML takes no control character"),
        (f"#cloud-config\nruncmd: {'[' * 20_000}", "YAML"),
    ],
)
def test_what_the_schema_lets_pass_is_told(tmp_path, text, said):
    assert said in "\n".join(problems_of(text))
    file = tmp_path / "user-data"
    file.write_text(text)
    ended = firstlight("bootstrap.check", str(file))
    assert ended.code == 1
    assert said in ended.out


@pytest.mark.parametrize(
    "text",
    [
        "#cloud-config\n{runcmd: [a], users: [], 'hostname': x}\n",
        "#cloud-config\nusers: [&a {runcmd: []}]\n<<: *a\nruncmd: [b]\n",  # its own key comes before a merged one
        "#cloud-config of mine\n%YAML 1.1\n---\nruncmd: |\n  write_file:\n  \tx\n",
        "#cloud-config\r\nruncmd: [a]\r\n",
        '#cloud-config\n"write_files": &x\n  - {path: /a, content: "write_file: no"}\nbootcmd: *x\n',
    ],
    ids=["braces", "merged", "directive", "crlf", "quoted"],
)
def test_any_style_of_yaml_is_understood(text):
    assert problems_of(text) == []


def test_aliases_that_would_grow_without_end_are_judged_at_once():
    layers = [f"x{number}: &x{number} [{', '.join([f'*x{number - 1}'] * 9)}]" for number in range(1, 40)]
    text = "\n".join(["#cloud-config", "x0: &x0 [a]", *layers, ""])
    assert len(problems_of(text)) == 40


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"#include\nhttps://example.org/a\n", "not judged: it is a list of addresses"),
        (b"#!/bin/sh\necho\n", "not judged: it is a script"),
        (b"## template: jinja\n#cloud-config\n", "not judged: it is a Jinja template"),
        (b"#cloud-config-archive\n- a\n", "not judged: it is an archive of several parts"),
        (b"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n--x\n", "not judged: it is a MIME message"),
        (b"\x1f\x8b\x08\x00", "gunzip --to-stdout"),
        (b"#cloud-config\nruncmd: [\xff]\n", "is no text"),
        (b"#cloud-config\n\0", "is no text"),
        (b"#cloud-config\n" + b"#" * (16 << 20), "is bigger than 16 MiB"),
        (None, "cannot be read"),
    ],
    ids=["include", "script", "jinja", "archive", "mime", "gzip", "latin", "zero", "huge", "folder"],
)
def test_what_cannot_be_judged_is_told_and_never_passes(tmp_path, data, said):
    file = tmp_path / "user-data"
    file.mkdir() if data is None else file.write_bytes(data)
    ended = firstlight("bootstrap.check", str(file))
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err


def test_the_user_data_of_ours_passes_our_own_check(tmp_path):
    file = tmp_path / "user-data"
    file.write_text(user_data(wish(), archive_of()))
    assert firstlight("bootstrap.check", str(file)).code == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "two\nlines"}, "--model cannot stand in user-data"),
        ({"model": " "}, "--model cannot stand in user-data"),
        ({"source": "ftp://example.org/x"}, "--source does not take ftp"),
        ({"source": "https://me:secret@example.org/x"}, "holds a name or a password"),
        ({"name": "../x"}, "cannot be the name of a server"),
        ({"sha256": "abc", "source": "https://example.org/x"}, "has no SHA-256"),
    ],
)
def test_what_cannot_work_is_refused(changes, said):
    with pytest.raises(UsageError, match=said) as caught:
        user_data(wish(**changes), archive_of())
    assert "secret" not in f"{caught.value.what} {caught.value.why} {caught.value.fix}".replace("no secret", "")


def test_a_source_without_a_known_hash_is_refused_with_the_way_out():
    ended = firstlight(
        "bootstrap.cloud-init", "--engine", "transformers", "--model", "m", "--source", "https://example.org/f.tar.xz"
    )
    assert ended.code == 2
    assert "has no SHA-256" in ended.err
    assert "--pack firstlight.tar.xz" in ended.err


def test_the_archive_is_pinned_and_small_user_data_fits_every_cloud(tmp_path):
    pack, output = tmp_path / "firstlight.tar.xz", tmp_path / "user-data"
    words = ["--model", "m", "--engine", "transformers", "--source", "https://example.org/firstlight.tar.xz"]
    ended = firstlight("bootstrap.cloud-init", *words, "--pack", str(pack), "--output", str(output))
    assert ended.code == 0, ended.err
    text = output.read_text()
    assert hashlib.sha256(pack.read_bytes()).hexdigest() in text
    assert too_big_for(text) == []
    assert "too big" not in ended.err


@pytest.mark.parametrize(
    ("words", "said"), [(["--model", "m"], "no engine was named"), (["--engine", "vllm"], "no model")]
)
def test_an_engine_and_a_model_have_to_be_named(words, said):
    ended = firstlight("bootstrap.cloud-init", *words)
    assert ended.code == 2
    assert said in ended.err


def test_the_size_of_user_data_that_carries_the_tool_is_told(tmp_path):
    ended = firstlight(
        "bootstrap.cloud-init", "--engine", "transformers", "--model", "m", "--output", str(tmp_path / "user-data")
    )
    assert ended.code == 0, ended.err
    assert "too big for Amazon EC2 (16 KiB)" in ended.err
    assert "--source URL --pack FILE" in ended.err


def test_the_same_files_make_the_same_archive_whenever_and_in_whatever_order_they_are_found(tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("a.py", "b.toml")}
    for name, file in files.items():
        file.write_text(name)
    monkeypatch.setattr("firstlight.serving.tool_archive.members", lambda: iter(files.items()))
    first = pack_tool()
    os.utime(files["a.py"], (1, 1))
    monkeypatch.setattr("firstlight.serving.tool_archive.members", lambda: reversed(files.items()))
    assert pack_tool() == first
    files["a.py"].write_text("changed")
    assert pack_tool().sha256 != first.sha256


def test_the_archive_holds_a_tool_that_starts_and_nothing_of_this_machine(tmp_path):
    archive = pack_tool()
    with tarfile.open(fileobj=io.BytesIO(archive.data), mode="r:xz") as tar:
        names = tar.getnames()
        tar.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        owners = {(entry.uid, entry.uname, entry.mtime) for entry in tar.getmembers()}
    assert owners == {(0, "", 1)}
    assert not [name for name in names if "__pycache__" in name or "/." in name or name.endswith(".pyc")]
    tool = tmp_path / "firstlight"
    assert os.access(tool / "scripts" / "firstlight", os.X_OK)
    done = subprocess.run(
        [sys.executable, "-m", "firstlight", "--version"], cwd=tool, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("firstlight ")


def test_the_script_is_plain_posix_shell(tmp_path):
    checker = shutil.which("shellcheck")
    script = tmp_path / "script.sh"
    script.write_text(script_of(user_data(wish(source="https://example.org/f.tar.xz"), archive_of())))
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    if checker is not None:
        seen = subprocess.run([checker, "--severity=warning", str(script)], capture_output=True, text=True, check=False)
        assert seen.returncode == 0, seen.stdout


def test_a_token_file_that_is_not_there_is_told(tmp_path):
    ended = firstlight(
        "bootstrap.cloud-init", "--engine", "transformers", "--model", "m", "--hf-token-file", str(tmp_path / "none")
    )
    assert ended.code == 2
    assert "cannot be read" in ended.err
