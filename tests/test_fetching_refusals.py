"""Archives that attack, lie or are none: each is refused by name and reason, and leaves nothing behind."""

from __future__ import annotations

import gzip
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from support.archives import block, entry, packed, records, tar_of, write_layout

from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Step, silent
from firstlight.fetching.tar_headers import Damaged, Header, Refused
from firstlight.fetching.tar_rules import Judge, parts_of
from firstlight.fetching.tar_stream import TarStream
from firstlight.fetching.unpacking import Limits, Selection, unpack

FINE = entry("bin/program", b"#!/bin/sh\n", mode=0o755)
LONG = "x" * 256


def folder(name: str) -> bytes:
    return entry(name, flag=b"5", mode=0o755)


def link(name: str, target: str) -> bytes:
    return entry(name, flag=b"2", target=target)


def hard(name: str, target: str) -> bytes:
    return entry(name, flag=b"1", target=target)


ATTACKS = {
    "a name that climbs": ([entry("../evil", b"x")], r"\.\./evil leads out of its folder with `\.\.`"),
    "a name that climbs further down": ([entry("a/b/../../../evil", b"x")], "leads out"),
    "a name of dots alone": ([entry("..", b"", flag=b"5")], "leads out"),
    "an absolute name": ([entry("/etc/cron.d/evil", b"x")], "/etc/cron.d/evil has an absolute name"),
    "an absolute name by its prefix": ([entry("passwd", b"x", prefix=b"/etc")], "absolute"),
    "a long name of pax that climbs": ([records(path="../../evil"), entry("harmless", b"x")], "leads out"),
    "a long name of GNU that is absolute": ([entry("L", b"/evil\0", flag=b"L"), entry("harmless", b"x")], "absolute"),
    "a name that climbs for a folder": ([folder("../evil/")], "leads out"),
    "a link to an absolute place": ([link("lib", "/etc")], "lib links to /etc, outside of its folder"),
    "a link that climbs out": ([link("lib/a", "../../etc")], "outside of its folder"),
    "a link from the top that climbs": ([link("a", "..")], "outside of its folder"),
    "a link by pax that climbs": ([records(linkpath="../../../etc"), link("a/b", "c")], "outside"),
    "a link whose way leads through a link": ([link("d", "."), link("l", "d/../x")], "`..` stand not at its start"),
    "a file through a link": ([link("a", "bin"), entry("a/evil", b"x")], "lies below a, which is a symlink"),
    "a file through a link to a folder made later": ([link("a", "b"), folder("b"), entry("a/evil", b"x")], "below a"),
    "a folder through a link": ([link("a", "bin"), folder("a/evil")], "lies below a"),
    "a link in place of a folder": ([folder("a"), entry("a/x", b"x"), link("a", "bin")], "was a folder before"),
    "a folder in place of a link": ([link("a", "bin"), folder("a")], "was a symlink before"),
    "a file in place of a folder": ([folder("a"), entry("a", b"x")], "is a file, and was a folder before"),
    "a folder in place of a file": ([entry("a", b"x"), folder("a")], "is a folder, and was a file before"),
    "a file below a file": ([entry("a", b"x"), entry("a/b", b"x")], "lies below a, which is a file"),
    "a file in place of a link": ([link("a", "bin"), entry("a", b"x")], "was a symlink before"),
    "a name twice": ([entry("bin/a", b"1"), entry("./bin//a", b"2")], "is there twice"),
    "a hard link out": ([hard("shadow", "/etc/shadow")], "absolute"),
    "a hard link that climbs": ([hard("shadow", "../../etc/shadow")], "leads out"),
    "a hard link to nothing": ([hard("a", "later"), entry("later", b"x")], "which is no file before it"),
    "a hard link to a link": ([link("l", "bin"), hard("a", "l")], "which is no file before it"),
    "a hard link through a link": ([entry("b/x", b"x"), link("a", "b"), hard("y", "a/x")], "which is no file"),
    "a hard link with content": ([entry("a", b"xx", flag=b"1", target="bin/program")], "2 bytes of content"),
    "a character device": ([entry("dev/null", flag=b"3")], "dev/null is a character device"),
    "a block device": ([entry("sda", flag=b"4")], "is a block device"),
    "a named pipe": ([entry("pipe", flag=b"6")], "is a named pipe"),
    "a GNU sparse file": ([entry("holes", flag=b"S")], "sparse"),
    "a pax sparse file": ([records(GNU__sparse__major="1"), entry("x", b"")], "is a sparse file"),
    "a type that nobody knows": ([entry("x", flag=b"Z")], "of the unknown type"),
    "a setuid program": ([entry("bin/su", b"x", mode=0o4755)], "setuid or setgid"),
    "a setgid program": ([entry("bin/su", b"x", mode=0o2755)], "setuid or setgid"),
    "no name": ([entry("", b"x")], "has no name"),
    "a name of pax that is empty": ([records(path=""), entry("x", b"x")], "has no name"),
    "a name with a line end": ([entry("bin/a\nb", b"x")], r"bin/a\\nb has a name with control characters"),
    "a name with an escape": ([entry("\x1b[2Jx", b"x")], "control characters"),
    "a NUL in a name of pax": ([records(path=b"a\0b"), entry("x", b"x")], "control characters"),
    "a target with an escape": ([link("a", "\x1b]0;x\x07")], "target with control characters"),
    "a name that is not UTF-8": ([entry(b"bin/\xff\xfe", b"x")], "not UTF-8"),
    "a part that no file system takes": ([records(path=f"bin/{LONG}"), entry("x", b"x")], "too long"),
    "a name that is too deep": ([records(path="a/" * 80 + "x"), entry("x", b"x")], "81 folders deep"),
    "a file in place of the top": ([entry("./", b"", flag=b"2", target="x")], "takes the place of the folder itself"),
    "a link to nowhere": ([link("a", "")], "is a link to nowhere"),
    "a negative size": ([block("a", stated=b"\xff" * 12)], "negative size"),
    "a size that is no number": ([block("a", stated=b"zzzzzzzzzzz\0")], "size that is no number"),
    "a size of pax that is no number": ([records(size="-1"), entry("x", b"x")], "size that is no number"),
    "a size for every member": ([entry("g", b"9 size=1\n", flag=b"g"), entry("x", b"x")], "every member the same"),
    "a name that is a whole book": ([block("L", 1 << 17, flag=b"L") + bytes(1 << 17)], "bytes of names and notes"),
    "pax records without an end": ([block("x", 1 << 30, flag=b"x")], "bytes of names and notes"),
    "more than was expected": ([entry("a", bytes(3000)), entry("b", bytes(3000))], "more than the 5000 bytes"),
    "a folder with content": ([entry("a", b"boo", flag=b"5")], "3 bytes of content, though it is no file"),
    "nothing but the top": ([folder("./")], "holds nothing"),
}  # fmt: skip


def refusal(tmp_path, data: bytes, *, name: str = "release.tgz", **options) -> VerificationFailed:
    """Unpack bytes that must be refused; nothing may be left but the archive itself."""
    archive = tmp_path / name
    archive.write_bytes(data)
    (tmp_path / "place").mkdir(exist_ok=True)
    options = {"limits": Limits(unpacked=5000), **options}
    with pytest.raises(VerificationFailed) as caught:
        unpack(archive, tmp_path / "place" / "1.0", step=Step(silent, "x", "x"), **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["place", name])
    assert list((tmp_path / "place").iterdir()) == []
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused_and_leaves_nothing(tmp_path, attack):
    members, reason = ATTACKS[attack]
    before = [] if attack == "nothing but the top" else [FINE]
    error = refusal(tmp_path, gzip.compress(tar_of(*before, *members)))
    with pytest.raises(VerificationFailed, match=reason):
        raise error
    assert "release.tgz was refused: " in str(error)


def test_what_is_refused_was_judged_before_its_bytes_were_read():
    """The content of a refused member never arrives: the header alone is enough."""
    judged = []

    class Nowhere:
        def begin(self, *words, **_options):
            judged.append(words)

    stream = TarStream(Judge(unpacked=None, members=10), Nowhere())
    with pytest.raises(Refused, match="leads out"):
        stream.feed(block("../evil", 1 << 30))
    assert judged == []


def test_an_endless_row_of_headers_ends(tmp_path):
    many = [entry(f"{number}", b"") for number in range(300)]
    error = refusal(tmp_path, gzip.compress(tar_of(*many)), limits=Limits(members=100))
    assert "more than 100 members" in str(error)
    notes = [records(path="x") for _ in range(300)]
    error = refusal(tmp_path, gzip.compress(tar_of(*notes, FINE)), limits=Limits(members=100))
    assert "more than 100 members" in str(error)


def test_a_bomb_is_stopped_at_its_ratio(tmp_path):
    archive = tmp_path / "bomb.tgz"
    with packed(archive) as stream:
        stream.write(block("zeros", 600 << 20))
        for _ in range(300):
            stream.write(bytes(1 << 20))
    with pytest.raises(VerificationFailed, match=r"times as large as its file: a decompression bomb"):
        unpack(archive, tmp_path / "1.0", step=Step(silent, "x", "x"))
    assert [path.name for path in tmp_path.iterdir()] == ["bomb.tgz"]


def test_more_than_the_disk_has_is_no_room_before_a_byte_is_written(tmp_path):
    huge = block("model", stated=b"\x80" + (1 << 60).to_bytes(11, "big"))
    (tmp_path / "a.tgz").write_bytes(gzip.compress(huge + bytes(1 << 20)))
    with pytest.raises(FirstlightError, match=r"no room for the content of .*a\.tgz") as caught:
        unpack(tmp_path / "a.tgz", tmp_path / "1.0", step=Step(silent, "x", "x"))
    assert "it needs 1152921504.6 GB" in caught.value.why
    assert [path.name for path in tmp_path.iterdir()] == ["a.tgz"]


def test_a_link_that_was_there_before_is_not_followed(tmp_path):
    """What the judge cannot know, the file system is asked: the staging folder is emptied, and no link is followed."""
    outside = tmp_path / "outside"
    outside.mkdir()
    staging = tmp_path / ".unpacking-1.0"
    staging.mkdir()
    (staging / "bin").symlink_to(outside)
    (staging / "left").mkdir()
    archive = tmp_path / "a.tgz"
    archive.write_bytes(gzip.compress(tar_of(FINE)))
    unpack(archive, tmp_path / "1.0", step=Step(silent, "x", "x"))
    assert list(outside.iterdir()) == []
    assert [path.name for path in (tmp_path / "1.0").iterdir()] == ["bin"]


def test_a_hard_link_to_what_is_left_out_is_refused(tmp_path):
    data = gzip.compress(tar_of(FINE, hard("bin/other", "bin/program")))
    error = refusal(tmp_path, data, selection=Selection(exclude=("bin/program",)))
    assert "is a hard link to bin/program, which is left out" in str(error)


WHOLE = gzip.compress(tar_of(FINE, entry("lib/big", os.urandom(4000))))
ZST = b"\x28\xb5\x2f\xfd"
NO_ARCHIVES = {
    "an HTML page": (b"<!DOCTYPE html>\n<html><body>Sign in", "it is a web page: it begins with '<!DOCTYPE html>'"),
    "a page with a mark before it": (b"\xef\xbb\xbf\r\n<HTML>", "web page"),
    "an empty file": (b"", "it is empty"),
    "zeros that were never filled": (bytes(4096), "nothing but zeros"),
    "words": (b"Not Found\n", "it is text that begins with 'Not Found'"),
    "bytes": (b"\x01\x02\xff\n", "it begins with the bytes 01 02 ff 0a"),
    "a zip archive": (b"PK\x03\x04" + bytes(600), "a zip archive"),
    "an xz archive": (b"\xfd7zXZ\0" + bytes(600), "an xz archive"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "gzip of a page": (gzip.compress(b"<html>" + bytes(600)), "its gzip content is no tar archive: it is a web page"),
    "gzip cut off in its first member": (WHOLE[:30], "it ends before the first member"),
    "a zstd head alone": (ZST, "it ends before the first member"),
    "a program where an archive was expected": (b"\x7fELF" + bytes(600), "a Linux program"),
}


@pytest.mark.parametrize("what", NO_ARCHIVES)
def test_what_is_no_archive_is_told_as_what_it_is(tmp_path, what):
    data, reason = NO_ARCHIVES[what]
    error = refusal(tmp_path, data)
    assert str(error).endswith("release.tgz is no archive that can be unpacked")
    assert reason in error.why


BROKEN = {
    "cut off in a file": (WHOLE[:-2000], "is cut off", "in the middle of its compressed content"),
    "cut off in its trailer": (WHOLE[:-4], "is cut off", "in the middle of its compressed content"),
    "cut off before its end mark": (gzip.compress(tar_of(FINE, end=b"")), "is cut off", "before the mark"),
    "cut off in a tar file": (tar_of(FINE, entry("a", bytes(900)))[:1800], "is cut off", "in the middle of a"),
    "a bit that is wrong": (WHOLE[:2000] + bytes([WHOLE[2000] ^ 8]) + WHOLE[2001:], "is damaged", "is damaged"),
    "a checksum that is wrong": (WHOLE[:-8] + b"beef" + WHOLE[-4:], "is damaged", "gzip content is damaged"),
    "zstd that is none": (ZST + b"<html>" * 200, "is damaged", "its zstd content is damaged"),
    "words behind its end": (WHOLE + b"trailing garbage", "is damaged", "bytes follow behind its end"),
    "two letters behind its end": (WHOLE + b"ok", "is damaged", "bytes follow behind its end"),
    "a member behind the end mark": (gzip.compress(tar_of(FINE) + FINE), "is damaged", "behind the mark"),
    "a header with a wrong checksum": (
        gzip.compress(tar_of(FINE, block("a", checksum=1))), "is damaged", "its checksum is wrong",
    ),
    "pax records that run over": (
        gzip.compress(tar_of(entry("x", b"99 path=a\n", flag=b"x"), FINE)), "is damaged", "pax records",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_archive_is_told_as_such(tmp_path, what):
    data, message, reason = BROKEN[what]
    error = refusal(tmp_path, data)
    assert message in str(error)
    assert reason in error.why
    assert "fetch it again" in error.fix


def test_a_hash_that_does_not_hold_publishes_nothing(tmp_path):
    error = refusal(tmp_path, WHOLE, sha256="0" * 64)
    assert "is not the file that was expected" in str(error)
    assert f"expected was {'0' * 64}" in error.why


NAMES = some.text(some.sampled_from("ab./\\\n\0é "), max_size=12)


@given(NAMES)
def test_no_name_leads_out(name):
    """Whatever is admitted lies below the top, in parts that name neither this folder nor the one above."""
    try:
        parts = parts_of(name)
    except Refused:
        return
    assert not name.startswith("/")
    assert all(part and part not in {".", ".."} and "/" not in part for part in parts)
    assert os.path.normpath("/top/" + name) == os.path.normpath("/top/" + "/".join(parts))


PARTS = some.lists(some.sampled_from(["a", "b", "..", "."]), min_size=1, max_size=5).map("/".join)
LINKS = some.lists(some.tuples(PARTS, PARTS, some.sampled_from(["symlink", "folder", "file", "hardlink"])), max_size=8)


@settings(deadline=None, max_examples=400)
@given(LINKS)
def test_whatever_is_admitted_every_link_stays_inside(tmp_path_factory, wishes):
    """Laid out for real by the rules alone, no path of the tree resolves to a place outside of it."""
    from firstlight.fetching.extracting import Tree

    top = tmp_path_factory.mktemp("tree") / "deep" / "top"
    top.mkdir(parents=True)
    judge = Judge(unpacked=None, members=100)
    descriptor = os.open(top, os.O_RDONLY)
    tree = Tree(descriptor)
    for name, target, kind in wishes:
        header = Header(name=name, kind=kind, size=0, mode=0o644, target=target)
        try:
            parts = judge.admit(header)
        except Refused:
            break
        if parts is None:
            continue
        if kind == "symlink":
            tree.link(parts, target)
        elif kind == "folder":
            tree.folder(parts)
        elif kind == "hardlink":
            tree.hard_link(parts, target)
        else:
            tree.begin(parts, 0, executable=False)
            tree.end()
    tree.close()
    os.close(descriptor)
    for path in top.rglob("*"):
        resolved = os.path.realpath(path)
        assert resolved == str(top) or resolved.startswith(f"{top}/")


@settings(deadline=None, max_examples=300)
@given(some.binary(max_size=2048), some.integers(0, 1023), some.integers(0, 255))
def test_no_bytes_make_it_fail_in_another_way(data, at, value):
    """A tar archive with one byte changed, and bytes that are none, end in the two errors that are meant for it."""

    class Nowhere:
        def __getattr__(self, _name):
            return lambda *_words, **_options: None

    whole = bytearray(tar_of(FINE, entry("a", b"x" * 700), end=b"") + data)
    whole[at] = value
    stream = TarStream(Judge(unpacked=10_000, members=50), Nowhere())
    try:
        stream.feed(bytes(whole))
        stream.close()
    except (Refused, Damaged):
        pass


def test_the_layout_of_a_real_release_is_no_attack(tmp_path):
    archive = write_layout(tmp_path / "release.tar.zst", 300_000)
    unpacked = unpack(archive, tmp_path / "1.0", step=Step(silent, "x", "x"))
    assert unpacked.files == 9
