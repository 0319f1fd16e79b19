"""Every fault of a mirror and of the network: the right bytes, or a clear error and all so far kept for the next run.

Real loopback servers that misbehave (support/faulty_server.py); nothing here looks at a clock.
"""

from __future__ import annotations

import hashlib
import json
import random
import re

import pytest
from support.faults import Faults
from support.fetching_lab import (
    DATA,
    EVERYWHERE,
    HASTY,
    OTHER,
    PIECE,
    POLICY,
    SHA256,
    SILENT,
    SIZE,
    finish_what_is_left,
    in_place,
    lab_in,
    mend,
)

from firstlight.errors import FirstlightError, NetworkFailed
from firstlight.fetching.fetch import fetch, fetch_all
from firstlight.fetching.types import Policy, Source, Transport, Wanted


@pytest.fixture
def lab(tmp_path, monkeypatch):
    with lab_in(tmp_path, monkeypatch) as made:
        yield made


# One source misbehaves and is enough all the same

ALONE = {
    "no fault": Faults(),
    "resets every connection": Faults(reset_every=600_000),
    "no Range": Faults(no_range=True),
    "a proxy drops Range": Faults(drops_range=True),
    "Range is dropped for much": Faults(drops_range_above=1000),
    "Range is dropped later": Faults(drops_range_after=4),
    "Range is honoured with status 200": Faults(status_200=True),
    "503 eight times": Faults(failing=8),
    "503 eight times with Retry-After": Faults(failing=8, retry_after="0"),
    "503 with a date": Faults(failing=2, retry_after="Mon, 01 Jan 2001 00:00:00 GMT"),
    "429": Faults(failing=3, status=429, retry_after="1"),
    "500": Faults(failing=3, status=500),
    "two connections, 503 above": Faults(max_connections=2),
    "two connections, 429 above": Faults(max_connections=2, over="429", retry_after="0"),
    "two connections, reset above": Faults(max_connections=2, over="reset"),
    "one connection, others wait": Faults(max_connections=1, over="wait"),
    "each answer ends too early": Faults(short_by=1000),
    "more bytes than said": Faults(long_by=1000),
    "chunked, no length": Faults(length="chunked"),
    "chunked, no length, no Range": Faults(length="chunked", no_range=True),
    "the end of the connection is the end": Faults(length="close"),
    "HEAD is refused": Faults(head="refused"),
    "HEAD has no length": Faults(head="no_length"),
    "HTTP/1.0": Faults(http10=True),
    "HTTP/1.0 without Range and length": Faults(http10=True, no_range=True, length="close"),
    "weak ETag": Faults(etag="weak"),
    "no ETag": Faults(etag="none"),
    "no ETag, no date": Faults(etag="none", last_modified=False),
    "gzip for those who take it": Faults(gzip="accepted"),
    "silent once": Faults(hang_once=SIZE // 2),
}


@pytest.mark.parametrize("faults", ALONE.values(), ids=ALONE.keys())
def test_one_source_with_a_fault_gives_the_right_bytes(lab, faults):
    mirror = lab.mirror(faults)
    policy = {"stall_seconds": 4.0} if faults.hang_once else {}
    fetched = lab.fetch(mirror, policy=policy)
    in_place(lab, fetched)
    assert fetched.hash_known
    assert fetched.dropped == ()


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_files_of_every_size(lab, size):
    data = DATA[:size]
    mirror, second = lab.mirror(data=data), lab.mirror(data=data)
    fetched = lab.fetch(mirror, second, sha256=hashlib.sha256(data).hexdigest(), policy={"small": 100})
    in_place(lab, fetched, data)


# One of two misbehaves: the other one carries it

BESIDE_A_GOOD_ONE = {
    "404": (Faults(missing=True), "404"),
    "403": (Faults(failing=-1, status=403), "403"),
    "500 always": (Faults(failing=-1, status=500), "500"),
    "redirects to itself": (Faults(redirect="loop"), "redirect"),
    "redirects without end": (Faults(redirect="relative"), "redirect"),
    "a web page": (Faults(html=True), "web page|html|HTML"),
    "another length": (Faults(smaller_by=1000), "size|length|long|bytes"),
    "a longer file": (Faults(smaller_by=-1000), "size|length|long|bytes"),
    "never answers": (Faults(hangs=True), None),
    "goes silent": (Faults(hang_after=PIECE), None),
    "dies midway": (Faults(dies_after=PIECE), None),
    "another part than asked": (Faults(content_range="shifted"), None),
    "a Content-Range of another whole": (Faults(content_range="total"), None),
    "no Content-Range": (Faults(content_range="missing"), None),
    "a Content-Range that is none": (Faults(content_range="garbage"), None),
    "multipart": (Faults(multipart=True), None),
    "gzip always": (Faults(gzip="always"), None),
    "50 bytes a second": (Faults(total_bytes_per_second=2000), None),
    "no Range": (Faults(no_range=True), None),
    "asks to wait for an hour": (Faults(failing=-1, retry_after="3600"), None),
}


@pytest.mark.parametrize(("faults", "reason"), BESIDE_A_GOOD_ONE.values(), ids=BESIDE_A_GOOD_ONE.keys())
def test_a_bad_mirror_beside_a_good_one(lab, faults, reason):
    bad, good = lab.mirror(faults), lab.mirror()
    fetched = lab.fetch(bad, good, size=SIZE)
    in_place(lab, fetched)
    assert not any(dropped.banned for dropped in fetched.dropped)
    assert [dropped.source for dropped in fetched.dropped] in ([], ["first"])
    for dropped in fetched.dropped:  # the good one may be done before the bad one has said a word
        assert re.search(reason or "", dropped.reason)
    assert fetched.bytes < 2 * SIZE


@pytest.mark.parametrize("order", ["bad first", "bad second"])
def test_a_web_page_is_told_from_the_file_when_nothing_is_known_of_it(lab, order):
    bad, good = lab.mirror(Faults(html=True)), lab.mirror()
    routes = (bad, good) if order == "bad first" else (good, bad)
    in_place(lab, lab.fetch(*routes, sha256=None))


@pytest.mark.parametrize("order", ["liar first", "liar second"])
def test_a_length_that_no_disk_has_room_for_does_not_end_it(lab, order):
    liar, good = lab.mirror(Faults(smaller_by=-(10**18))), lab.mirror()
    in_place(lab, lab.fetch(*((liar, good) if order == "liar first" else (good, liar))))


def test_a_slow_mirror_loses_its_pieces_to_the_fast_one(lab):
    slow, fast = lab.mirror(Faults(total_bytes_per_second=1000)), lab.mirror()
    fetched = lab.fetch(slow, fast)
    in_place(lab, fetched)
    assert slow.given < 2 * PIECE  # it had three of them, and none was waited for
    assert fetched.bytes < 2 * SIZE


def test_a_mirror_that_asks_to_wait_is_left_alone_meanwhile(lab):
    busy, good = lab.mirror(Faults(failing=-1, retry_after="200")), lab.mirror()
    in_place(lab, lab.fetch(busy, good))
    assert busy.requests() <= POLICY["per_source"] + 1


def test_no_more_connections_than_were_allowed(lab):
    first, second = lab.mirror(), lab.mirror()
    in_place(lab, lab.fetch(first, second, policy={"connections": 3, "per_source": 2}))
    assert first.most_at_once <= 2
    assert second.most_at_once <= 2


def test_a_mirror_with_room_for_two_gets_no_storm_of_requests(lab):
    mirror = lab.mirror(Faults(max_connections=2))
    in_place(lab, lab.fetch(mirror, policy={"per_source": 6}))
    refused = sum(1 for seen in mirror.seen if seen.status == 503)
    assert refused <= 24


# The only source fails: a clear error, everything kept, and the rest when it is back

FATAL = {
    "404": (Faults(missing=True), "404"),
    "401": (Faults(requires=(("Authorization", "Bearer x"),)), "401"),
    "redirects to itself": (Faults(redirect="loop"), "redirect"),
    "never answers": (Faults(hangs=True), ""),
    "503 always": (Faults(failing=-1), "503"),
    "asks to wait for a day": (Faults(failing=-1, retry_after="86400"), "503"),
    "a web page": (Faults(html=True), ""),
    "another length": (Faults(smaller_by=1000), ""),
}


@pytest.mark.parametrize(("faults", "reason"), FATAL.values(), ids=FATAL.keys())
def test_the_only_source_fails_with_a_clear_error_and_may_come_back(lab, faults, reason):
    mirror = lab.mirror(faults)
    with pytest.raises(FirstlightError) as caught:
        lab.fetch(mirror, size=SIZE, policy=SILENT if faults.hangs else HASTY)
    error = caught.value
    assert error.code in {4, 5}
    assert "file.bin" in error.what
    assert reason in f"{error.what} {error.why}"
    assert "first" in f"{error.what} {error.why}"
    assert error.fix
    assert "stopped" not in error.fix  # nothing came that could go on
    assert not lab.target.exists()
    finish_what_is_left(lab, mirror, kept=False)


@pytest.mark.parametrize("faults", [Faults(dies_after=SIZE // 2), Faults(hang_after=SIZE // 2)], ids=["dies", "silent"])
def test_the_only_source_is_lost_midway_and_the_next_run_asks_for_the_rest(lab, faults):
    mirror = lab.mirror(faults)
    with pytest.raises(NetworkFailed) as caught:
        lab.fetch(mirror, policy=SILENT if faults.hang_after else HASTY)
    assert "first" in f"{caught.value.what} {caught.value.why}"
    assert "goes on where it stopped" in caught.value.fix
    assert lab.left() == ["file.bin.partial", "file.bin.partial.json"]
    fetched = finish_what_is_left(lab, mirror)
    assert fetched.resumed >= SIZE // 4


def test_a_promised_size_that_nobody_has_is_told_as_such(lab):
    with pytest.raises(NetworkFailed) as caught:
        lab.fetch(lab.mirror(), lab.mirror(), size=SIZE + 1)
    assert "name another source" in caught.value.fix
    assert f"{SIZE + 1} bytes" in caught.value.fix


@pytest.mark.parametrize("known", ["size and hash", "hash", "nothing"])
@pytest.mark.parametrize("when", ["always", "after the first byte"])
def test_where_one_source_compresses_another_takes_over(lab, known, when):
    packing, good = lab.mirror(Faults(gzip="always")), lab.mirror()
    if when != "always":
        packing.faults = Faults()
        packing.at(1, lambda: setattr(packing, "faults", Faults(gzip="always")))
    more = {"size and hash": {"size": SIZE}, "hash": {}, "nothing": {"sha256": None}}[known]
    fetched = lab.fetch(packing, good, **more)
    in_place(lab, fetched)
    assert not any(dropped.banned for dropped in fetched.dropped)


def test_the_only_source_compresses(lab):
    mirror = lab.mirror(Faults(gzip="always"))
    with pytest.raises(NetworkFailed, match=r"could not be fetched") as caught:
        lab.fetch(mirror)
    assert "first: it compresses what it sends (gzip)" in caught.value.why
    finish_what_is_left(lab, mirror, kept=False)


def test_every_source_is_named_with_its_reason(lab):
    gone, page = lab.mirror(Faults(missing=True)), lab.mirror(Faults(redirect="loop"))
    with pytest.raises(NetworkFailed) as caught:
        lab.fetch(gone, page, policy=HASTY)
    told = f"{caught.value.what} {caught.value.why}"
    assert "first" in told
    assert "404" in told
    assert "second" in told
    assert "redirect" in told


def test_nobody_listens(lab):
    mirror = lab.mirror()
    mirror.server.server_close()
    with pytest.raises(NetworkFailed) as caught:
        lab.fetch(mirror, policy=HASTY)
    assert "first" in f"{caught.value.what} {caught.value.why}"
    assert not lab.target.exists()


# Secrets and other hosts


def test_secret_headers_stay_with_their_host(lab):
    away = lab.mirror()
    hub = lab.mirror(Faults(redirect=away.url, redirect_status=307, requires=(("Authorization", "Bearer hush"),)))
    secret = (("Authorization", "Bearer hush"), ("Cookie", "session=hush"))
    in_place(lab, lab.fetch(hub, headers=secret))
    assert hub.seen
    assert away.seen
    assert all(seen.headers.get("authorization") == "Bearer hush" for seen in hub.seen)
    assert not any({"authorization", "cookie"} & set(seen.headers) for seen in away.seen)


def test_secrets_are_in_no_error_and_no_state(lab):
    away = lab.mirror(Faults(dies_after=SIZE // 2), path="/file.bin?signature=hush")
    hub = lab.mirror(Faults(redirect=away.url))
    with pytest.raises(NetworkFailed) as caught:
        lab.fetch(hub, headers=(("Authorization", "Bearer hush"),), policy=HASTY)
    error = caught.value
    told = [error.what, error.why, error.fix, json.dumps(error.document), *(note.text for note in lab.said)]
    assert "hush" not in " ".join(filter(None, told))
    state = (lab.folder / "file.bin.partial.json").read_text("utf-8")
    assert "hush" not in state


def test_a_signed_address_that_expires_is_asked_for_again(lab):
    first, second = lab.mirror(), lab.mirror()
    hub = lab.mirror(Faults(redirect=first.url))

    def expire():
        hub.faults = Faults(redirect=second.url)
        first.faults = Faults(failing=-1, status=403)

    first.at(SIZE // 4, expire)
    in_place(lab, lab.fetch(hub))
    assert second.given >= SIZE // 4
    assert hub.requests() >= 2


def test_a_proxy_that_drops_range(lab):
    proxy = lab.mirror(Faults(drops_range=True))
    wanted = Wanted(
        name="file.bin", sources=(Source(url="http://far.invalid/file.bin", name="far", kind="origin"),), sha256=SHA256
    )
    transport = Transport(proxy=proxy.server.url)
    fetched = fetch(wanted, lab.target, step=lab.step(), policy=Policy(**POLICY), transport=transport)
    in_place(lab, fetched)
    assert proxy.seen[0].path == "http://far.invalid/file.bin"


# What is in place already


def test_a_file_that_is_in_place_costs_no_request(lab):
    lab.target.write_bytes(DATA)
    mirror = lab.mirror()
    fetched = lab.fetch(mirror)
    in_place(lab, fetched)
    assert fetched.reused
    assert not mirror.seen


def test_a_wrong_file_in_place_is_replaced(lab):
    lab.target.write_bytes(OTHER)
    in_place(lab, lab.fetch(lab.mirror()))


def test_a_wrong_file_in_place_stays_when_the_right_one_cannot_be_had(lab):
    lab.target.write_bytes(OTHER)
    with pytest.raises(FirstlightError):
        lab.fetch(lab.mirror(Faults(corrupt=EVERYWHERE)))
    assert lab.target.read_bytes() == OTHER


# Many files


def test_one_dead_file_does_not_cost_the_others(lab):
    wanted, routes = [], []
    for at in range(4):
        data = random.Random(at).randbytes(1 << 20)
        route = lab.mirror(Faults(missing=True) if at == 2 else None, data)
        routes.append((route, data))
        given = lab.wanted(route, sha256=hashlib.sha256(data).hexdigest(), name=f"part-{at}")
        wanted.append((given, lab.folder / f"part-{at}"))
    policy = Policy(**{**POLICY, **HASTY})
    with pytest.raises(NetworkFailed) as caught:
        fetch_all(wanted, step=lab.step(), policy=policy)
    assert "part-2" in f"{caught.value.what} {caught.value.why}"
    mend(routes[2][0])
    there = [path.exists() for _wanted, path in wanted]
    fetched = fetch_all(wanted, step=lab.step(), policy=policy)
    assert [one.reused for one in fetched] == there
    assert [one.path for one in fetched] == [path for _wanted, path in wanted]
    for (_route, data), (_wanted, path) in zip(routes, wanted, strict=True):
        assert path.read_bytes() == data
