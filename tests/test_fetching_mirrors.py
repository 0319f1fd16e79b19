"""Where bytes may come from: sources for an address, the user's own mirrors, and how places answer."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest
from support.command import REPOSITORY, firstlight
from support.faults import HTML, Faults
from support.faulty_server import faulty_server

from firstlight.catalogue.archives import load_archives
from firstlight.catalogue.checking import check_catalogue
from firstlight.catalogue.types import MirrorSet
from firstlight.errors import UsageError
from firstlight.fetching.answers import Ask, probe_all
from firstlight.fetching.lane import Lane
from firstlight.fetching.mirrors import (
    MirrorBook,
    OwnPage,
    OwnSet,
    given_source,
    hosted_sources,
    load_book,
    sources_for,
)
from firstlight.fetching.trouble import Refused
from firstlight.fetching.types import Policy, Source, Transport

URL = "https://github.com/ollama/ollama/releases/download/v0.6.2/ollama-linux-amd64.tgz"
BELOW = "v0.6.2/ollama-linux-amd64.tgz"
BOOK = MirrorBook(
    github=MirrorSet(
        canonical="https://github.com", mirrors=["https://kk.example", "https://gh.example/https://github.com"]
    )
)


def kinds(sources):
    return [(source.kind, source.url) for source in sources]


def test_the_origin_comes_with_mirrors_that_replace_its_host_or_stand_before_its_address():
    assert kinds(sources_for(URL, BOOK)) == [
        ("origin", URL),
        ("host", "https://kk.example/ollama/ollama/releases/download/v0.6.2/ollama-linux-amd64.tgz"),
        ("prefix", f"https://gh.example/{URL}"),
    ]


def test_without_a_known_hash_nothing_comes_from_mirrors_that_anybody_may_run():
    assert kinds(sources_for(URL, BOOK, hash_known=False)) == [("origin", URL)]


def test_an_address_that_is_not_of_github_has_no_mirrors_of_github():
    assert kinds(sources_for("https://elsewhere.example/a.bin", BOOK)) == [
        ("origin", "https://elsewhere.example/a.bin")
    ]


@pytest.mark.parametrize(
    ("given", "kind", "url"),
    [
        ("https://files.example/ollama", "user", f"https://files.example/ollama/{BELOW}"),
        ("https://files.example/ollama/", "user", f"https://files.example/ollama/{BELOW}"),
        ("https://files.example/x/ollama-linux-amd64.tgz", "user", "https://files.example/x/ollama-linux-amd64.tgz"),
        (
            "https://hub.example/repo?Revision=v0.6.2&FilePath=ollama-linux-amd64.tgz",
            "user",
            "https://hub.example/repo?Revision=v0.6.2&FilePath=ollama-linux-amd64.tgz",
        ),
        ("https://files.example/x?key=1", "user", f"https://files.example/x/{BELOW}?key=1"),
        ("/mnt/usb", "file", f"file:///mnt/usb/{BELOW}"),
        ("file:///mnt/usb/ollama-linux-amd64.tgz", "file", "file:///mnt/usb/ollama-linux-amd64.tgz"),
    ],
)
def test_a_given_mirror_is_a_base_or_the_very_file(given, kind, url):
    assert kinds([given_source(given, BELOW)]) == [(kind, url)]


def test_given_mirrors_come_first_or_alone():
    given = ["https://mine.example/ollama"]
    beside = sources_for(URL, BOOK, given=given, below=BELOW)
    alone = sources_for(URL, BOOK, given=given, below=BELOW, only_given=True)
    assert [source.kind for source in beside] == ["user", "origin", "host", "prefix"]
    assert kinds(alone) == [("user", f"https://mine.example/ollama/{BELOW}")]
    with pytest.raises(UsageError, match="leaves no source"):
        sources_for(URL, BOOK, only_given=True)


@pytest.mark.parametrize(
    "bad", ["ftp://files.example", "files.example/ollama", "https://", "https://h:port/x", "", "https://a b/"]
)
def test_what_is_no_address_is_refused(bad):
    with pytest.raises(UsageError, match="no address of a mirror") as refused:
        given_source(bad, BELOW)
    assert refused.value.fix


def test_credentials_of_a_mirror_go_into_a_header_and_are_shown_nowhere():
    source = given_source("https://me:s%C3%A9cret@files.example/ollama", BELOW)
    assert "s%C3%A9cret" not in source.url + source.name + repr(source)
    assert dict(source.headers) == {"Authorization": "Basic bWU6c8OpY3JldA=="}
    with pytest.raises(UsageError) as refused:
        given_source("ftp://me:secret@files.example", BELOW)
    assert "secret" not in refused.value.what


def test_two_mirrors_of_one_host_are_told_apart_and_an_address_counts_once():
    given = ["https://files.example/a", "https://files.example/b", "https://files.example/a"]
    sources = sources_for(URL, BOOK, given=given, below=BELOW, only_given=True)
    assert [source.name for source in sources] == [f"https://files.example/{x}/{BELOW}" for x in "ab"]


def test_modelscope_hosts_the_archives_for_x86_alone_and_its_host_can_be_changed():
    page = load_archives("ollama")
    (source,) = hosted_sources(page, "0.6.2", "ollama-linux-amd64.tgz", {})
    assert source.kind == "modelscope"
    assert source.url == (
        "https://www.modelscope.cn/api/v1/models/modelscope/ollama-linux/repo"
        "?Revision=v0.6.2&FilePath=ollama-linux-amd64.tgz"
    )
    (moved,) = hosted_sources(page, "0.6.2", "ollama-linux-amd64.tgz", {"MODELSCOPE_DOMAIN": "www.modelscope.ai"})
    assert moved.url == source.url.replace("modelscope.cn", "modelscope.ai")
    assert hosted_sources(page, "0.6.2", "ollama-linux-arm64.tgz", {}) == ()


def test_the_users_file_adds_mirrors_or_takes_the_place_of_all_others(tmp_path):
    (tmp_path / "mirrors.toml").write_text(
        '[github]\nmirrors = ["https://own.example/https://github.com"]\n'
        '[release.ollama]\nmirrors = ["https://files.example/ollama"]\n'
    )
    book = load_book(tmp_path, {})
    sources = sources_for(URL, book, bases=book.own_bases("ollama"), below=BELOW, hash_known=False)
    assert kinds(sources) == [
        ("user", f"https://files.example/ollama/{BELOW}"),
        ("prefix", f"https://own.example/{URL}"),
        ("origin", URL),
    ]
    only = MirrorBook(github=BOOK.github, own=OwnPage(github=OwnSet(mirrors=["https://own.example"], only=True)))
    assert [source.kind for source in sources_for(URL, only)] == ["host"]


def test_another_file_of_mirrors_is_named_by_a_variable(tmp_path):
    file = tmp_path / "elsewhere.toml"
    file.write_text('[release.ollama]\nmirrors = ["/mnt/usb"]\n')
    assert load_book(None, {"FIRSTLIGHT_MIRRORS": str(file)}).own_bases("ollama").mirrors == ["/mnt/usb"]
    with pytest.raises(UsageError, match="which is no file"):
        load_book(None, {"FIRSTLIGHT_MIRRORS": str(tmp_path / "gone")})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[github]\nmirrors = [\n", ("line 2", "wrong")),
        ('[github]\nmirors = ["https://a.example"]\n', ("line 2", "mirors")),
        ('[github]\n\nmirrors = "https://a.example"\n', ("line 3", "Expected")),
        ('[release.olama]\nmirrors = ["https://a.example"]\n', ("release.olama", "ollama")),
        ('[github]\nmirrors = ["gopher://a.example"]\n', ("gopher", "wrong")),
    ],
)
def test_a_broken_file_of_mirrors_is_told_with_its_line(tmp_path, text, said):
    (tmp_path / "mirrors.toml").write_text(text)
    ended = firstlight("mirror.list", home=tmp_path)
    assert ended.code == 2
    assert str(tmp_path / "mirrors.toml") in ended.err
    assert all(word in ended.err for word in said), ended.err
    assert "Traceback" not in ended.err


def test_the_list_names_every_place_with_kind_and_reason(tmp_path):
    (tmp_path / "mirrors.toml").write_text('[release.ollama]\nmirrors = ["https://me:secret@files.example/ollama"]\n')
    document = firstlight("mirror.list", "--json", home=tmp_path).document
    rows = {(row["of"], row["kind"], row["place"]): row["configured_by"] for row in document["mirrors"]}
    assert rows["github", "prefix", "https://gh-proxy.com/https://github.com"] == "envs/mirrors.toml"
    assert rows["ollama", "user", "https://***@files.example/ollama"] == str(tmp_path / "mirrors.toml")
    assert rows["ollama", "modelscope", "www.modelscope.cn"] == "envs/ollama/archives.toml"
    assert {row[0] for row in rows} == {"conda", "torch", "pypi", "github", "hub", "ollama"}
    assert "secret" not in firstlight("mirror.list", home=tmp_path).out
    wrong = firstlight("mirror.list", "--of", "gihub", home=tmp_path)
    assert (wrong.code, 'did you mean "github"' in wrong.err) == (2, True)


def test_probing_tells_what_answers_how_long_it_is_and_whether_parts_come(monkeypatch):
    monkeypatch.setattr("firstlight.fetching.answers._LISTEN", 60.0)
    data = bytes(300_000)
    with faulty_server() as server:
        good = server.add("/good", data)
        whole = server.add("/whole", data, Faults(no_range=True))
        page = server.add("/page", HTML)
        asks = [
            Ask(group="g", kind="k", place=name, url=url)
            for name, url in {
                "good": good.url,
                "whole": whole.url,
                "page": page.url,
                "gone": f"{good.url}-gone",
                "closed": "http://127.0.0.1:1/x",
            }.items()
        ]
        seen = {answer.place: answer for answer in probe_all(asks, Transport(), patience=60.0)}
    assert (seen["good"].ok, seen["good"].length, seen["good"].ranged) == (True, len(data), True)
    assert (seen["whole"].ok, seen["whole"].length, seen["whole"].ranged) == (True, len(data), False)
    assert seen["good"].rate is not None
    assert seen["good"].rate > 0
    assert [seen[name].ok for name in ("page", "gone", "closed")] == [False] * 3
    assert "web page" in seen["page"].reason
    assert "404" in seen["gone"].reason
    assert seen["closed"].reason == "connection refused"


def test_probing_the_users_own_mirror_by_command(tmp_path):
    page, build = load_archives("ollama"), "0.35.1"
    with faulty_server() as server:
        for asset in ("ollama-linux-amd64.tar.zst", "ollama-linux-arm64.tar.zst"):
            route = server.add(f"/mine/{page.path(build, asset)}", bytes(100_000))
        base = route.url.partition("/mine/")[0] + "/mine"
        (tmp_path / "mirrors.toml").write_text(f'[release.ollama]\nmirrors = ["{base}"]\n')
        variables = {"MODELSCOPE_DOMAIN": "http://127.0.0.1:1"}
        ended = firstlight("mirror.probe", "--of", "ollama", "--json", home=tmp_path, variables=variables)
    rows = {row["place"]: row for row in json.loads(ended.out)["mirrors"]}
    assert ended.code == 0
    assert (rows[base]["ok"], rows[base]["length"], rows[base]["ranged"]) == (True, 100_000, True)
    assert rows["127.0.0.1:1"]["reason"] == "connection refused"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"https://github.com/ollama/ollama/releases/download', '"http://github.com/ollama/ollama', "begin with https"),
        ("&FilePath={asset}", "", "where {asset} stand"),
        ('host = "https://www', 'host = "www', "begin with https"),
        ('sums = "sha256sum.txt"', "", "sums"),
    ],
)
def test_a_wrong_page_of_archives_is_told_with_its_line(tmp_path, old, new, said):
    envs = tmp_path / "envs"
    shutil.copytree(REPOSITORY / "envs", envs)
    page = envs / "ollama" / "archives.toml"
    text = page.read_text()
    assert old in text
    page.write_text(text.replace(old, new, 1))
    (defect,) = check_catalogue(envs)
    assert (defect.file, said in defect.what) == (page, True), defect
    assert defect.line or said == "sums"


def test_mirrors_that_stand_alone_are_listed_alone(tmp_path):
    own = 'only = true\nmirrors = ["https://files.example/x"]\n'
    (tmp_path / "mirrors.toml").write_text(f"[github]\n{own}[release.ollama]\n{own}")
    document = firstlight("mirror.list", "--of", "ollama", "--of", "github", "--json", home=tmp_path).document
    assert {each["place"] for each in document["mirrors"]} == {"https://files.example/x"}


def test_probing_where_nobody_answers_ends_with_code_4_and_says_what_to_look_at(tmp_path):
    variables = {"MODELSCOPE_DOMAIN": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    for words in ((), ("--json",)):
        ended = firstlight("mirror.probe", "--of", "ollama", *words, home=tmp_path, variables=variables)
        assert ended.code == 4, ended.err
        assert "firstlight doctor --network" in ended.err
    assert not any(each["ok"] for each in ended.document["mirrors"])


def test_a_place_that_has_never_answered_is_not_waited_for_long(monkeypatch):
    """Its pauses stay short until it is given up; one that has answered before gets longer ones."""
    never, before = (Lane(Source(url=URL, name=name, kind="user"), 0, Policy()) for name in ("never", "before"))
    before.probed = True
    longest, now = {}, 1000.0
    monkeypatch.setattr("firstlight.fetching.lane.time", SimpleNamespace(monotonic=lambda: now))
    for lane in (never, before):
        pauses = []
        while lane.dropped is None:
            now += 100.0
            lane.failed(Refused("connection refused"), now)
            pauses.append(lane.blocked_until - now)
        longest[lane.name] = max(pauses)
    assert longest["never"] <= 2.0 < longest["before"]
