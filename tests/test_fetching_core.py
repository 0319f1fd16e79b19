"""The downloader's own promises: bookkeeping, what consumers see, local files, many files, proxies, words."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import itertools
import json
import re
import shutil
import ssl
import subprocess
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.faults import Faults
from support.fetching_lab import DATA, EVERYWHERE, OTHER, PIECE, POLICY, SHA256, SIZE, in_place, lab_in, late

from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.events import Note, Step, StepProgress
from firstlight.fetching.fetch import fetch, fetch_all
from firstlight.fetching.ledger import Ledger
from firstlight.fetching.transport import _next
from firstlight.fetching.trouble import Refused, retry_after
from firstlight.fetching.types import PieceHashes, Policy, Source, Transport, Wanted


@pytest.fixture
def lab(tmp_path, monkeypatch):
    with lab_in(tmp_path, monkeypatch) as made:
        yield made


def told(error):
    return f"{error.what} {error.why} {error.fix}"


def git_sum(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


# Bookkeeping


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_every_byte_is_had_fetched_or_free_and_never_two_of_them(data):  # noqa: C901 - one branch an act
    size = data.draw(st.integers(1, 300))
    ledger, segments = Ledger(size), []
    for _ in range(data.draw(st.integers(1, 40))):
        act = data.draw(
            st.sampled_from(["take", "write", "finish", "rob", "drop", "owner", "detach", "give", "take_at"])
        )
        one = data.draw(st.sampled_from(segments)) if segments else None
        start = data.draw(st.integers(0, size - 1))
        end = data.draw(st.integers(start + 1, size))
        if act == "take":
            segments += [new] if (new := ledger.take(data.draw(st.integers(0, 2)), end - start, 1, 1.0)) else []
        elif act == "take_at":
            segments += ledger.take_at(start, end, 1)
        elif act == "drop":
            ledger.drop(start, end)
        elif act == "owner":
            ledger.drop_owner(data.draw(st.integers(0, 2)))
        elif act == "give" and not any(seg.start < end and seg.end > start for seg in ledger.active):
            ledger.give(start, end, 2)
        elif one is not None and act == "write":
            ledger.claim(one, data.draw(st.integers(1, 50)))
            ledger.wrote(one)
        elif one is not None and act == "finish":
            ledger.finish(one)
        elif one is not None and act == "detach":
            ledger.detach(one)
        elif one is not None and act == "rob":
            segments += [new] if (new := ledger.rob(one, end - start, 0, 1.0)) else []
        had = sorted([run[:2] for run in ledger._runs] + ledger._free + [(seg.start, seg.end) for seg in ledger.active])
        spans = [span for span in had if span[0] < span[1]]
        assert sum(last - first for first, last in spans) == size
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
        assert ledger.complete() == (sum(run[1] - run[0] for run in ledger.runs()) == size and not ledger._free)


def test_the_frontier_ends_at_the_first_gap():
    ledger = Ledger(100, [(0, 10, 0), (10, 30, 1), (40, 100, 0)])
    assert (ledger.frontier(0), ledger.frontier(12), ledger.frontier(30), ledger.frontier(50)) == (30, 30, 30, 100)
    segment = ledger.take(1, 50, 1, 0.0)
    assert (segment.start, segment.end) == (30, 40)
    assert ledger.claim(segment, 4) == 4
    assert ledger.frontier(0) == 30  # claimed is not written
    ledger.wrote(segment)
    assert ledger.frontier(0) == 34


# Consumers


class Taker:
    """Reads what it is told of, as an unpacker does, and remembers in which order it was called."""

    def __init__(self, *, broken=False):
        self.data, self.calls, self.broken, self.target_there = b"", [], broken, None

    def advance(self, partial, frontier):
        with partial.open("rb") as stream:
            stream.seek(len(self.data))
            self.data += stream.read(frontier - len(self.data))
        self.calls.append("advance")

    def restart(self):
        self.data = b""
        self.calls.append("restart")

    def finish(self):
        self.calls.append("finish")
        if self.broken:
            raise FirstlightError("it cannot be unpacked")

    def abort(self):
        self.calls.append("abort")


def taken(lab, taker, *routes, **more):
    return fetch(lab.wanted(*routes, **more), lab.target, step=lab.step(), policy=Policy(**POLICY), consumer=taker)


def test_a_consumer_gets_every_byte_in_order_and_then_the_end(lab):
    taker = Taker()
    in_place(lab, taken(lab, taker, lab.mirror(), lab.mirror()))
    assert taker.data == DATA
    assert taker.calls[-1] == "finish"
    assert not {"restart", "abort"} & set(taker.calls)


def test_a_consumer_begins_again_when_a_mirror_has_lied(lab):
    taker, bad, good = Taker(), lab.mirror(Faults(corrupt=EVERYWHERE)), lab.mirror()
    late(lab, [good], bad)
    in_place(lab, taken(lab, taker, bad, good))
    assert taker.data == DATA
    assert "restart" in taker.calls
    assert taker.calls[-1] == "finish"


def test_a_consumer_is_told_when_it_fails(lab):
    taker = Taker()
    with pytest.raises(VerificationFailed):
        taken(lab, taker, lab.mirror(Faults(corrupt=EVERYWHERE)))
    assert taker.calls[-1] == "abort"
    assert "finish" not in taker.calls


def test_a_consumer_that_cannot_finish_fails_the_fetch_and_the_verified_file_stays(lab):
    with pytest.raises(FirstlightError, match="unpacked"):
        taken(lab, Taker(broken=True), lab.mirror())
    assert lab.target.read_bytes() == DATA
    assert lab.left() == ["file.bin"]


def test_a_consumer_gets_a_file_that_is_there_already(lab):
    lab.target.write_bytes(DATA)
    taker, mirror = Taker(), lab.mirror()
    assert taken(lab, taker, mirror).reused
    assert (taker.data, taker.calls[-1], mirror.requests()) == (DATA, "finish", 0)


# Files of this machine


def from_file(lab, path, *routes, **more):
    wanted = lab.wanted(*routes, **more)
    source = Source(url=str(path), name="the file given", kind="file")
    sources = (source, *wanted.sources)
    return fetch(
        Wanted(name=wanted.name, sources=sources, size=wanted.size, sha256=wanted.sha256),
        lab.target,
        step=lab.step(),
        policy=Policy(**POLICY),
    )


def test_a_local_file_is_verified_and_takes_no_second_room(lab, tmp_path):
    given = tmp_path / "given file.bin"
    given.write_bytes(DATA)
    fetched = from_file(lab, given)
    in_place(lab, fetched)
    assert given.samefile(lab.target)
    assert (fetched.bytes, [share.source for share in fetched.shares]) == (0, ["the file given"])


def test_an_address_of_a_local_file_may_be_a_url(lab, tmp_path):
    given = tmp_path / "given file.bin"
    given.write_bytes(DATA)
    in_place(lab, from_file(lab, given.as_uri()))


@pytest.mark.parametrize(("data", "error"), [(OTHER, VerificationFailed), (None, NetworkFailed)])
def test_a_wrong_or_missing_local_file_is_an_error_of_its_own(lab, tmp_path, data, error):
    given = tmp_path / "given.bin"
    if data is not None:
        given.write_bytes(data)
    with pytest.raises(error) as caught:
        from_file(lab, given)
    assert "the file given" in told(caught.value)
    assert lab.left() == []


def test_beside_a_wrong_local_file_the_network_is_asked(lab, tmp_path):
    given = tmp_path / "given.bin"
    given.write_bytes(OTHER)
    in_place(lab, from_file(lab, given, lab.mirror()))
    assert given.read_bytes() == OTHER


# Sums


def test_gits_own_sum_of_a_blob_is_a_promise_too(lab):
    mirror, wrong = lab.mirror(), lab.mirror(data=OTHER)
    source, other = (Source(url=route.url, name="hub") for route in (mirror, wrong))
    wanted = Wanted(name="file.bin", sources=(source,), size=SIZE, git_sha1=git_sum(DATA))
    fetched = fetch(wanted, lab.target, step=lab.step(), policy=Policy(**POLICY))
    in_place(lab, fetched)
    assert fetched.hash_known
    lab.target.unlink()
    with pytest.raises(VerificationFailed):
        fetch(Wanted(name="file.bin", sources=(other,), size=SIZE, git_sha1=git_sum(DATA)), lab.target, step=lab.step())
    assert lab.left() == []


def test_bytes_that_a_crash_may_have_lost_ban_nobody(lab):
    """The state says that they are there; after the machine went down the file may hold zeros in their place."""
    mirror = lab.mirror(Faults(dies_after=SIZE // 2))
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror)
    state = lab.folder / "file.bin.partial.json"
    saved = json.loads(state.read_text("utf-8"))
    state.write_text(json.dumps({**saved, "boot": "another run of the machine"}), "utf-8")
    with (lab.folder / "file.bin.partial").open("r+b") as stream:
        stream.write(bytes(PIECE))
    mirror.server.heal(mirror)
    fetched = lab.fetch(mirror, lab.mirror())
    in_place(lab, fetched)
    assert fetched.dropped == ()


def test_a_first_source_with_another_length_does_not_keep_the_right_one_out(lab):
    shorter, right = lab.mirror(Faults(smaller_by=1000)), lab.mirror()
    fetched = lab.fetch(shorter, right)
    in_place(lab, fetched)
    assert [one.source for one in fetched.dropped if one.banned] == ["first"]


def test_a_source_whose_file_would_never_fit_does_not_keep_the_right_one_out(lab):
    endless, right = lab.mirror(Faults(smaller_by=-(10**18))), lab.mirror()
    fetched = lab.fetch(endless, right)
    in_place(lab, fetched)
    assert "room" in fetched.dropped[0].reason


def test_whole_pieces_of_an_earlier_run_are_checked_before_they_count(lab):
    sums = [hashlib.sha256(DATA[at : at + PIECE]).hexdigest() for at in range(0, SIZE, PIECE)]
    pieces = PieceHashes(PIECE, tuple(sums))
    mirror = lab.mirror(Faults(dies_after=SIZE // 2))
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror, size=SIZE, pieces=pieces)
    with (lab.folder / "file.bin.partial").open("r+b") as stream:
        stream.write(bytes(10))
    mirror.server.heal(mirror)
    fetched = lab.fetch(mirror, lab.mirror(), size=SIZE, pieces=pieces)
    in_place(lab, fetched)
    assert fetched.resumed >= SIZE // 8


def test_piece_hashes_hold_for_a_source_that_gives_no_parts(lab):
    pieces = PieceHashes(
        PIECE, tuple(hashlib.sha256(DATA[at : at + PIECE]).hexdigest() for at in range(0, SIZE, PIECE))
    )
    in_place(lab, lab.fetch(lab.mirror(Faults(no_range=True)), size=SIZE, pieces=pieces))
    lab.target.unlink()
    with pytest.raises((NetworkFailed, VerificationFailed)) as caught:
        lab.fetch(lab.mirror(Faults(no_range=True, corrupt=EVERYWHERE)), size=SIZE, pieces=pieces)
    assert "wrong bytes" in told(caught.value)


def test_without_a_hash_and_without_an_etag_nothing_of_an_earlier_run_is_believed(lab):
    quiet = {"etag": "none", "last_modified": False}
    mirror = lab.mirror(Faults(dies_after=SIZE // 2, **quiet))
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror, sha256=None)
    assert "file.bin.partial" in lab.left()
    mirror.server.heal(mirror, **quiet)
    fetched = lab.fetch(mirror, sha256=None)
    in_place(lab, fetched)
    assert fetched.resumed == 0


# Many files


def many(lab, count, size=1000):
    server = lab.mirror().server
    items, routes = [], []
    for number in range(count):
        data = bytes([number]) * (size + number)
        routes.append(server.add(f"/many/{number}", data))
        source = Source(url=routes[-1].url, name="hub", kind="hub")
        wanted = Wanted(name=str(number), sources=(source,), size=len(data), sha256=hashlib.sha256(data).hexdigest())
        items.append((wanted, lab.folder / f"deep/{number}"))
    return items, routes


def test_small_files_cost_one_request_each_and_come_in_the_order_asked(lab):
    items, routes = many(lab, 40)
    events = []
    fetched = fetch_all(items, step=Step(events.append, "x", "x"), policy=Policy(**POLICY))
    assert [one.path for one in fetched] == [target for _, target in items]
    assert [target.read_bytes() for _, target in items] == [bytes([at]) * (1000 + at) for at in range(40)]
    assert [route.requests() for route in routes] == [1] * 40
    assert sorted(path.name for path in (lab.folder / "deep").iterdir()) == sorted(str(at) for at in range(40))
    last = [event for event in events if isinstance(event, StepProgress)][-1]
    assert last.done == last.total == sum(one.size for one in fetched)
    again = fetch_all(items, step=lab.step(), policy=Policy(**POLICY))
    assert all(one.reused for one in again)
    assert [route.requests() for route in routes] == [1] * 40


def test_large_and_small_files_together(lab):
    items, _ = many(lab, 5)
    large = [lab.mirror(path=f"/{name}") for name in ("a", "b", "c")]
    items[2:2] = [(lab.wanted(route, size=SIZE, name=route.url[-1]), lab.folder / route.url[-1]) for route in large]
    fetched = fetch_all(items, step=lab.step(), policy=Policy(**{**POLICY, "small": PIECE}))
    assert [one.size for one in fetched[2:5]] == [SIZE] * 3
    assert all((lab.folder / name).read_bytes() == DATA for name in "abc")


def test_a_small_file_that_comes_wrong_at_first_goes_the_long_way(lab):
    bad, good = lab.mirror(Faults(corrupt=(5,)), data=DATA[:999]), lab.mirror(data=DATA[:999])
    sha256 = hashlib.sha256(DATA[:999]).hexdigest()
    fetched = lab.fetch(bad, good, size=999, sha256=sha256)
    in_place(lab, fetched, DATA[:999])


def test_nothing_to_fetch_is_nothing(lab):
    assert fetch_all([], step=lab.step()) == []


# Ways


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(lab, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    in_place(lab, lab.fetch(lab.mirror()))


def test_a_given_proxy_is_used_and_told_when_it_is_not_there(lab):
    secret = "http://user:geheim@127.0.0.1:9"
    with pytest.raises(NetworkFailed) as caught:
        lab.fetch(lab.mirror(), transport=Transport(proxy=secret), policy={"attempts": 1})
    assert "proxy" in told(caught.value)
    assert "geheim" not in told(caught.value) + repr(Transport(proxy=secret))


def test_the_same_address_twice_is_one_source(lab):
    mirror = lab.mirror()
    fetched = lab.fetch(mirror, mirror)
    in_place(lab, fetched)
    assert len(fetched.shares) == 1


class NoConditions(http.server.BaseHTTPRequestHandler):
    """Knows Range and ETag, but answers with the whole file as soon as a condition comes along."""

    protocol_version = "HTTP/1.1"
    whole = 0

    def do_GET(self):
        asked = "" if self.headers["If-Range"] else self.headers.get("Range", "")
        first, _, last = asked.removeprefix("bytes=").partition("-")
        body = DATA[int(first) : int(last) + 1] if asked else DATA
        self.send_response(206 if asked else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{SIZE}")
        else:
            type(self).whole += 1
            self.close_connection = True
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *_words):
        pass


def test_a_server_that_cannot_take_a_condition_still_gives_parts(lab):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), NoConditions) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = Source(url=f"http://127.0.0.1:{server.server_port}/f", name="odd")
        wanted = Wanted(name="file.bin", sources=(source,), sha256=SHA256)
        fetched = fetch(wanted, lab.target, step=lab.step(), policy=Policy(**POLICY))
        server.shutdown()
    in_place(lab, fetched)
    assert 1 <= NoConditions.whole <= POLICY["per_source"]  # each first connection may find it out for itself


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl program to make a certificate")
@pytest.mark.parametrize("trust", ["certificate", "host", "nothing"])
def test_certificates(lab, tmp_path, trust):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    command = ["openssl", *words.split(), "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    mirror = lab.mirror()
    mirror.server.socket = context.wrap_socket(mirror.server.socket, server_side=True)
    secure = mirror.url.replace("http://127.0.0.1", "https://localhost")
    wanted = Wanted(name="file.bin", sources=(Source(url=secure, name="secure"),), sha256=SHA256)
    transport = {
        "certificate": Transport(cert=str(cert)),
        "host": Transport(trusted_hosts=("localhost",)),
        "nothing": Transport(),
    }[trust]
    if trust == "nothing":
        with pytest.raises(NetworkFailed, match="fetched") as caught:
            fetch(wanted, lab.target, step=lab.step(), policy=Policy(**POLICY), transport=transport)
        assert "certificate" in told(caught.value)
    else:
        in_place(lab, fetch(wanted, lab.target, step=lab.step(), policy=Policy(**POLICY), transport=transport))


@pytest.mark.parametrize("url", ["ftp://example.org/x", "example.org/x", ""])
def test_what_is_no_web_address_is_a_wrong_word(lab, url):
    wanted = Wanted(name="x", sources=(Source(url=url, name="given"),))
    with pytest.raises(UsageError):
        fetch(wanted, lab.target, step=lab.step())
    with pytest.raises(UsageError):
        fetch(Wanted(name="x", sources=()), lab.target, step=lab.step())


def test_a_secure_address_does_not_lead_to_an_open_one():
    with pytest.raises(Refused, match="plain http"):
        _next("https://example.org/a", "http://example.org/b")
    assert _next("https://example.org/a/b", "../c?d=1") == "https://example.org/c?d=1"


def test_a_date_to_wait_for_is_measured_by_the_servers_own_clock():
    date, until = "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:30 GMT"
    assert retry_after({"Retry-After": until, "Date": date}) == 30.0
    assert retry_after({"Retry-After": "7"}) == 7.0
    assert retry_after({"Retry-After": "soon"}) is None
    assert retry_after({}) is None


# Words


def test_progress_ends_at_the_whole_and_names_each_source_on_demand(lab):
    told_of, mirror = [], lab.mirror(Faults(total_bytes_per_second=1 << 16))

    def hear(event):
        told_of.extend([event] if isinstance(event, StepProgress) else [])
        if any("first" in one.detail and "over" in one.detail and "left" in one.detail for one in told_of):
            mirror.faults = Faults()  # all has been said: the rest at once

    fetch(lab.wanted(mirror, size=SIZE), lab.target, step=Step(hear, "x", "x"), policy=Policy(**POLICY, verbose=True))
    assert mirror.faults == Faults()
    assert (told_of[-1].done, told_of[-1].total) == (SIZE, SIZE)


def told_slowly(lab, enough, call):
    """Call something that fetches from a slow mirror until what is said is enough; return all that was said."""
    told_of, mirror = [], lab.mirror(Faults(total_bytes_per_second=1 << 16))

    def hear(event):
        told_of.extend([event.detail] if isinstance(event, StepProgress) else [])
        if enough(told_of):
            mirror.faults = Faults()

    call(lab.wanted(mirror, size=SIZE), Step(hear, "x", "x"))
    return told_of


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("asked", ["1", "0"])
def test_a_variable_asks_any_command_what_each_source_gives(lab, monkeypatch, several, asked):
    monkeypatch.setenv("FIRSTLIGHT_RATES", asked)

    def call(wanted, step):
        if several:
            fetch_all([(wanted, lab.target)], step=step)
        else:
            fetch(wanted, lab.target, step=step)

    def rates(said):
        return [one for one in said if re.search(r"first [\d.]+ [kM]?B/s over \d", one)]

    said = told_slowly(lab, rates if asked == "1" else lambda said: len(said) > 5, call)
    assert bool(rates(said)) == (asked == "1")


def test_who_waits_says_for_whom(lab):
    mirror, said = lab.mirror(), threading.Event()
    hold = mirror.hold(PIECE)
    first = threading.Thread(target=lab.fetch, args=(mirror,))
    first.start()
    assert hold.reached.wait(60)

    def hear(event):
        if isinstance(event, Note) and "waiting" in event.text:
            said.set()

    results = []
    second = threading.Thread(
        target=lambda: results.append(fetch(lab.wanted(mirror), lab.target, step=Step(hear, "x", "x")))
    )
    second.start()
    assert said.wait(60)
    hold.go.set()
    first.join()
    second.join()
    assert results[0].reused
    assert results[0].sha256 == SHA256
