from __future__ import annotations

import pytest
from support.loopback_index import serve

from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.sources import probe_channels, probe_cpu_torch

X86 = "manylinux_2_28_x86_64"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_channels_are_asked_at_once_and_the_answering_ones_come_first(tmp_path):
    (tmp_path / "ch ü" / "noarch").mkdir(parents=True)
    (tmp_path / "ch ü" / "noarch" / "repodata.json").write_text("{}")
    with serve() as server:
        server.files["/new/noarch/repodata.json.zst"] = b"zst" * 1000
        server.files["/old/noarch/repodata.json"] = b"{}"
        server.files["/ill/noarch/repodata.json.zst"] = b"x"
        server.files["/mute/noarch/repodata.json.zst"] = b"x"
        server.faults = {"/ill/noarch/repodata.json.zst": "503", "/mute/noarch/repodata.json.zst": "hang"}
        urls = [f"{server.url}/{name}" for name in ("mute", "ill", "none", "old", "new")]
        probes = probe_channels(
            [*urls, "http://127.0.0.1:9/x", str(tmp_path / "ch ü"), str(tmp_path / "gone")], timeout=1.0
        )
        ranged = [request for request in server.requests if "/new/" in request]
    told = {probe.url.rpartition("/")[2]: probe for probe in probes}
    assert [probe.ok for probe in probes] == [True] * 3 + [False] * 5
    assert {name for name, probe in told.items() if probe.ok} == {"new", "old", "ch%20%C3%BC"}
    assert ranged == ["GET /new/noarch/repodata.json.zst bytes=0-0"]
    assert told["ill"].reason == "HTTP 503 for noarch/repodata.json.zst"
    assert told["none"].reason == "HTTP 404 for noarch/repodata.json"
    assert told["mute"].reason == "no answer in time"
    assert told["x"].reason == "connection refused"
    assert "is not there" in told["gone"].reason


def test_a_name_stands_for_a_channel_of_anaconda_org():
    assert probe_channels(["conda-forge"], timeout=0.01)[0].url == "https://conda.anaconda.org/conda-forge"


def test_cpu_torch_is_found_in_folders_pages_and_indexes(tmp_path):
    folder = tmp_path / "räder"
    folder.mkdir()
    for name in (
        f"torch-2.13.0+cpu-cp311-cp311-{X86}.whl",
        f"torch-2.13.0-cp310-cp310-{X86}.whl",
        f"torch-2.12.0+cpu-cp39-cp39-{X86}.whl",
        "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_aarch64.whl",
        f"torchvision-2.13.0+cpu-cp312-cp312-{X86}.whl",
        "torch-rubbish.whl",
    ):
        (folder / name).touch()
    with serve() as server:
        wheel = "torch-2.13.0%2Bcpu-{0}-{0}-" + X86 + ".whl"
        links = "".join(f'<a href="../../{wheel.format(tag)}#sha256=0">x</a>' for tag in ("cp312", "cp313", "cp313t"))
        yanked = f'<a data-yanked="" href="{wheel.format("cp310")}">x</a>'
        server.files["/cpu/torch/"] = f"<html>{links}{yanked}</html>".encode()
        server.files["/mute/torch/"] = b"x"
        server.files["/page.html"] = f'<html><a href="https://e/{wheel.format("cp39")}">x</a></html>'.encode()
        server.faults = {"/mute/torch": "hang"}
        found = probe_cpu_torch(
            "2.13.0",
            [f"{server.url}/mute", f"{server.url}/cpu", f"{server.url}/none", "http://127.0.0.1:9/whl"],
            [f"{server.url}/page.html", str(tmp_path / "gone")],
            arch="x86_64",
            settings=PipSettings(find_links=(str(folder), folder.as_uri())),
            timeout=1.0,
        )
        arm = probe_cpu_torch("2.13.0", [], [str(folder)], arch="aarch64", settings=PipSettings())
        shut = probe_cpu_torch("2.13.0", [f"{server.url}/cpu"], [], arch="x86_64", settings=PipSettings(no_index=True))
        url = server.url
    assert list(found.items()) == [
        (f"find-links:{url}/page.html", ["3.9"]),
        (f"find-links:{folder}", ["3.11"]),
        (f"find-links:{folder.as_uri()}", ["3.11"]),
        (f"index:{url}/cpu", ["3.13", "3.12"]),
    ]
    assert arm == {f"find-links:{folder}": ["3.12"]}
    assert shut == {}


def test_an_index_in_a_folder_counts(tmp_path):
    (tmp_path / "simple" / "torch").mkdir(parents=True)
    (tmp_path / "simple" / "torch" / "index.html").write_text(
        f'<a href="torch-2.5.1%2Bcpu-cp311-cp311-{X86}.whl">x</a>'
    )
    settings = PipSettings(extra_index_urls=((tmp_path / "simple").as_uri(),), index_url="https://pypi.org/simple")
    key = f"index:{(tmp_path / 'simple').as_uri()}"
    assert probe_cpu_torch("2.5.1", [], [], arch="x86_64", settings=settings) == {key: ["3.11"]}
