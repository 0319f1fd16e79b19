"""Bytes that lie and objects that change: the culprit is found, nothing wrong or mixed is ever put in place."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import re
import shutil
import tarfile

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
    SIZE,
    in_place,
    lab_in,
    late,
    mend,
)

from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed
from firstlight.fetching.types import PieceHashes, Policy

PIECES = PieceHashes(PIECE, tuple(hashlib.sha256(DATA[at : at + PIECE]).hexdigest() for at in range(0, SIZE, PIECE)))


@pytest.fixture
def lab(tmp_path, monkeypatch):
    with lab_in(tmp_path, monkeypatch) as made:
        yield made


# Bytes that lie


@pytest.mark.parametrize("others", [1, 2], ids=["of two", "of three"])
@pytest.mark.parametrize("position", ["first", "last"])
def test_the_mirror_that_lies_is_found_and_banned(lab, others, position):
    bad, good = lab.mirror(Faults(corrupt=EVERYWHERE)), [lab.mirror() for _ in range(others)]
    routes = [bad, *good] if position == "first" else [*good, bad]
    liar = "first" if position == "first" else ["second", "third"][others - 1]
    late(lab, good, bad)
    fetched = lab.fetch(*routes)
    in_place(lab, fetched)
    assert [dropped.source for dropped in fetched.dropped if dropped.banned] == [liar]
    assert fetched.bytes < 3 * SIZE  # the file, and at most once more all that is compared and fetched again


def test_one_wrong_byte_is_found_with_what_is_fetched_again(lab):
    bad, good = lab.mirror(Faults(corrupt=(SIZE // 2,))), lab.mirror()
    holding = good.hold(1)
    bad.at(SIZE * 3 // 4, holding.go.set)
    fetched = lab.fetch(bad, good)
    in_place(lab, fetched)
    assert fetched.bytes < 3 * SIZE


def test_two_liars_that_agree_and_one_that_is_right(lab):
    bad = [lab.mirror(Faults(corrupt=EVERYWHERE)) for _ in range(2)]
    good = lab.mirror()
    late(lab, [good], *bad)
    fetched = lab.fetch(*bad, good)
    in_place(lab, fetched)
    assert {dropped.source for dropped in fetched.dropped if dropped.banned} == {"first", "second"}


@pytest.mark.parametrize("mirrors", [1, 2, 3])
def test_all_lie_and_nothing_is_put_in_place(lab, mirrors):
    routes = [lab.mirror(Faults(corrupt=EVERYWHERE, corrupt_seed=seed + 1)) for seed in range(mirrors)]
    with pytest.raises(VerificationFailed) as caught:
        lab.fetch(*routes)
    assert caught.value.code == 5
    assert "first" in f"{caught.value.what} {caught.value.why}"
    assert not lab.target.exists()
    for route in routes:
        mend(route)
    in_place(lab, lab.fetch(*routes))


def test_only_the_origin_lies(lab):
    origin, mirror = lab.mirror(Faults(corrupt=EVERYWHERE)), lab.mirror(Faults(missing=True))
    with pytest.raises(VerificationFailed):
        lab.fetch(origin, mirror)
    assert not lab.target.exists()
    mend(mirror)
    fetched = lab.fetch(origin, mirror)
    in_place(lab, fetched)


@pytest.mark.parametrize("mirrors", [1, 2])
def test_piece_hashes_ban_the_liar_at_its_first_piece(lab, mirrors):
    bad, good = lab.mirror(Faults(corrupt=EVERYWHERE)), [lab.mirror() for _ in range(mirrors)]
    for hold in [route.hold(1) for route in good]:
        lab.when(lambda: "wrong bytes" in lab.loud(), hold.go.set)
    fetched = lab.fetch(bad, *good, size=SIZE, pieces=PIECES)
    in_place(lab, fetched)
    assert [dropped.source for dropped in fetched.dropped if dropped.banned] == ["first"]
    assert fetched.bytes < 3 * SIZE


def test_piece_hashes_judge_what_an_earlier_run_left(lab):
    mirror = lab.mirror(Faults(dies_after=SIZE // 2, corrupt=(100,)))
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror, size=SIZE, pieces=PIECES, policy={"attempts": 1})
    mend(mirror)
    fetched = lab.fetch(mirror, size=SIZE, pieces=PIECES)
    in_place(lab, fetched)


def test_no_hash_is_said_loudly(lab):
    fetched = lab.fetch(lab.mirror(), sha256=None)
    in_place(lab, fetched)
    assert not fetched.hash_known
    assert "file.bin" in lab.loud()


def test_without_a_hash_two_sources_that_differ_are_no_file(lab):
    one, other = lab.mirror(Faults(corrupt=EVERYWHERE, etag="none")), lab.mirror(Faults(etag="none"))
    with pytest.raises(FirstlightError) as caught:
        lab.fetch(one, other, sha256=None)
    told = f"{caught.value.what} {caught.value.why}"
    assert "first" in told
    assert "second" in told
    assert not lab.target.exists()


def test_without_a_hash_a_source_that_answers_late_is_still_compared(lab):
    one, late_one = lab.mirror(), lab.mirror(Faults(corrupt=EVERYWHERE, failing=2, retry_after="1"))
    with pytest.raises(VerificationFailed) as caught:
        lab.fetch(one, late_one, sha256=None, policy={"connect_seconds": 60.0})
    assert {"first", "second"} <= set(re.findall(r"\w+", caught.value.what))
    assert not lab.target.exists()


def test_without_a_hash_it_is_said_who_gave_the_same_bytes(lab):
    in_place(lab, lab.fetch(lab.mirror(), lab.mirror(), sha256=None, policy={"connect_seconds": 60.0}))
    assert re.search(
        r"no SHA-256 is known for it; (first and second|second and first) gave the same bytes$", lab.loud()
    )


def test_without_a_hash_a_second_source_that_stands_still_holds_nothing_up(lab):
    one, still = lab.mirror(), lab.mirror(Faults(hang_after=1))
    policy = {"connect_seconds": 60.0, "stall_seconds": 600.0, "compare_seconds": 0.5}
    in_place(lab, lab.fetch(one, still, sha256=None, policy=policy))
    assert "no second source gave any of it to compare with" in lab.loud()
    assert lab.left() == ["file.bin"]


SAMPLES = {"connect_seconds": 60.0, "compare": 1 << 20}
LARGE = random.Random(3).randbytes(10 << 20)


def test_without_a_hash_a_large_file_is_compared_in_samples_and_that_is_said(lab):
    one, other = lab.mirror(data=LARGE), lab.mirror(data=LARGE)
    in_place(lab, lab.fetch(one, other, sha256=None, policy=SAMPLES), LARGE)
    assert re.search(r"gave the same bytes where they were compared: [\d.]+ MB of 10 MB", lab.loud())


def test_without_a_hash_a_stretch_of_other_bytes_in_a_large_file_is_found(lab):
    """However the bytes are shared out, a stretch that is longer than two samples are apart holds one of them."""
    wrong = tuple(range(4 << 20, 8 << 20, 1000))
    one, other = lab.mirror(data=LARGE), lab.mirror(Faults(corrupt=wrong), LARGE)
    with pytest.raises(VerificationFailed, match="have different bytes"):
        lab.fetch(one, other, sha256=None, policy=SAMPLES)
    assert not lab.target.exists()


# The object changes


@pytest.mark.parametrize("ignores", [False, True], ids=["If-Range is known", "If-Range is ignored"])
@pytest.mark.parametrize("etag", ["strong", "weak", "none"])
def test_an_object_that_changes_midway_is_never_mixed(lab, etag, ignores):
    mirror = lab.mirror(Faults(changes_after=SIZE // 3, etag=etag, ignores_if_range=ignores), then=OTHER)
    fetched = lab.fetch(mirror, sha256=None)
    in_place(lab, fetched, OTHER)


def test_an_object_of_another_length_midway(lab):
    mirror = lab.mirror(Faults(changes_after=SIZE // 3), then=OTHER[:-5000])
    in_place(lab, lab.fetch(mirror, sha256=None), OTHER[:-5000])


def test_an_object_that_changes_unseen_does_not_pass_the_hash(lab):
    mirror = lab.mirror(Faults(changes_after=SIZE // 3, quiet=True), then=OTHER)
    wanted = hashlib.sha256(OTHER).hexdigest()
    try:
        fetched = lab.fetch(mirror, sha256=wanted)
    except VerificationFailed:
        assert not lab.target.exists()
        fetched = lab.fetch(mirror, sha256=wanted)
    in_place(lab, fetched, OTHER)


@pytest.mark.parametrize("known", ["hash", "no hash"])
def test_another_object_at_the_second_run_starts_over(lab, known):
    mirror = lab.mirror(Faults(dies_after=SIZE // 2), then=OTHER)
    sums = [SHA256, hashlib.sha256(OTHER).hexdigest()] if known == "hash" else [None, None]
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror, sha256=sums[0], policy=HASTY)
    mirror.change()
    mend(mirror)
    fetched = lab.fetch(mirror, sha256=sums[1])
    in_place(lab, fetched, OTHER)
    assert fetched.resumed == 0


def test_mirrors_of_two_versions_without_hash_are_not_mixed(lab):
    old, new = lab.mirror(), lab.mirror(data=OTHER)
    with contextlib.suppress(FirstlightError):
        lab.fetch(old, new, sha256=None)
    assert not lab.target.exists() or lab.target.read_bytes() in {DATA, OTHER}


# A tarball that attacks


def tarball(*members):
    """A .tgz of a good file and these members."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        good = tarfile.TarInfo("bin/program")
        good.size = 2_000_000
        archive.addfile(good, io.BytesIO(DATA[: good.size]))
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, 0
            archive.addfile(member)
    return packed.getvalue()


ATTACKS = {
    "a path out of the tree": ("../../evil", tarfile.REGTYPE, ""),
    "an absolute path": ("/tmp/evil", tarfile.REGTYPE, ""),
    "a link out of the tree": ("lib/evil", tarfile.SYMTYPE, "../../../etc"),
    "a device": ("lib/evil", tarfile.CHRTYPE, ""),
}


@pytest.mark.parametrize("member", ATTACKS.values(), ids=ATTACKS.keys())
def test_a_tarball_that_attacks_leaves_nothing_behind(lab, member):
    from firstlight.fetching.unpacking import fetch_and_unpack

    data = tarball(member)
    mirror = lab.mirror(Faults(total_bytes_per_second=4 << 20), data)
    wanted = lab.wanted(mirror, sha256=hashlib.sha256(data).hexdigest())
    tree = lab.folder / "inner" / "tree"
    tree.parent.mkdir()
    with pytest.raises(VerificationFailed):
        fetch_and_unpack(wanted, lab.target, tree, step=lab.step(), policy=Policy(**POLICY))
    assert list(tree.parent.iterdir()) == []
    assert not [path for path in lab.folder.rglob("*") if path.name == "evil"]


def test_a_liar_beside_a_good_mirror_unpacks_to_the_right_tree(lab):
    from firstlight.fetching.unpacking import fetch_and_unpack

    data = tarball(("lib/empty", tarfile.REGTYPE, ""))
    bad = lab.mirror(Faults(corrupt=tuple(range(100, len(data), 1 << 14))), data)
    good = lab.mirror(data=data)
    late(lab, [good], bad)
    wanted = lab.wanted(bad, good, sha256=hashlib.sha256(data).hexdigest())
    tree = lab.folder / "tree"
    fetched, _unpacked = fetch_and_unpack(wanted, lab.target, tree, step=lab.step(), policy=Policy(**POLICY))
    assert [dropped.source for dropped in fetched.dropped if dropped.banned] == ["first"]
    assert (tree / "bin" / "program").read_bytes() == DATA[:2_000_000]
    shutil.rmtree(tree)
    assert lab.left() == ["file.bin"]
