from __future__ import annotations

import pytest
from support.loopback_index import serve
from support.patience import with_patience

from firstlight.environments.asking import SLOWER, slowness
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.sources import probe_channels, probe_indexes, probe_torch, torch_places

X86 = "manylinux_2_28_x86_64"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_channels_are_asked_at_once_and_the_answering_ones_come_first(tmp_path, monkeypatch):
    (tmp_path / "ch ü" / "noarch").mkdir(parents=True)
    (tmp_path / "ch ü" / "noarch" / "repodata.json").write_text("{}")
    with serve() as server:
        server.files["/new/noarch/repodata.json.zst"] = b"zst" * 1000
        server.files["/old/noarch/repodata.json"] = b"{}"
        server.files["/ill/noarch/repodata.json.zst"] = b"x"
        server.files["/mute/noarch/repodata.json.zst"] = b"x"
        server.faults = {"/ill/noarch/repodata.json.zst": "503", "/mute/noarch/repodata.json.zst": "hang"}
        urls = [f"{server.url}/{name}" for name in ("mute", "ill", "none", "old", "new")]
        every = [*urls, "http://127.0.0.1:9/x", str(tmp_path / "ch ü"), str(tmp_path / "gone")]

        def claim(seconds):
            monkeypatch.setattr("firstlight.environments.asking._GRACE", seconds)
            server.requests.clear()
            probes = probe_channels(every, timeout=seconds)
            ranged = [request for request in server.requests if "/new/" in request]
            told = {probe.url.rpartition("/")[2]: probe for probe in probes}
            assert [probe.ok for probe in probes] == [True] * 3 + [False] * 5
            assert {name for name, probe in told.items() if probe.ok} == {"new", "old", "ch%20%C3%BC"}
            assert ranged == ["GET /new/noarch/repodata.json.zst bytes=0-0"]
            assert told["ill"].reason == "HTTP 503 for noarch/repodata.json.zst"
            assert told["none"].reason == "HTTP 404 for noarch/repodata.json"
            assert told["mute"].reason in {f"no answer in {seconds:g} s", SLOWER}
            assert told["x"].reason == "connection refused"
            assert "is not there" in told["gone"].reason

        with_patience((1.5, 10.0, 60.0), claim)


def test_a_name_stands_for_a_channel_of_anaconda_org():
    assert probe_channels(["conda-forge"], timeout=0.01)[0].url == "https://conda.anaconda.org/conda-forge"


def test_nobody_waits_long_for_a_mute_mirror_where_another_answers():
    with serve() as server:
        server.files |= {"/good/noarch/repodata.json.zst": b"x", "/mute/noarch/repodata.json.zst": b"x"}
        server.faults = {"/mute/noarch/repodata.json.zst": "hang"}
        good, mute = probe_channels([f"{server.url}/mute", f"{server.url}/good"], timeout=30.0)
    assert good.ok
    assert mute.reason == SLOWER


def torch(version, indexes, links, **words):
    settings = words.pop("settings", PipSettings())
    places = [*(f"find-links:{link}" for link in links), *(f"index:{index}" for index in indexes)]
    return probe_torch(version, places, arch=words.pop("arch", "x86_64"), settings=settings, **words)


def test_a_build_of_torch_is_found_in_folders_pages_and_indexes(tmp_path, monkeypatch):
    folder = tmp_path / "räder"
    folder.mkdir()
    for name in (
        f"torch-2.13.0+cu129-cp311-cp311-{X86}.whl",
        f"torch-2.13.0+cu130-cp312-cp312-{X86}.whl",
        f"torch-2.13.0-cp310-cp310-{X86}.whl",
        f"torch-2.12.0+cu129-cp39-cp39-{X86}.whl",
        "torch-2.13.0+cu129-cp312-cp312-manylinux_2_28_aarch64.whl",
        "torch-2.13.0+cu129-cp313-cp313-win_amd64.whl",
        f"torchvision-2.13.0+cu129-cp312-cp312-{X86}.whl",
        "torch-rubbish.whl",
    ):
        (folder / name).touch()
    with serve() as server:
        wheel = "torch-2.13.0%2Bcu129-{0}-{0}-" + X86 + ".whl"
        listed = "".join(f'<a href="../../{wheel.format(tag)}#sha256=0">x</a>' for tag in ("cp312", "cp313", "cp313t"))
        for path in ("/", "/shut/"):
            server.files |= {path + wheel.format(tag).replace("%2B", "+"): b"PK\x03\x04" for tag in ("cp39", "cp313")}
        server.files["/listing/torch/"] = f'<html><a href="/shut/{wheel.format("cp313")}">x</a></html>'.encode()
        yanked = f'<a data-yanked="" href="{wheel.format("cp310")}">x</a>'
        server.files["/cu129/torch/"] = f"<html>{listed}{yanked}</html>".encode()
        server.files["/other/torch/"] = b"<html></html>"
        server.files["/mute/torch/"] = b"x"
        server.files["/flat/cu129/"] = f'<html><a href="/{wheel.format("cp39")}">x</a></html>'.encode()
        server.faults = {"/mute/torch": "hang", "/shut/" + wheel.format("cp313").replace("%2B", "+"): "403"}
        url = server.url
        indexes = [f"{url}/{name}" for name in ("mute", "cu129", "none", "other", "listing")]
        links = [f"{url}/flat/cu129/", str(folder), folder.as_uri(), str(tmp_path / "gone")]

        def claim(seconds):
            monkeypatch.setattr("firstlight.environments.asking._GRACE", seconds)
            probes = torch("2.13.0+cu129", [*indexes, "http://me:pass@127.0.0.1:9/whl"], links, timeout=3 * seconds)
            assert [(probe.source, probe.pythons) for probe in probes if probe.pythons] == [
                (f"find-links:{folder}", ["3.11"]),
                (f"find-links:{folder.as_uri()}", ["3.11"]),
                (f"find-links:{url}/flat/cu129/", ["3.9"]),
                (f"index:{url}/cu129", ["3.13", "3.12"]),
            ]
            assert {probe.source.partition(":")[2]: probe.reason for probe in probes if not probe.pythons} == {
                f"{url}/mute": SLOWER,
                f"{url}/none": "HTTP 404",
                f"{url}/listing": "it lists the wheel and does not deliver it: HTTP 403",
                f"{url}/other": "no torch 2.13.0+cu129 for x86_64 there",
                "http://***@127.0.0.1:9/whl": "connection refused",
                str(tmp_path / "gone"): "it is not there",
            }

        with_patience((1.5, 10.0, 60.0), claim)
    assert torch("2.13.0+cu129", [], [str(folder)], arch="aarch64")[0].pythons == ["3.12"]


def test_the_fastest_mirror_comes_first_and_equals_keep_their_order():
    """Mirrors of the same wheels differ by factors of ten and more."""
    name = f"torch-2.13.0+cu129-cp312-cp312-{X86}.whl"
    with serve() as server:
        for place in ("canonical", "near", "also-near"):
            server.files[f"/{place}/torch/"] = f'<html><a href="{name.replace("+", "%2B")}">x</a></html>'.encode()
            server.files[f"/{place}/torch/{name}"] = b"PK\x03\x04" + bytes(1_500_000)
        server.faults = {f"/canonical/torch/{name}": "always-slow"}
        urls = [f"{server.url}/{place}" for place in ("canonical", "near", "also-near")]
        probes = torch("2.13.0+cu129", urls, [])
    slow = next(probe for probe in probes if "canonical" in probe.source)
    assert slow is probes[2]
    assert all(probe.rate > slow.rate for probe in probes[:2])
    equal = [None, 10.0, 15.0, 19.0]
    assert [slowness(rate, equal) for rate in equal] == [0.0] * 4
    assert slowness(5.0, equal) == pytest.approx(3.8)


def test_the_users_places_come_before_those_of_the_line():
    settings = PipSettings(
        index_url="https://pypi.org/simple", extra_index_urls=("https://mine/simple",), find_links=("/wheels",)
    )
    parents, flat = ["https://canonical/whl", "https://mirror/wheels"], ["https://mirror/wheels"]
    assert torch_places("cu129", parents, flat, ["/usb"], settings) == [
        "find-links:/usb", "find-links:/wheels", "index:https://mine/simple", "index:https://canonical/whl/cu129",
        "find-links:https://mirror/wheels/cu129/",
    ]  # fmt: skip
    shut = torch_places("cu129", parents, flat, [], PipSettings(no_index=True, find_links=("/wheels",)))
    assert shut == ["find-links:/wheels"]


def test_an_index_in_a_folder_counts(tmp_path):
    (tmp_path / "simple" / "torch").mkdir(parents=True)
    (tmp_path / "simple" / "torch" / "index.html").write_text(
        f'<a href="torch-2.5.1%2Bcpu-cp311-cp311-{X86}.whl">x</a>'
    )
    place = (tmp_path / "simple").as_uri()
    assert [probe.pythons for probe in torch("2.5.1+cpu", [place], [])] == [["3.11"]]


def test_package_indexes_are_asked_for_a_real_page():
    with serve() as server:
        server.add("packaging", "26.0")
        server.files["/portal/packaging/"] = b"<html>please log in</html>"
        urls = [f"{server.url}/{name}" for name in ("portal", "none", "simple")]
        probes = probe_indexes(urls, PipSettings(), timeout=10.0)
    assert [probe.url for probe in probes] == urls
    assert [probe.reason for probe in probes] == ["it does not answer as a package index", "HTTP 404", ""]
