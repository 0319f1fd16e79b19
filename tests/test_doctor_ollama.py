"""The doctor on Ollama: trees in the layouts of its releases, broken stores, units, and a server that answers."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from support.doctor_look import GPU, judge, look, told
from support.machine_tree import plant, program

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.types import Catalogue
from firstlight.doctor.probes import ollama, ollama_store
from firstlight.doctor.probes.ollama import Loaded, OllamaSeen, Server, parse_unit
from firstlight.doctor.probes.services import story_of_lines
from firstlight.machine.facts import Machine

LOGS = Path(__file__).parent / "data" / "logs" / "ollama"
RELEASES = {
    "0.5.1": ["libcublas.so.11.5.1", "libcublas.so.12.4.5", "libcudart.so.11.0", "libcudart.so.12.4.127"],
    "0.5.7": [
        "libcudart.so.12.4.127",
        "runners/cpu_avx/ollama_llama_server",
        "runners/cuda_v12_avx/libggml_cuda_v12.so",
    ],
    "0.6.2": [
        *("libggml-base.so", "libggml-cpu-haswell.so", "cuda_v11/libggml-cuda.so", "cuda_v11/libcudart.so.11.0"),
        *("cuda_v12/libggml-cuda.so", "cuda_v12/libcudart.so.12", "cuda_v12/libcudart.so.12.8.57"),
    ],
    "0.11.4": ["libggml-base.so", "libggml-cpu-haswell.so", "libggml-cuda.so", "libcudart.so.12", "libcublas.so.12"],
    "0.13.5": ["libggml-base.so", "cuda_v12/libcudart.so.12", "cuda_v13/libcudart.so.13", "vulkan/libggml-vulkan.so"],
    "0.32.7": [
        *("llama-server", "llama-quantize", "libggml-base.so.0", "cuda_v12/libcudart.so.12"),
        *("cuda_v13/libcudart.so.13", "vulkan/libggml-vulkan.so"),
    ],
}


def install(prefix: Path, *releases: str) -> Path:
    """Unpack fake releases over each other, in their true layout; returns the program."""
    for release in releases:
        for name in RELEASES[release]:
            file = prefix / "lib" / "ollama" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"\x7fELF")
    return program(prefix / "bin", "ollama", "exit 1")


def read(tree: Path, *, path: str = "", deep: bool = False, home: Path | None = None, seconds=20.0, **variables: str):
    where = home or tree / "fl-home"
    return ollama.read(
        look(tree, home=where, PATH=path, HOME=str(tree / "user"), deep=deep, seconds=seconds, **variables)
    )


class TestLibraries:
    @pytest.mark.parametrize("release", RELEASES)
    def test_a_whole_release_is_ok(self, tmp_path, release):
        install(tmp_path / "usr", release)
        seen = read(tmp_path, path=str(tmp_path / "usr/bin"))
        assert [copy.mixed for copy in seen.copies] == [()]
        assert told(judge("ollama-libraries", ollama=seen)) == [("ok", None)]
        assert told(judge("ollama-copies", ollama=seen)) == [("ok", None)]

    @pytest.mark.parametrize(
        ("older", "newer", "words"),
        [
            ("0.5.7", "0.6.2", "runners/ is of a release up to 0.5.7"),
            ("0.5.7", "0.32.7", "runners/ is of a release up to 0.5.7"),
            ("0.6.2", "0.13.5", "cuda_v11 is of a release up to 0.9.2, cuda_v13 is newer"),
            ("0.6.2", "0.11.4", "libcublas.so.12 lies flat as in 0.9.3 to 0.11.10, beside cuda_v11, cuda_v12"),
            ("0.11.4", "0.13.5", "lies flat as in 0.9.3 to 0.11.10, beside cuda_v12, cuda_v13"),
            ("0.11.4", "0.32.7", "lies flat"),
        ],
    )
    def test_a_release_unpacked_over_another_is_seen(self, tmp_path, older, newer, words):
        install(tmp_path / "usr", older, newer)
        seen = read(tmp_path, path=str(tmp_path / "usr/bin"))
        (finding,) = judge("ollama-libraries", ollama=seen)
        assert finding.status == "fail"
        assert words in finding.evidence
        assert finding.remedy.needs_root
        assert not finding.remedy.automatic

    def test_two_cudas_in_one_runner_are_seen(self):
        names = ["libggml-base.so", "cuda_v12", "cuda_v12/libcudart.so.12", "cuda_v12/libcudart.so.13"]
        assert list(ollama.mixed(names)) == ["cuda_v12 holds libcudart of CUDA 12 and 13"]

    def test_a_program_without_its_libraries(self, tmp_path):
        program(tmp_path / "usr/local/bin", "ollama", "exit 1")
        seen = read(tmp_path, path=str(tmp_path / "usr/local/bin"))
        (finding,) = judge("ollama-libraries", ollama=seen)
        assert finding.status == "fail"
        assert str(tmp_path / "usr/local/lib/ollama") in finding.evidence
        assert f"into {tmp_path}/usr/local" in finding.remedy.text

    def test_an_old_program_that_carries_its_libraries_needs_none(self, tmp_path):
        file = program(tmp_path / "usr/bin", "ollama", "exit 1")
        os.truncate(file, 400_000_000)
        seen = read(tmp_path, path=str(tmp_path / "usr/bin"))
        assert seen.copies[0].self_contained
        assert told(judge("ollama-libraries", ollama=seen)) == [("ok", None)]

    def test_a_link_to_the_program_finds_the_libraries_behind_it(self, tmp_path):
        real = install(tmp_path / "opt/ollama", "0.13.5")
        (tmp_path / "usr/bin").mkdir(parents=True)
        (tmp_path / "usr/bin/ollama").symlink_to(real)
        seen = read(tmp_path, path=str(tmp_path / "usr/bin"))
        assert [copy.library for copy in seen.copies] == [str(tmp_path / "opt/ollama/lib/ollama")]

    def test_nothing_of_ollama_is_a_skip(self, tmp_path):
        seen = read(tmp_path)
        for name in ("ollama-copies", "ollama-libraries", "ollama-gpu", "ollama-blobs", "ollama-unit"):
            assert [finding.status for finding in judge(name, ollama=seen, machine=GPU)] == ["skip"]


class TestCopies:
    def test_two_copies_name_the_one_that_a_shell_starts_and_the_units(self, tmp_path):
        install(tmp_path / "usr", "0.32.7")
        install(tmp_path / "usr/local", "0.6.2")
        plant(tmp_path, {"/etc/systemd/system/ollama.service": "[Service]\nExecStart=/usr/bin/ollama serve\n"})
        seen = read(tmp_path, path=f"{tmp_path}/usr/local/bin:{tmp_path}/usr/bin")
        (finding,) = judge("ollama-copies", ollama=seen)
        assert finding.status == "warn"
        assert f"A shell starts {tmp_path}/usr/local/bin/ollama. The service starts /usr/bin/ollama." in finding.detail
        assert len(finding.evidence.splitlines()) == 2

    def test_one_program_by_two_names_is_one_copy(self, tmp_path):
        install(tmp_path / "usr", "0.13.5")
        (tmp_path / "bin").symlink_to("usr/bin")
        seen = read(tmp_path, path=f"{tmp_path}/bin:{tmp_path}/usr/bin")
        assert len(seen.copies) == 1

    def test_firstlights_own_copy_does_not_count_as_a_second_one(self, tmp_path):
        install(tmp_path / "usr", "0.13.5")
        install(tmp_path / "fl-home" / "ollama" / "0.32.7", "0.32.7")
        seen = read(tmp_path, path=f"{tmp_path}/usr/bin")
        assert sorted(copy.ours for copy in seen.copies) == [False, True]
        assert told(judge("ollama-copies", ollama=seen)) == [("ok", None)]


UNIT = "[Unit]\nDescription=Ollama Service\n[Service]\nExecStart=/usr/local/bin/ollama serve\n{lines}\nRestart=always\n"
UNIT_PATH = "/etc/systemd/system/ollama.service"


def unit(tree: Path, *lines: str, drop_in: str | None = None):
    files = {UNIT_PATH: UNIT.format(lines="\n".join(lines))}
    if drop_in is not None:
        files[f"{UNIT_PATH}.d/override.conf"] = drop_in
    return read(plant(tree, files))


class TestUnit:
    def test_the_official_unit_is_ok(self, tmp_path):
        seen = unit(tmp_path, "User=ollama", "Group=ollama", 'Environment="PATH=/usr/local/sbin:/usr/bin:/bin"')
        assert told(judge("ollama-unit", ollama=seen)) == [("ok", None)]

    def test_a_unit_without_user_and_home(self, tmp_path):
        (finding,) = judge("ollama-unit", ollama=unit(tmp_path))
        assert (finding.status, finding.subject) == ("fail", "HOME")

    @pytest.mark.parametrize("line", ["Environment=HOME=/root", 'Environment="HOME=/root" OLLAMA_DEBUG=1'])
    def test_a_home_cures_it(self, tmp_path, line):
        assert told(judge("ollama-unit", ollama=unit(tmp_path, line))) == [("ok", None)]

    @pytest.mark.parametrize("path", ["/root/miniconda3/bin:/usr/bin", "/srv/x/.venv/bin:/bin", "$PATH"])
    def test_a_shells_path_in_the_unit(self, tmp_path, path):
        (finding,) = judge("ollama-unit", ollama=unit(tmp_path, "User=ollama", f'Environment="PATH={path}"'))
        assert (finding.status, finding.subject) == ("warn", "PATH")
        assert path in finding.evidence

    @pytest.mark.parametrize("host", ["0.0.0.0", "0.0.0.0:11434", "http://0.0.0.0:11434", ":11434", "[::]:11434"])
    def test_an_open_address_in_a_drop_in(self, tmp_path, host):
        seen = unit(tmp_path, "User=ollama", drop_in=f'[Service]\nEnvironment="OLLAMA_HOST={host}"\n')
        (finding,) = judge("ollama-unit", ollama=seen)
        assert (finding.status, finding.subject) == ("warn", "OLLAMA_HOST")

    @pytest.mark.parametrize("host", ["127.0.0.1:11434", "10.0.0.3", "localhost", ""])
    def test_a_closed_address_is_ok(self, tmp_path, host):
        seen = unit(tmp_path, "User=ollama", f"Environment=OLLAMA_HOST={host}")
        assert told(judge("ollama-unit", ollama=seen)) == [("ok", None)]

    def test_secrets_of_a_unit_are_not_kept(self, tmp_path):
        seen = unit(tmp_path, "User=ollama", "Environment=OLLAMA_API_KEY=not-for-eyes HF_TOKEN=not-for-eyes")
        assert "not-for-eyes" not in repr(seen)

    @pytest.mark.parametrize("text", ["", "=\n==", 'Environment="unclosed', "ExecStart=", "\0"])
    def test_an_odd_unit_is_no_traceback(self, text):
        assert parse_unit("/x", text).program is None


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class FakeStore:
    """A store of models in Ollama's layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True)

    def blob(self, content: bytes) -> Mapping[str, object]:
        (self.blobs / f"sha256-{digest_of(content)}").write_bytes(content)
        return {"mediaType": "x", "digest": f"sha256:{digest_of(content)}", "size": len(content)}

    def model(self, name: str, *contents: bytes, host: str = "registry.ollama.ai/library") -> Path:
        layers = [self.blob(content) for content in contents]
        manifest = {"schemaVersion": 2, "config": self.blob(b"{}"), "layers": layers}
        path = self.folder / "manifests" / host / name.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(manifest))
        return path

    def file(self, content: bytes) -> Path:
        return self.blobs / f"sha256-{digest_of(content)}"

    def newer(self, name: str, manifest: Mapping[str, object]) -> Path:
        """Name a manifest as newer releases do: itself a blob, and a link to it in a second folder."""
        blob = self.blob(json.dumps(manifest).encode())
        path = self.folder / "manifests-v2" / "ollama.com" / "library" / name.replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.blobs / str(blob["digest"]).replace(":", "-"))
        return path


@pytest.fixture
def store(tmp_path):
    return FakeStore(tmp_path / "user" / ".ollama" / "models")


class TestStore:
    def test_a_whole_store_is_ok(self, store, tmp_path):
        store.model("qwen3:8b", b"weights", b"template")
        store.model("u/r:Q4_K_M", b"weights", host="hf.co")
        (finding,) = judge("ollama-blobs", ollama=read(tmp_path))
        assert finding.summary == f"2 models in {store.folder}, all files there (not hashed: --deep)"
        (finding,) = judge("ollama-blobs", ollama=read(tmp_path, deep=True))
        assert finding.summary.endswith("(and every hash is right)")

    def test_wrong_bytes_are_found_by_deep_alone(self, store, tmp_path):
        store.model("qwen3:8b", b"weights", b"template")
        store.file(b"weights").write_bytes(b"Weights")
        assert told(judge("ollama-blobs", ollama=read(tmp_path)))[0][0] == "ok"
        (finding,) = judge("ollama-blobs", ollama=read(tmp_path, deep=True))
        assert finding.status == "fail"
        assert finding.summary.startswith("a file of qwen3:8b is damaged: its bytes have the hash")
        assert finding.remedy.commands == [
            f"sudo rm {store.file(b'weights')}",
            f"sudo OLLAMA_MODELS={store.folder} firstlight ollama.pull qwen3:8b",
        ]

    def test_a_file_that_is_gone_or_cut_short_is_found_at_once(self, store, tmp_path):
        store.model("one:latest", b"weights")
        store.model("two:latest", b"other weights")
        store.file(b"weights").unlink()
        store.file(b"other weights").write_bytes(b"oth")
        found = judge("ollama-blobs", ollama=read(tmp_path))
        assert [finding.status for finding in found] == ["fail", "fail"]
        assert "one:latest is not whole: its file sha256-" in found[0].summary
        assert found[0].summary.endswith("is gone")
        assert found[1].summary.endswith("has 3 bytes instead of 13")

    def test_a_blob_may_be_a_link_to_a_file_elsewhere(self, store, tmp_path):
        store.model("one:latest", b"weights")
        elsewhere = tmp_path / "weights.gguf"
        store.file(b"weights").rename(elsewhere)
        store.file(b"weights").symlink_to(elsewhere)
        assert [finding.status for finding in judge("ollama-blobs", ollama=read(tmp_path, deep=True))] == ["ok"]

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"layers": 3}', b"\xff\xfe", b'{"schemaVersion": 2}'])
    def test_a_manifest_that_does_not_parse(self, store, tmp_path, content):
        path = store.model("qwen3:8b", b"weights")
        path.write_bytes(content)
        (finding,) = judge("ollama-manifests", ollama=read(tmp_path))
        assert (finding.status, finding.subject) == ("warn", str(path))
        assert finding.summary == "the manifest of qwen3:8b cannot be read"

    def test_models_of_newer_releases_are_in_a_second_folder_and_count_once(self, store, tmp_path):
        store.model("qwen3:8b", b"weights")
        store.newer("qwen3:8b", {"schemaVersion": 2, "layers": [store.blob(b"weights")]})
        store.newer("phi:latest", {"schemaVersion": 2, "layers": [store.blob(b"phi")]})
        (finding,) = judge("ollama-blobs", ollama=read(tmp_path, deep=True))
        assert finding.summary.startswith(f"2 models in {store.folder}, all files there")
        store.file(b"phi").unlink()
        (finding,) = judge("ollama-blobs", ollama=read(tmp_path))
        assert finding.summary.startswith("phi:latest is not whole")

    def test_a_list_of_manifests_is_no_broken_one(self, store, tmp_path):
        ours, theirs = {"layers": [store.blob(b"weights")]}, {"layers": [store.blob(b"tensors")]}
        children = [{**theirs, "runner": "mlx"}, {**ours, "runner": "llamacpp"}]
        kind = "application/vnd.ollama.manifest.list.v2+json"
        store.newer("qwen3:8b", {"schemaVersion": 2, "mediaType": kind, "manifests": children})
        store.file(b"tensors").unlink()  # no server here reads them
        assert judge("ollama-manifests", ollama=read(tmp_path))[0].status == "ok"
        assert judge("ollama-blobs", ollama=read(tmp_path))[0].status == "ok"
        store.file(b"weights").unlink()
        (finding,) = judge("ollama-blobs", ollama=read(tmp_path))
        assert finding.summary.startswith("qwen3:8b is not whole")

    def test_unfinished_downloads_count_by_what_they_take_up(self, store, tmp_path):
        store.model("one:latest", b"weights")
        for name in (f"sha256-{'a' * 64}-partial", f"sha256-{'b' * 64}-partial"):
            with (store.blobs / name).open("wb") as stream:
                stream.truncate(5_000_000_000)  # as Ollama makes them: the full size, and nothing in it
        (store.blobs / f"sha256-{'a' * 64}-partial-0").write_text('{"N":0}')
        seen = read(tmp_path)
        assert (seen.stores[0].partial_files, told(judge("ollama-partials", ollama=seen))) == (2, [("ok", None)])
        grown = msgspec.structs.replace(seen.stores[0], partial_bytes=3_500_000_000)
        (finding,) = judge("ollama-partials", ollama=OllamaSeen(stores=(grown,)))
        assert finding.summary == "2 unfinished downloads take up 3.5 GB"

    def test_hashing_stops_in_time_and_says_what_it_left_out(self, store, tmp_path):
        for number in range(3):
            store.model(f"m{number}:latest", f"weights {number}".encode())
        (seen,) = read(tmp_path, deep=True, seconds=0.0).stores
        assert seen.unhashed == 4
        (finding,) = judge("ollama-blobs", ollama=OllamaSeen(stores=(seen,)))
        assert "4 not hashed for want of time" in finding.summary

    def test_the_variable_names_the_store(self, tmp_path):
        elsewhere = FakeStore(tmp_path / "big" / "models")
        elsewhere.model("qwen3:8b", b"weights")
        seen = read(tmp_path, OLLAMA_MODELS=str(elsewhere.folder))
        assert [item.path for item in seen.stores] == [str(elsewhere.folder)]


PASSWD = "root:x:0:0::/root:/bin/sh\nollama:x:998:997::/usr/share/ollama:/bin/false\n"
GROUP = "ollama:x:997:\nmodels:x:990:ollama,me\n"


class TestModelsFolder:
    def prepared(self, tree: Path, **modes: int):
        files = {
            "/etc/passwd": PASSWD,
            "/etc/group": GROUP,
            UNIT_PATH: UNIT.format(lines="User=ollama\nEnvironment=OLLAMA_MODELS=/data/big/models"),
            "/data/big/models/blobs": None,
        }
        plant(tree, files)
        for folder in ("data", "data/big", "data/big/models"):
            (tree / folder).chmod(modes.get(folder.replace("/", "_"), 0o755))
        try:
            return read(tree)
        finally:
            for folder in ("data", "data/big", "data/big/models"):
                (tree / folder).chmod(0o755)

    def test_an_open_way_is_ok(self, tmp_path):
        seen = self.prepared(tmp_path)
        assert seen.stores[0].user == "ollama"
        assert told(judge("ollama-models-folder", ollama=seen)) == [("ok", None)]

    def test_every_closed_parent_is_named(self, tmp_path):
        (finding,) = judge("ollama-models-folder", ollama=self.prepared(tmp_path, data=0o700, data_big=0o750))
        assert finding.status == "fail"
        assert [line.partition(",")[0] for line in finding.evidence.splitlines()] == [
            f"{tmp_path}/data (mode 0700",
            f"{tmp_path}/data/big (mode 0750",
        ]
        assert finding.remedy.commands == [f"sudo chmod o+x {tmp_path}/data {tmp_path}/data/big"]

    def test_a_closed_folder_itself_gets_its_owner(self, tmp_path):
        (finding,) = judge("ollama-models-folder", ollama=self.prepared(tmp_path, data_big_models=0o700))
        assert finding.remedy.commands == [f"sudo chown -R ollama: {tmp_path}/data/big/models"]

    def test_a_group_of_the_user_opens_the_way(self, tmp_path):
        root = plant(tmp_path, {"/etc/passwd": PASSWD, "/etc/group": GROUP})
        (root / "etc").chmod(0o750)
        status = (root / "etc").stat()
        assert ollama_store._bits(status, 998, {status.st_gid}) & 1
        assert not ollama_store._bits(status, 998, {12345}) & 1

    def test_a_user_that_does_not_exist_is_told_elsewhere(self, tmp_path):
        plant(tmp_path, {UNIT_PATH: UNIT.format(lines="User=nobody-here\nEnvironment=OLLAMA_MODELS=/data/models")})
        assert read(tmp_path).stores[0].closed == ()


class _Api(BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.answers.get(self.path)
        self.send_response(200 if body is not None else 404)
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_args):
        pass


@pytest.fixture
def api():
    """A server that answers as Ollama does; set `answers`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    server.answers = {"/api/version": b'{"version":"0.32.7"}', "/api/ps": b'{"models":[]}'}
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def on(api) -> dict[str, str]:
    return {"OLLAMA_HOST": f"127.0.0.1:{api.server_port}"}


class TestServer:
    def test_a_model_on_the_cpu_of_a_machine_with_a_gpu_is_a_failure(self, api, tmp_path):
        api.answers["/api/ps"] = b'{"models":[{"name":"qwen3:8b","size":5000000000,"size_vram":0}]}'
        seen = ollama.read(look(home=tmp_path, HOME=str(tmp_path), **on(api)))
        assert seen.server == Server(
            address=f"127.0.0.1:{api.server_port}",
            version="0.32.7",
            loaded=(Loaded(name="qwen3:8b", size=5000000000, vram=0),),
        )
        (finding,) = judge("ollama-gpu", ollama=seen, machine=GPU)
        assert (finding.status, finding.summary) == ("fail", "Ollama does not use the GPU: qwen3:8b runs on the CPU")
        assert [found.status for found in judge("ollama-gpu", ollama=seen, machine=Machine())] == ["skip"]

    def test_a_model_on_the_gpu_is_ok(self, api, tmp_path):
        api.answers["/api/ps"] = b'{"models":[{"name":"qwen3:8b","size":5000000000,"size_vram":5000000000}]}'
        seen = ollama.read(look(home=tmp_path, HOME=str(tmp_path), **on(api)))
        assert [found.summary for found in judge("ollama-gpu", ollama=seen, machine=GPU)] == [
            "qwen3:8b runs on the GPU"
        ]

    @pytest.mark.parametrize("answer", [b"", b"[]", b"{", b'{"models":null}', b'{"models":[3]}', b"<html>", None])
    def test_odd_answers_are_no_traceback(self, api, tmp_path, answer):
        api.answers["/api/ps"] = answer
        assert ollama.read(look(home=tmp_path, HOME=str(tmp_path), **on(api))).server.loaded == ()
        api.answers["/api/version"] = answer
        assert ollama.read(look(home=tmp_path, HOME=str(tmp_path), **on(api))) is not None


class TestLog:
    @pytest.mark.parametrize(
        ("sample", "command"),
        [
            ("driver-too-old", "firstlight ollama.install"),
            ("driver-library-mismatch", "sudo reboot"),
            (
                "cuda-init-failed",
                "sudo modprobe -r nvidia_uvm; sudo modprobe nvidia_uvm; sudo systemctl restart ollama",
            ),
            ("cpu-only", "firstlight doctor"),
        ],
    )
    def test_a_runner_that_fell_back_to_the_cpu_tells_why(self, sample, command):
        story = story_of_lines((LOGS / f"{sample}.log").read_text().splitlines(), "ollama")
        seen = OllamaSeen(story=story, unit=parse_unit("/x", "User=ollama"))
        (finding,) = judge("ollama-gpu", ollama=seen, machine=GPU)
        assert finding.status == "fail"
        assert finding.remedy.commands == [command]
        assert [found.status for found in judge("ollama-log", ollama=seen, machine=GPU)] == ["ok"]

    def test_what_the_log_complains_of_beside_that_is_a_warning(self):
        story = story_of_lines((LOGS / "out-of-memory.log").read_text().splitlines(), "ollama")
        seen = OllamaSeen(story=story, unit=parse_unit("/x", "User=ollama"))
        assert told(judge("ollama-log", ollama=seen, machine=GPU)) == [("warn", "out-of-memory")]
        assert told(judge("ollama-gpu", ollama=seen, machine=GPU)) == [("ok", None)]

    def test_the_journal_of_the_service_is_read_by_itself(self, tmp_path):
        files = {UNIT_PATH: UNIT.format(lines="User=ollama"), "/run/systemd/system": None}
        folder = tmp_path / "bin"
        program(folder, "journalctl", f"exec /bin/cat {LOGS / 'driver-too-old.log'}")
        seen = read(plant(tmp_path / "tree", files), path=str(folder))
        assert seen.story.causes[0].found.cause.id == "driver-too-old"

    def test_causes_that_end_on_the_cpu_are_on_the_page_of_causes(self):
        from firstlight.doctor.checks.ollama import _ON_CPU
        from firstlight.serving.causes import load_causes

        assert {cause.id for cause in load_causes("ollama") if not cause.fatal} >= _ON_CPU


def test_an_engine_that_the_catalogue_does_not_have_is_no_traceback(tmp_path):
    real = load_catalogue()
    bare = Catalogue({name: page for name, page in real.engines.items() if name != "ollama"}, real.cuda, real.platforms)
    assert ollama.read(look(home=tmp_path, HOME=str(tmp_path), catalogue=bare)).server is None
