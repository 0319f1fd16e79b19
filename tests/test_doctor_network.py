"""`doctor --network`: loopback sources that misbehave, one kind of trouble each, all asked at once."""

from __future__ import annotations

import itertools
import ssl
import subprocess
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest
from support.doctor_look import judge, look, told
from support.patience import with_patience
from support.small_catalogue import build, catalogue, page

from firstlight.catalogue.loading import load_catalogue, load_mirrors
from firstlight.catalogue.types import Wheel
from firstlight.doctor.probes import network
from firstlight.doctor.probes.network import NetworkSeen, SourceSeen, Target, probe, targets
from firstlight.doctor.probes.variables import Variables
from firstlight.environments.pipconfig import PipSettings
from firstlight.models.hubs import load_hubs

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HANGING = 600.0
LOGIN = b"<!DOCTYPE html>\n<html><title>Log in</title><script>{}</script></html>"


class Source(ThreadingHTTPServer):
    """A source that behaves as `manner` says."""

    daemon_threads = True

    def __init__(
        self, manner: str = "", *, ahead: float = 0.0, body: bytes = CONTENT, together: threading.Barrier | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.manner, self.ahead, self.body = manner, ahead, body
        self.closing = threading.Event()
        self.together = together
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_args):
        pass


class _Handler(BaseHTTPRequestHandler):
    def date_time_string(self, timestamp=None):
        return formatdate((timestamp or time.time()) - self.server.ahead, usegmt=True)

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(f"{self.path} {wanted or ''}".strip())
        if server.manner == "hang":
            server.closing.wait(HANGING)
            return
        if server.together:
            server.together.wait(120)  # nobody is answered before all have asked
        if server.manner.isdigit():
            self.send_response(int(server.manner))
            self.end_headers()
            return
        body, status = (LOGIN, 200) if server.manner == "portal" else (server.body, 200)
        if wanted and server.manner not in {"whole", "portal"}:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            first = "0" if server.manner == "wrong-part" else first
            total, body, status = len(body), body[int(first) : int(last) + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{total}")
        self.send_header("Content-Type", "text/html" if server.manner == "portal" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.manner == "stall":
            self.wfile.write(body[:100])
            self.wfile.flush()
            server.closing.wait(HANGING)
        else:
            self.wfile.write(body)

    def log_message(self, *_args):
        pass


@pytest.fixture
def source():
    """Return a function that starts a source."""
    running = []

    def start(manner="", **options):
        running.append(Source(manner, **options))
        return running[-1]

    yield start
    for server in running:
        server.closing.set()
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    monkeypatch.setattr(network, "PATIENCE", 60.0)
    monkeypatch.setattr(network, "LISTEN", 60.0)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def target(server, kind="conda", **more):
    defaults = {"conda": {"ranged": True}, "github": {"ranged": True}, "pypi": {"sign": b"pip-"}}.get(kind, {})
    return Target(kind=kind, place=server.url, url=f"{server.url}/x/file", **{**defaults, **more})


def ask(*every, seconds=120.0):
    return probe(every, PipSettings(), seconds=seconds)


def judged(name, *sources, **fields):
    return judge(name, network=NetworkSeen(sources=tuple(sources)), **fields)


class TestProbe:
    def test_a_good_source(self, source):
        (seen,) = ask(target(source(), canonical=True))
        assert (seen.ok, seen.ranged, seen.canonical, seen.portal, seen.reason) == (True, True, True, False, "")
        assert seen.seconds > 0
        assert seen.rate > 0
        assert abs(seen.skew) < 600  # the clocks are one; the answer may be long under way

    def test_only_a_small_part_is_asked_for(self, source):
        server = source()
        ask(target(server))
        assert server.asked == ["/x/file bytes=1-524288"]

    @pytest.mark.parametrize("manner", ["whole", "wrong-part"])
    def test_a_part_that_does_not_come_is_seen(self, source, manner):
        (seen,) = ask(target(source(manner)))
        assert (seen.ok, seen.ranged) == (True, False)

    @pytest.mark.parametrize("kind", ["conda", "github", "pypi", "hub"])
    def test_a_login_page_is_no_answer(self, source, kind):
        (seen,) = ask(target(source("portal"), kind))
        assert (seen.ok, seen.portal, seen.ranged) == (False, True, None)
        assert "login page" in seen.reason

    def test_a_list_without_what_it_must_hold_is_no_answer(self, source):
        assert ask(target(source(body=b"<html>pip-25.whl</html>"), "pypi"))[0].ok
        assert ask(target(source(body=b"<html>others</html>"), "pypi"))[0].portal
        assert ask(target(source(body=b'{"id": 1}'), "hub"))[0].ok

    @pytest.mark.parametrize("status", ["404", "403", "429", "500", "503"])
    def test_a_refusal_is_told_with_its_number(self, source, status):
        (seen,) = ask(target(source(status)))
        assert (seen.ok, seen.reason) == (False, f"HTTP {status}")
        assert seen.skew is not None

    def test_silence_stalls_and_closed_ports_end_in_time(self, source, monkeypatch):
        monkeypatch.setattr(network, "PATIENCE", 1.0)
        monkeypatch.setattr(network, "LISTEN", 0.5)
        closed = source()
        closed.shutdown()
        closed.server_close()
        began = time.monotonic()
        hung, stalled, gone = ask(target(source("hang")), target(source("stall")), target(closed))
        assert time.monotonic() - began < HANGING / 2
        assert hung.reason.startswith("no answer in 1 s")
        assert not stalled.ok
        assert gone.reason == "connection refused"

    def test_nobody_waits_longer_than_all_may_take(self, source, monkeypatch):
        monkeypatch.setattr(network, "PATIENCE", HANGING)
        here, silent = source(), source("hang")

        def claim(seconds):
            began = time.monotonic()
            good, hung = ask(target(here), target(silent), seconds=seconds)
            assert time.monotonic() - began < HANGING / 2
            assert good.ok
            assert hung.reason == f"no answer in {seconds:g} s"

        with_patience((0.7, 7.0, 70.0), claim)

    def test_all_sources_are_asked_at_once(self, source):
        together = threading.Barrier(12)
        found = ask(*(target(source("together", together=together)) for _ in range(12)))
        assert all(seen.ok for seen in found)

    def test_a_slow_source_is_seen_to_be_slow(self, source, monkeypatch):
        def asked(seconds):
            """Ask on a clock by which every piece takes so long."""
            looks = itertools.count()
            monkeypatch.setattr(
                network, "time", SimpleNamespace(monotonic=lambda: next(looks) * seconds, time=time.time)
            )
            (seen,) = ask(target(source()))
            assert seen.ok
            return seen.rate

        monkeypatch.setattr(network, "LISTEN", 2.0)
        assert 50_000 < asked(0.2) < 100_000  # what came within LISTEN counts, not the whole file
        assert asked(0.001) > 10_000_000

    def test_an_untrusted_certificate_is_seen_and_the_time_asked_without_it(self, source, tmp_path):
        key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
        words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
        subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = source()
        server.socket = context.wrap_socket(server.socket, server_side=True)
        address = f"https://127.0.0.1:{server.server_port}"
        (seen,) = ask(Target(kind="conda", place=address, url=f"{address}/file"))
        assert (seen.ok, seen.untrusted, seen.reason) == (False, True, "its certificate is not trusted")

    def test_credentials_of_an_address_are_not_kept(self, source):
        server = source()
        place = server.url.replace("://", "://me:secret@")
        (seen,) = ask(Target(kind="pypi", place=place, url=f"{place}/x", sign=b"nothing"))
        assert seen.place == server.url

    def test_an_address_that_is_none_is_no_traceback(self):
        found = ask(
            *(Target(kind="hub", place=url, url=url) for url in ("http://", "nonsense", "http://[::1", "http://a b/"))
        )
        assert not any(seen.ok for seen in found)


class TestTargets:
    def test_every_mirror_and_hub_is_asked(self):
        mirrors, hubs = load_mirrors(), load_hubs()
        wheel = Wheel(url=f"{mirrors.github.canonical}/a/b/releases/download/v1/a.whl")
        every = list(targets(mirrors, hubs, catalogue(page(build("one", wheel=wheel))), {}))
        places = [item.place for item in every]
        for known in (mirrors.conda, mirrors.torch, mirrors.pypi, mirrors.github):
            assert set(known.all) <= set(places)
            assert sum(item.canonical for item in every if item.place in known.all) == 1
        assert {hub.url for hub in hubs.hub} <= set(places)
        assert all(item.url.startswith(item.place) for item in every)
        assert all(item.ranged for item in every if item.kind in {"conda", "github"})

    def test_the_users_own_hub_and_index_are_asked(self, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(network, "probe", lambda every, *_args, **_kwargs: asked.extend(every) or [])
        variables = {"HF_ENDPOINT": "https://hub.example", "PIP_INDEX_URL": "https://index.example/simple/"}
        network.read(look(tmp_path, home=tmp_path, HOME=str(tmp_path), **variables))
        assert "https://hub.example" in [item.place for item in asked]
        assert "https://index.example/simple/pip/" in [item.url for item in asked]

    def test_the_catalogue_names_a_release_file(self):
        kinds = {item.kind for item in targets(load_mirrors(), load_hubs(), load_catalogue(), {})}
        assert kinds == {"conda", "torch", "pypi", "github", "hub"}


def seen(kind="conda", place="https://one.example", **more):
    values = {"ok": True, "seconds": 0.1, "rate": 5e6, "ranged": True, "skew": 1.0, **more}
    return SourceSeen(kind=kind, place=place, **values)


BAD = {"ok": False, "reason": "connection refused", "seconds": None, "rate": None, "ranged": None, "skew": None}


class TestChecks:
    def test_the_best_source_of_each_kind_is_named_with_its_speed(self):
        found = judged(
            "sources", seen(canonical=True), seen(place="https://two.example", rate=9e6), seen("hub", canonical=True)
        )
        assert told(found) == [("ok", "conda"), ("ok", "hub")]
        assert found[0].summary == "conda packages: 2 of 2 sources answer, two.example best (100 ms, 9.0 MB/s)"
        assert found[0].evidence.splitlines()[0] == "https://one.example  100 ms, 5.0 MB/s"

    def test_a_kind_that_nobody_has_is_a_warning(self):
        found = judged("sources", seen(**BAD), seen("pypi", canonical=True))
        assert told(found) == [("warn", "conda"), ("ok", "pypi")]
        assert "connection refused" in found[0].evidence

    def test_no_source_at_all_is_a_failure(self):
        (finding,) = judged("sources", seen(**BAD), seen("pypi", **BAD))
        assert (finding.status, finding.summary) == (
            "fail",
            "the network does not lead out: none of 2 sources is of use",
        )

    def test_a_silent_origin_and_slow_sources_are_warnings(self):
        (finding,) = judged("sources", seen(canonical=True, **BAD), seen(place="https://two.example"))
        assert (finding.status, "the origin does not answer" in finding.summary) == ("warn", True)
        (finding,) = judged("sources", seen(canonical=True, rate=50_000))
        assert (finding.status, "come slowly" in finding.summary) == ("warn", True)

    def test_a_proxy_that_drops_range_for_all_is_told_from_one_bad_mirror(self):
        dropped = [seen(ranged=False), seen("github", "https://two.example", ranged=False)]
        variables = Variables(values=(("https_proxy", "http://proxy:3128"),))
        (finding,) = judged("range", *dropped, variables=variables)
        assert "something between here and every source drops Range (the proxy http://proxy:3128?)" in finding.summary
        (finding,) = judged("range", seen(), dropped[1])
        assert finding.summary == "two.example sends whole files only"
        assert [item.status for item in judged("range", seen(), seen())] == ["ok"]
        assert [item.status for item in judged("range", seen(**BAD))] == ["skip"]

    @pytest.mark.parametrize(
        ("skew", "status", "words"),
        [
            (2.0, "ok", "the clock is right"),
            (-600.0, "warn", "10 minutes behind"),
            (-30_000.0, "warn", "8 hours behind"),
            (3e8, "fail", "3472 days ahead"),
        ],
    )
    def test_the_clock(self, skew, status, words):
        odd = seen(place="https://odd.example", skew=-9e6)
        (finding,) = judged("clock", seen(skew=skew), seen(skew=skew), odd, seen(skew=skew), seen(**BAD))
        assert finding.status == status
        assert words in finding.summary

    def test_the_clock_of_a_real_answer(self, source):
        found = ask(target(source(ahead=7200.0)))
        (finding,) = judged("clock", *found)
        assert (finding.status, "2 hours ahead" in finding.summary) == ("warn", True)

    def test_a_login_page_in_place_of_most_sources(self):
        portals = [seen(place=f"https://{name}.example", portal=True, ok=False) for name in "abc"]
        (finding,) = judged("standing-in", *portals, seen())
        assert (finding.status, finding.subject) == ("fail", "portal")
        (finding,) = judged("standing-in", portals[0], seen(), seen(), seen())
        assert (finding.status, "a.example" in finding.summary) == ("warn", True)

    def test_an_untrusted_certificate_is_the_clocks_fault_when_the_clock_is_wrong(self):
        refused = seen(ok=False, untrusted=True, reason="its certificate is not trusted")
        assert told(judged("standing-in", refused, seen())) == [("fail", "certificate")]
        late = seen(ok=False, untrusted=True, skew=-4e8)
        assert told(judged("standing-in", late)) == [("ok", None)]
        assert [item.status for item in judged("clock", late)] == ["fail"]

    def test_without_network_everything_is_a_skip(self):
        from firstlight.doctor.examine import Wish, examine_described
        from firstlight.machine.facts import Machine

        found = examine_described(Wish(only=("sources", "range", "clock", "standing-in")), Machine())
        assert {finding.status for finding in found.findings} == {"skip"}
