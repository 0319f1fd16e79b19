"""The bytes of a model: from several hubs at once, broken off, lied about, and taken up again by another process."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from support.command import firstlight
from support.fetching_lab import asked_again, kept_runs
from support.hub_client import Fetching, hub, hubs, patience, same, saved_bytes, wait_for
from support.loopback_hub import COMMIT, Faults, loopback_hub

from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.models.hubs import HubEndpoint
from firstlight.models.listing import list_files
from firstlight.models.local import inspect_folder
from firstlight.models.store import read_marker
from firstlight.models.synthetic import write_synthetic_model
from firstlight.tasks.edge import chosen_folder

SIZE = 12 << 20
SOURCES = ["huggingface", "modelscope"]
TOKEN = "hf_verysecret"


@pytest.fixture(scope="session")
def big():
    """A model whose one weight file is large; the bytes mean nothing."""
    return {"config.json": b"{}", "model.safetensors": random.Random(1).randbytes(SIZE)}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = write_synthetic_model(tmp_path_factory.mktemp("tiny") / "model")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,127.0.0.2")


@pytest.fixture
def fetching(tmp_path):
    return Fetching(tmp_path, tmp_path / "uv")


def contents(server, name="model.safetensors"):
    """The requests for a file's content that were answered with bytes."""
    return [seen for seen in server.seen if seen.method == "GET" and name in seen.path and seen.status in {200, 206}]


def ranges(server, since=0):
    """The Range headers of the requests for the large file's content from one request on."""
    return [seen.range for seen in server.seen[since:] if seen.method == "GET" and "model.safetensors" in seen.path]


# ── several hubs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_hubs_with_the_same_bytes_are_sources_of_one_download(fetching, big):
    with (
        loopback_hub({"own/big": big}, Faults(hold_after=3 << 20)) as one,
        loopback_hub({"own/big": big}, Faults(hold_after=3 << 20)) as two,
    ):
        served = hubs(hub("one", one.url), hub("two", two.url, "modelscope"))
        # Each hub stands still after a quarter of the file, until the other one has given as much.
        opener = threading.Thread(target=lambda: [each.faults.held.wait(300) and None for each in (one, two)])
        opener.start()
        opened = threading.Thread(target=lambda: (opener.join(), one.faults.go.set(), two.faults.go.set()))
        opened.start()
        model = fetching("own/big", served, policy=patience(stall_seconds=60.0))
        opened.join()
    assert same(model.path, big)
    weights = next(file for file in model.files if file.name == "model.safetensors")
    assert sorted(weights.sources) == ["one", "two"]
    assert (model.source, model.commit) == ("huggingface", COMMIT)


def test_a_hub_with_other_bytes_under_the_same_name_is_no_second_source(fetching, big):
    other = {**big, "model.safetensors": random.Random(2).randbytes(SIZE)}
    with loopback_hub({"own/big": big}) as one, loopback_hub({"own/big": other}) as two:
        model = fetching("own/big", hubs(hub("one", one.url), hub("two", two.url, "modelscope")))
        assert not contents(two)
    assert same(model.path, big)


def test_a_named_hub_is_the_only_one_that_is_asked(fetching, big):
    with loopback_hub({"own/big": big}) as one, loopback_hub({"own/big": big}) as two:
        served = hubs(hub("one", one.url), hub("two", two.url, "modelscope"))
        model = fetching("modelscope:own/big", served)
        assert not one.seen
    assert model.source == "modelscope"


def test_a_hub_that_dies_midway_is_made_up_for_by_the_other(fetching, big):
    with (
        loopback_hub({"own/big": big}, Faults(dies_after=2 << 20)) as dying,
        loopback_hub({"own/big": big}) as good,
    ):
        model = fetching("own/big", hubs(hub("dying", dying.url), hub("good", good.url, "modelscope")))
        assert same(model.path, big)


def test_what_a_dead_hub_gave_is_kept_for_the_next_run(fetching, big):
    with loopback_hub({"own/big": big}, Faults(dies_after=8 << 20)) as dying, pytest.raises(NetworkFailed) as caught:
        fetching("hf:own/big", hubs(hub("dying", dying.url)))
    assert "dying" in caught.value.why
    assert not fetching.holds("huggingface", "own/big")
    runs = kept_runs(fetching.home.root)
    assert runs
    with loopback_hub({"own/big": big}) as good:
        model = fetching("hf:own/big", hubs(hub("good", good.url)))
        assert same(model.path, big)
        assert not asked_again(runs, ranges(good))


def test_a_lying_hub_does_not_spoil_a_model_that_another_one_has(fetching, big):
    with (
        loopback_hub({"own/big": big}, Faults(lie_at=5_000_000)) as liar,
        loopback_hub({"own/big": big}, Faults(hold_after=1 << 20)) as honest,
    ):
        # The honest hub stands still until the lie is told.
        waiting = threading.Thread(target=lambda: wait_for(lambda: told(liar)) and honest.faults.go.set())
        waiting.start()
        served = hubs(hub("liar", liar.url), hub("honest", honest.url, "modelscope"))
        model = fetching("own/big", served, policy=patience(stall_seconds=60.0))
        waiting.join()
    assert same(
        model.path, big
    )  # the quicker of the two may have given the piece: who lied is named only if it was used
    assert "honest gave wrong bytes" not in fetching.said.text()


def told(liar):
    """Tell whether the hub has been asked for the piece that it lies about."""
    ranges = [(seen.range or "bytes=0-").removeprefix("bytes=").partition("-") for seen in contents(liar)]
    return any(
        int(start) <= liar.faults.lie_at and (not end or liar.faults.lie_at <= int(end)) for start, _, end in ranges
    )


def test_a_hub_that_always_lies_is_never_believed(fetching, big):
    with loopback_hub({"own/big": big}, Faults(lie_at=5_000_000)) as liar, pytest.raises(VerificationFailed) as caught:
        fetching("hf:own/big", hubs(hub("liar", liar.url)))
    assert caught.value.what == "own/big did not arrive with the hub's hashes"
    assert "liar" in caught.value.why
    assert not fetching.holds("huggingface", "own/big")


def test_a_small_file_is_held_against_gits_hash(fetching):
    files = {"config.json": b'{"a": 1}', "model.safetensors": bytes(1 << 16)}
    with loopback_hub({"own/m": files}) as server:
        listed = list_files(HubEndpoint(name="x", source="huggingface", url=server.url, trusted=True), "own/m", None)
        assert next(file for file in listed.files if file.name == "config.json").sha256 is None
        server.models["own/m"] = Changing(files)
        with pytest.raises(VerificationFailed, match="hashes"):
            fetching("hf:own/m", hubs(hub("loop", server.url)))
    assert not fetching.holds("huggingface", "own/m")


class Changing(dict):
    """Files whose list tells other hashes than their content has, of the same size."""

    def get(self, name, default=None):
        data = super().get(name, default)
        return b'{"a": 2}' if name == "config.json" else data


# ── broken off ───────────────────────────────────────────────────────────────────────────────────────────────────────

KILLED = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.hub_client import Fetching, hub, hubs
Fetching(Path({folder!r}), Path("/nonexistent"))({words!r}, hubs(hub("loop", {url!r}, {source!r})))
"""


@pytest.mark.parametrize("source", SOURCES)
def test_a_killed_download_goes_on_from_its_bytes_in_another_process(fetching, big, source, tmp_path):
    with loopback_hub({"own/big": big}, Faults(hold_after=8 << 20)) as server:
        tests = str(Path(__file__).parent)
        words = {"tests": tests, "folder": str(tmp_path), "words": f"{source}:own/big"}
        child = subprocess.Popen([sys.executable, "-c", KILLED.format(**words, url=server.url, source=source)])
        assert server.faults.held.wait(300)
        assert wait_for(lambda: saved_bytes(tmp_path) >= 4 << 20)
        child.send_signal(signal.SIGKILL)
        child.wait(300)
        assert not fetching.holds(source, "own/big")
        runs, before, server.faults.hold_after = kept_runs(tmp_path), len(server.seen), None
        server.faults.go.set()
        model = fetching(f"{source}:own/big", hubs(hub("loop", server.url, source)))
        assert not asked_again(runs, ranges(server, before))
    assert same(model.path, big)


def test_a_connection_cut_in_the_middle_is_taken_up_again(fetching, big):
    with loopback_hub({"own/big": big}, Faults(cut_after=300_000, cuts=5)) as server:
        model = fetching("hf:own/big", hubs(hub("loop", server.url)))
        assert server.faults.cuts == 0
    assert same(model.path, big)


def test_a_download_that_stands_still_is_started_again_where_it_stood(fetching, big):
    with loopback_hub({"own/big": big}, Faults(stall_after=300_000)) as server:
        model = fetching("hf:own/big", hubs(hub("loop", server.url)), policy=patience(stall_seconds=3.0, attempts=100))
        assert server.faults.stalled.is_set()
    assert same(model.path, big)


def test_two_at_once_fetch_once(fetching, big):
    with loopback_hub({"own/big": big}, Faults(hold_after=4 << 20)) as server:
        served, found = hubs(hub("loop", server.url)), []
        slow = patience(stall_seconds=60.0)

        def fetch():
            found.append(fetching("hf:own/big", served, policy=slow))

        threads = [threading.Thread(target=fetch) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert server.faults.held.wait(300)
        server.faults.go.set()
        for thread in threads:
            thread.join()
        assert sorted(model.reused for model in found) == [False, True]
        assert server.given < 2 * SIZE
    assert same(found[0].path, big)


def test_signed_addresses_that_expire_are_asked_for_again(fetching, big):
    with loopback_hub({"own/big": big}, Faults(cdn=True, uses=2)) as server:
        model = fetching("hf:own/big", hubs(hub("loop", server.url)))
        assert len(server.signatures) > 1
        assert not [
            name for name in (fetching.home.root).rglob("*") if name.is_file() and b"secret" in name.read_bytes()
        ]
    assert same(model.path, big)


# ── what a list may say ──────────────────────────────────────────────────────────────────────────────────────────────


def test_names_with_folders_spaces_percents_and_other_scripts_arrive_under_their_names(fetching):
    odd = {
        "model.safetensors": bytes(1 << 16),
        "1_Pooling/config.json": b"{}",
        "a b/50% of #1?.json": b"[1]",
        "中文/配置.json": b"[2]",
        "plus+and&equals=.json": b"[3]",
    }
    for source in SOURCES:
        with loopback_hub({"own/odd": odd}, Faults(cdn=True)) as server:
            model = fetching(f"{source}:own/odd", hubs(hub("loop", server.url, source)))
        assert same(model.path, odd)
        assert {file.name for file in model.files} == set(odd)


def test_a_hundred_small_files_come(fetching):
    many = {f"parts/{number}.json": json.dumps(number).encode() for number in range(100)}
    many["model.safetensors"] = bytes(1 << 16)
    with loopback_hub({"own/many": many}) as server:
        model = fetching("hf:own/many", hubs(hub("loop", server.url)))
    assert same(model.path, many)
    assert all(file.sha256 for file in model.files)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "name", ["../up.json", "/etc/up.json", "a/../../up.json", "a//up.json", "./up.json", "config.json/x.json"]
)
def test_a_list_that_leads_out_of_the_folder_is_refused(fetching, source, name):
    files = {"config.json": b"{}", "model.safetensors": bytes(1 << 16), name: b"{}"}
    with loopback_hub({"own/bad": files}) as server, pytest.raises(VerificationFailed) as caught:
        fetching(f"{source}:own/bad", hubs(hub("loop", server.url, source)))
    assert "no file inside of a model's folder" in caught.value.why
    assert not contents(server, ".json")
    assert not list(fetching.home.root.rglob("*.json"))


def test_a_repository_cannot_bring_our_own_files(fetching):
    files = {
        "model.safetensors": bytes(1 << 16),
        ".firstlight-model.json": b"{}",
        "model.safetensors.partial.json": b"{}",
    }
    with loopback_hub({"own/sly": files}) as server:
        model = fetching("hf:own/sly", hubs(hub("loop", server.url)))
    assert [file.name for file in model.files] == ["model.safetensors"]
    assert read_marker(model.path).id == "own/sly"


def test_an_endpoint_without_sizes_is_asked_for_its_tree_page_by_page(fetching):
    many = {f"parts/{number}.json": json.dumps(number).encode() for number in range(23)}
    many["model.safetensors"] = random.Random(3).randbytes(1 << 17)
    with loopback_hub({"own/many": many}, Faults(plain_siblings=True, page=10)) as server:
        model = fetching("hf:own/many", hubs(hub("loop", server.url)))
        pages = [seen for seen in server.seen if "/tree/" in seen.path]
    assert len(pages) == 3
    assert same(model.path, many)


def test_a_list_that_modelscope_cuts_off_is_read_folder_by_folder():
    many = {f"f{number % 7}/deep/{number}.json": b"{}" for number in range(3100)}
    with loopback_hub({"own/many": many}, Faults(lists_at_most=3000)) as server:
        endpoint = HubEndpoint(name="x", source="modelscope", url=server.url, trusted=False)
        listing = list_files(endpoint, "own/many", None)
    assert {file.name for file in listing.files} == set(many)
    assert listing.commit == COMMIT


@pytest.mark.parametrize("source", SOURCES)
def test_a_revision_that_is_not_there_is_told_from_a_model_that_is_not(fetching, tiny, source):
    with loopback_hub({"own/tiny": tiny}) as server:
        served = hubs(hub("loop", server.url, source))
        with pytest.raises(UsageError, match="own/tiny has no revision v9"):
            fetching(f"{source}:own/tiny@v9", served)
        with pytest.raises(UsageError, match="no hub that answers has a model own/nosuch"):
            fetching(f"{source}:own/nosuch@v9", served)


# ── where it goes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_chosen_folder_gets_the_model_and_nothing_else(fetching, tiny, tmp_path):
    target = tmp_path / "disk" / "my model"
    with loopback_hub({"own/tiny": tiny}) as server:
        served = hubs(hub("loop", server.url))
        model = fetching("hf:own/tiny", served, to=target)
        assert model.path == target
        assert {path.name for path in target.iterdir()} == {*tiny, ".firstlight-model.json"}
        assert inspect_folder(target).architectures == ["Qwen2ForCausalLM"]
        assert not fetching.holds("huggingface", "own/tiny")
        asked = len(server.seen)
        assert fetching("hf:own/tiny", served, to=target).reused
        assert len(server.seen) == asked
        # Another choice of files replaces what the first one brought.
        server.models["own/tiny"] = {**tiny, "other.safetensors": bytes(1 << 16)}
        other = fetching("hf:own/tiny", served, to=target, include=("other.safetensors",))
        assert not other.reused
        assert "model.safetensors" not in {path.name for path in target.iterdir()}


def test_a_chosen_folder_with_something_else_in_it_is_not_touched(fetching, tiny, tmp_path):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "config.json").write_text("precious")
    with loopback_hub({"own/tiny": tiny}) as server:
        served = hubs(hub("loop", server.url))
        with pytest.raises(UsageError, match="is not empty") as caught:
            fetching("hf:own/tiny", served, to=target)
        assert caught.value.fix == f"--to {target / 'tiny'}"
        assert [path.name for path in target.iterdir()] == ["config.json"]
        fetching("hf:own/tiny", served, to=target / "tiny")
        with pytest.raises(UsageError, match="holds another model, own/tiny"):
            fetching("hf:own/other", served, to=target / "tiny")
    assert (target / "config.json").read_text() == "precious"


def test_a_broken_off_fetch_into_a_chosen_folder_is_no_model_yet_and_goes_on(fetching, big, tmp_path):
    target = tmp_path / "chosen"
    with loopback_hub({"own/big": big}, Faults(dies_after=8 << 20)) as dying, pytest.raises(NetworkFailed):
        fetching("hf:own/big", hubs(hub("dying", dying.url)), to=target)
    assert [path.name for path in target.iterdir()] == [".firstlight-partial"]
    runs = kept_runs(target)
    assert runs
    with loopback_hub({"own/big": big}) as good:
        fetching("hf:own/big", hubs(hub("good", good.url)), to=target)
        assert not asked_again(runs, ranges(good))
    assert same(target, big)


@pytest.mark.root
def test_a_chosen_folder_may_be_a_mount_point(fetching, tiny, tmp_path):
    target = tmp_path / "mounted"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(target)], check=True)
    try:
        with loopback_hub({"own/tiny": tiny}) as server:
            fetching("hf:own/tiny", hubs(hub("loop", server.url)), to=target)
        assert same(target, tiny)
    finally:
        subprocess.run(["umount", str(target)], check=True)


def test_what_came_by_one_hubs_list_serves_the_next_hubs(fetching, big):
    # The first hub lists a file more, which nobody gives: the second one's list is taken, and the bytes that are there.
    more = {**big, "extra.json": b"{}"}
    with (
        loopback_hub({"own/big": more}, Faults(withholds="extra.json")) as one,
        loopback_hub({"own/big": big}) as two,
    ):
        model = fetching("own/big", hubs(hub("one", one.url), hub("two", two.url, "modelscope")))
        assert one.given + two.given < 2 * SIZE
    assert "one did not deliver own/big" in fetching.said.text()
    assert model.source == "modelscope"
    assert same(model.path, big)
    assert not list(fetching.home.root.rglob("*.partial*"))


def test_hubs_that_were_tried_together_are_named_once(fetching, big):
    with (
        loopback_hub({"own/big": big}, Faults(dies_after=1 << 20)) as one,
        loopback_hub({"own/big": big}, Faults(dies_after=1 << 20)) as two,
        pytest.raises(NetworkFailed) as caught,
    ):
        fetching("own/big", hubs(hub("one", one.url), hub("two", two.url)))
    why = caught.value.why
    assert (why.count("one: "), why.count("two: ")) == (1, 1)


@pytest.mark.parametrize("words", ["/", "", "~nobody-of-that-name/x"])
def test_a_chosen_folder_that_can_be_none_is_told(words):
    with pytest.raises(UsageError, match="--to"):
        chosen_folder("--to", words)


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("place", ["variable", "file"])
def test_a_token_reaches_the_hub_and_no_other_host(fetching, big, monkeypatch, tmp_path, place):
    if place == "variable":
        monkeypatch.setenv("HF_TOKEN", TOKEN)
    else:
        (tmp_path / "hf-home").mkdir()
        (tmp_path / "hf-home" / "token").write_text(f"{TOKEN}\n")
    # requests would take a password from here in place of the token.
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with loopback_hub({"own/big": big}, Faults(cdn=True)) as own, loopback_hub({"own/big": big}) as mirror:
        served = hubs(hub("own", own.url), hub("mirror", mirror.url, official=False))
        model = fetching("own/big", served)
        assert same(model.path, big)
        redirected = [seen for seen in own.seen if seen.host.startswith("127.0.0.2")]
        assert redirected
        assert {seen.authorization for seen in redirected} == {None}
        assert {seen.authorization for seen in own.seen if "/resolve/" in seen.path} == {f"Bearer {TOKEN}"}
        assert {seen.authorization for seen in mirror.seen} == {None}
    written = [path for path in fetching.home.root.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    assert TOKEN not in repr(fetching.said.events)


def test_the_name_of_a_private_model_is_told_to_no_other_hub(fetching, tiny, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with loopback_hub({"own/tiny": tiny}, Faults(private=True)) as own, loopback_hub({"own/tiny": tiny}) as other:
        fetching("own/tiny", hubs(hub("own", own.url), hub("other", other.url, "modelscope")))
        assert not [seen for seen in other.seen if "own/tiny" in seen.path]


def test_a_modelscope_token_goes_as_its_own_client_sends_it(fetching, big, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_API_TOKEN", TOKEN)
    with loopback_hub({"own/big": big}) as server:
        fetching("modelscope:own/big", hubs(hub("loop", server.url, "modelscope")))
        sent = {(seen.authorization, seen.cookie) for seen in server.seen if "/repo" in seen.path}
    assert sent == {(f"Bearer {TOKEN}", f"m_session_id={TOKEN}")}


def test_a_token_that_is_refused_is_told_without_its_letters(fetching, big, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with loopback_hub({"own/big": big}, Faults(gated=True)) as server, pytest.raises(FirstlightError) as caught:
        fetching("hf:own/big", hubs(hub("loop", server.url)))
    assert "not give own/big to everyone" in caught.value.what
    assert TOKEN not in f"{caught.value.what}{caught.value.why}{caught.value.fix}{caught.value!r}"


def test_a_password_in_the_endpoints_address_is_sent_and_never_shown(fetching, tiny, monkeypatch):
    with loopback_hub({"own/tiny": tiny}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url.replace("http://", "http://me:verysecret@"))
        served = hubs(msgspec.structs.replace(hub("usual", "http://127.0.0.1:1"), override="HF_ENDPOINT"))
        model = fetching("hf:own/tiny", served)
        sent = {seen.authorization for seen in server.seen if "/resolve/" in seen.path}
    assert sent == {"Basic bWU6dmVyeXNlY3JldA=="}
    assert model.origin == f"{server.url}/own/tiny@{COMMIT}"
    assert "verysecret" not in f"{model}{fetching.said.events}"
    with pytest.raises(NetworkFailed) as caught:
        fetching("hf:own/gone", served)
    assert "verysecret" not in f"{caught.value.what}{caught.value.why}{caught.value.fix}{fetching.said.events}"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_command_fetches_resumes_after_a_kill_and_shows_no_token(big, tmp_path):
    home, target = tmp_path / "home", tmp_path / "model"
    with loopback_hub({"own/big": big}, Faults(hold_after=8 << 20, cdn=True)) as server:
        variables = {"HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1,127.0.0.2"}
        words = ("model.fetch", "own/big", "--source", "huggingface", "--to", str(target), "--json")
        child = begin(words, home, variables)
        assert server.faults.held.wait(300)
        assert wait_for(lambda: saved_bytes(target) >= 4 << 20)
        assert TOKEN not in " ".join(arguments_of(child.pid))
        child.kill()
        out, err = child.communicate(timeout=300)
        runs, before = kept_runs(target), len(server.seen)
        server.faults.go.set()
        ended = firstlight(*words, home=home, variables=variables)
        assert ended.code == 0, ended.err
        assert not asked_again(runs, ranges(server, before))
    assert ended.document["commit"] == COMMIT
    assert Path(ended.document["path"]) == target
    assert same(target, big)
    written = [path for folder in (home, target) for path in folder.rglob("*") if path.is_file()]
    for secret in (TOKEN, "X-Signature"):
        assert secret not in out + err + ended.out + ended.err
        assert not [path for path in written if secret.encode() in path.read_bytes()]


def begin(words, home, variables):
    """Start the program and return it, running."""
    import os

    return subprocess.Popen(
        [sys.executable, "-m", "firstlight", *words],
        env={**os.environ, "FIRSTLIGHT_HOME": str(home), **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def arguments_of(pid):
    """The arguments of a process and of those that it started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if pid in {int(entry.name), parent}:
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (OSError, ValueError):
            continue
    return found
