"""scripts/lib/get_installer.py against indexes that answer well and badly: pip's configuration, read without pip."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "scripts" / "lib" / "get_installer.py"
# A Python without ensurepip, as Debian ships it.
WITHOUT_ENSUREPIP = f"""
import importlib.util, runpy, sys, sysconfig
find, variable = importlib.util.find_spec, sysconfig.get_config_var
importlib.util.find_spec = lambda name, package=None: None if name == "ensurepip" else find(name, package)
sysconfig.get_config_var = lambda name: None if name == "WHEEL_PKG_DIR" else variable(name)
sys.path.insert(0, {str(PROGRAM.parent)!r})
runpy.run_path({str(PROGRAM)!r}, run_name="__main__")
"""


def wheel(marker, member="pip/__main__.py"):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, marker)
    return packed.getvalue()


class Index:
    """A loopback package index: files by name, what each says of itself, and a fault or two."""

    def __init__(self, style="json"):
        self.style, self.files, self.seen, self.password, self.failures = style, {}, [], None, 0
        self.redirect = None
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                index.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}/simple"

    def add(self, filename, body=None, *, sha256=None, requires="", yanked=False):
        body = wheel(filename) if body is None else body
        self.files[filename] = (body, sha256 or hashlib.sha256(body).hexdigest(), requires, yanked)

    def answer(self, request):
        self.seen.append((request.path, request.headers.get("Authorization")))
        name = request.path.rpartition("/")[2]
        if self.failures:
            self.failures -= 1
            return self.send(request, 503, b"", "text/plain")
        if self.password and request.headers.get("Authorization") != self.password:
            return self.send(request, 401, b"", "text/plain")
        if name and self.redirect:
            request.send_response(302)
            request.send_header("Location", self.redirect + name)
            return request.end_headers()
        if name in self.files:
            return self.send(request, 200, self.files[name][0], "application/zip")
        if self.style == "json":
            return self.send(request, 200, self.json(), "application/vnd.pypi.simple.v1+json")
        return self.send(request, 200, self.html(), "text/html; charset=utf-8")

    def json(self):
        return json.dumps({
            "files": [
                {"filename": name, "url": f"../../files/{name}", "hashes": {"sha256": sha256},
                 "requires-python": requires or None, "yanked": yanked}
                for name, (_, sha256, requires, yanked) in self.files.items()
            ]
        }).encode()  # fmt: skip

    def html(self):
        return "".join(
            f'<a href="../../files/{name}#sha256={sha256}" data-requires-python="{requires.replace(">", "&gt;")}"'
            f"{' data-yanked' if yanked else ''}>{name}</a>"
            for name, (_, sha256, requires, yanked) in self.files.items()
        ).encode()

    @staticmethod
    def send(request, status, body, kind):
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)


@contextlib.contextmanager
def served(index):
    thread = threading.Thread(target=index.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield index
    finally:
        index.server.shutdown()
        index.server.server_close()
        thread.join()


@pytest.fixture
def index():
    with served(Index()) as running:
        yield running


def get(folder, name="pip", **variables):
    known = {"PATH": os.environ["PATH"], "HOME": str(folder / "home"), "LANG": "C.UTF-8"}
    environment = {**known, "PIP_CONFIG_FILE": os.devnull, **variables}
    return subprocess.run(
        [sys.executable, "-B", "-E", "-s", "-c", WITHOUT_ENSUREPIP, name, str(folder / "got")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def marker_of(run):
    assert run.returncode == 0, run.stderr
    return (Path(run.stdout.strip()) / "__main__.py").read_text()


@pytest.mark.parametrize("style", ["json", "html"])
def test_newest_release_that_fits_is_taken(tmp_path, style):
    with served(Index(style)) as index:
        index.add("pip-9.0-py3-none-any.whl")
        index.add("pip-97.0-py3-none-any.whl", requires=">=3.8, <4, !=3.9.0")
        index.add("pip-98.0-py3-none-any.whl", yanked=True)
        index.add("pip-97.1b1-py3-none-any.whl")
        index.add("pip-99.0-py3-none-any.whl", requires=">=3.99")
        index.add("pip-99.1-py2-none-any.whl")
        index.add("pip-99.2.tar.gz")
        assert marker_of(get(tmp_path, PIP_INDEX_URL=index.url)) == "pip-97.0-py3-none-any.whl"


def test_pip_that_python_carries_needs_no_index(tmp_path):
    python = Path(getattr(sys, "_base_executable", sys.executable))
    run = subprocess.run(
        [python, "-B", "-E", "-s", PROGRAM, "pip", tmp_path],
        env={"PATH": os.environ["PATH"], "PIP_NO_INDEX": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    carries = subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode == 0
    assert (run.returncode == 0) == carries
    if carries:
        shown = subprocess.run([python, "-B", "-I", run.stdout.strip(), "--version"], capture_output=True, check=True)
        assert shown.stdout.startswith(b"pip ")


def test_file_with_the_wrong_hash_is_refused(tmp_path, index):
    index.add("pip-97.0-py3-none-any.whl", sha256="0" * 64)
    run = get(tmp_path, PIP_INDEX_URL=index.url)
    assert run.returncode == 4
    assert "the index says " + "0" * 64 in run.stderr
    assert not list(tmp_path.glob("got/*"))


def test_folders_and_further_indexes_count_too(tmp_path, index):
    index.add("pip-97.0-py3-none-any.whl")
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "pip-98.0-py3-none-any.whl").write_bytes(wheel("from the folder"))
    pages = tmp_path / "my index" / "simple" / "pip"
    pages.mkdir(parents=True)
    (pages.parents[1] / "pip-99.0-py3-none-any.whl").write_bytes(wheel("from the file index"))
    (pages / "index.html").write_text('<a href="../../pip-99.0-py3-none-any.whl">pip</a>')
    both = {"PIP_INDEX_URL": index.url, "PIP_FIND_LINKS": str(folder)}
    assert marker_of(get(tmp_path, **both)) == "from the folder"
    assert marker_of(get(tmp_path, PIP_EXTRA_INDEX_URL=pages.parent.as_uri(), **both)) == "from the file index"
    assert marker_of(get(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=folder.as_uri())) == "from the folder"


def test_configuration_files_are_read_and_variables_overrule_them(tmp_path, index):
    index.add("pip-97.0-py3-none-any.whl")
    file = tmp_path / "home" / ".config" / "pip" / "pip.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[global]\nindex-url = http://127.0.0.1:9/simple\n[install]\nindex_url = {index.url}/\n")
    assert marker_of(get(tmp_path, PIP_CONFIG_FILE="")) == "pip-97.0-py3-none-any.whl"
    assert get(tmp_path, PIP_CONFIG_FILE="", PIP_INDEX_URL="http://127.0.0.1:9/simple").returncode == 4


def test_password_goes_to_the_index_and_nowhere_else(tmp_path, index):
    index.password = "Basic " + base64.b64encode(b"me:se@cret").decode()
    index.add("pip-97.0-py3-none-any.whl")
    with served(Index()) as other:
        other.files = index.files
        index.redirect = f"http://localhost:{other.server.server_port}/files/"
        url = index.url.replace("//", "//me:se%40cret@")
        assert marker_of(get(tmp_path, PIP_INDEX_URL=url)) == "pip-97.0-py3-none-any.whl"
        assert other.seen == [("/files/pip-97.0-py3-none-any.whl", None)]
        run = get(tmp_path, PIP_INDEX_URL=url.replace("se%40cret", "wrong"))
    assert run.returncode == 4
    assert "HTTP 401" in run.stderr
    assert "wrong" not in run.stderr


def test_passing_failure_is_tried_again(tmp_path, index):
    index.failures = 2
    index.add("pip-97.0-py3-none-any.whl")
    assert marker_of(get(tmp_path, PIP_INDEX_URL=index.url)) == "pip-97.0-py3-none-any.whl"


@pytest.mark.parametrize("variable", ["PIP_PROXY", "http_proxy", "all_proxy"])
def test_proxy_is_used_and_plain_http_only_where_trusted(tmp_path, index, variable):
    index.add("pip-97.0-py3-none-any.whl")
    settings = {"PIP_INDEX_URL": "http://index.example/simple", variable: f"http://{index.host}"}
    refused = get(tmp_path, **settings)
    assert refused.returncode == 4
    assert "trusted-host" in refused.stderr
    assert index.seen == []
    assert marker_of(get(tmp_path, PIP_TRUSTED_HOST="index.example", **settings)) == "pip-97.0-py3-none-any.whl"
    assert index.seen[0][0] == "http://index.example/simple/pip/"


def test_machine_without_certificates_is_told_what_to_do(tmp_path):
    nothing = str(tmp_path / "nothing")
    url = "https://127.0.0.1:9/simple"
    run = get(tmp_path, PIP_INDEX_URL=url, SSL_CERT_FILE=nothing, SSL_CERT_DIR=nothing)
    assert run.returncode == 4
    assert "ca-certificates" in run.stderr
    run = get(tmp_path, PIP_INDEX_URL=url, PIP_CERT=nothing)
    assert f"{nothing} does not exist" in run.stderr


def test_uv_for_this_platform_is_unpacked(tmp_path, index):
    arch = platform.machine()
    member = "uv-1.5.data/scripts/uv"
    index.add(f"uv-1.5-py3-none-manylinux_2_17_{arch}.manylinux2014_{arch}.whl", wheel("#!/bin/sh\necho uv\n", member))
    index.add(f"uv-1.6-py3-none-manylinux_2_99_{arch}.whl", wheel("needs a newer glibc", member))
    index.add("uv-1.7-py3-none-manylinux_2_17_otherarch.whl", wheel("another machine", member))
    index.add("uv-1.8-py3-none-macosx_11_0_arm64.whl", wheel("another system", member))
    run = get(tmp_path, name="uv", PIP_INDEX_URL=index.url)
    assert run.returncode == 0, run.stderr
    assert subprocess.run([run.stdout.strip()], capture_output=True, text=True, check=True).stdout == "uv\n"
