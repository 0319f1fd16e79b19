from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from firstlight.environments.pipconfig import PipSettings, configuration_files, read_pip_settings, redact, uv_arguments


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of its own: files by name, and the environment that leads to them."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    environment = {"HOME": str(tmp_path / "home"), "XDG_CONFIG_DIRS": f"{tmp_path / 'xdg1'}:{tmp_path / 'xdg2'}"}

    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return environment, write


def test_later_files_override_earlier_ones(machine):
    environment, write = machine
    places = ["xdg1/pip/pip.conf", "xdg2/pip/pip.conf", "home/.pip/pip.conf", "home/.config/pip/pip.conf"]
    for number, place in enumerate([*places, "prefix/pip.conf"]):
        write(place, f"[global]\nindex-url = https://i{number}/simple\n")
        assert read_pip_settings(environment).index_url == f"https://i{number}/simple"


def test_a_chosen_file_replaces_the_users_files_and_beats_the_site(machine):
    environment, write = machine
    write("home/.config/pip/pip.conf", "[global]\nextra-index-url = https://user/simple\n")
    write("prefix/pip.conf", "[global]\nindex-url = https://site/simple\n")
    chosen = write("chosen.conf", "[global]\nindex-url = https://chosen/simple\n")
    settings = read_pip_settings({**environment, "PIP_CONFIG_FILE": str(chosen)})
    assert (settings.index_url, settings.extra_index_urls) == ("https://chosen/simple", ())


def test_a_chosen_file_that_is_not_there_leaves_the_users_files(machine):
    environment, write = machine
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://user/simple\n")
    assert read_pip_settings({**environment, "PIP_CONFIG_FILE": "/nowhere/pip.conf"}).index_url == "https://user/simple"


def test_the_null_device_switches_all_files_off(machine):
    environment, write = machine
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://user/simple\n")
    variables = {**environment, "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "/srv/wheels"}
    assert configuration_files(variables) == []
    assert read_pip_settings(variables) == PipSettings(find_links=("/srv/wheels",))


def test_install_beats_global_and_variables_beat_both(machine):
    environment, write = machine
    write(
        "home/.config/pip/pip.conf",
        "[install]\nindex_url = https://install/simple\n[global]\nindex-url = https://g/simple\n",
    )
    assert read_pip_settings(environment).index_url == "https://install/simple"
    assert read_pip_settings({**environment, "PIP_INDEX_URL": "https://v/simple"}).index_url == "https://v/simple"
    assert read_pip_settings({**environment, "PIP_INDEX_URL": ""}).index_url == "https://install/simple"


def test_lists_take_spaces_and_lines_and_either_spelling(machine):
    environment, write = machine
    write(
        "home/.config/pip/pip.conf",
        "[global]\nextra_index_url =\n    https://a/simple\n    https://b/simple\ntrusted-host = a b:8080\n"
        "find-links = /one /two\ndefault-timeout = 180\nretries = 7\nproxy = http://p:3128\nclient_cert = /c.pem\n",
    )
    settings = read_pip_settings({**environment, "PIP_CERT": "/ca.pem"})
    assert settings == PipSettings(
        extra_index_urls=("https://a/simple", "https://b/simple"), trusted_hosts=("a", "b:8080"),
        find_links=("/one", "/two"), timeout=180.0, retries=7, proxy="http://p:3128",
        client_cert="/c.pem", cert="/ca.pem",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("word", "truth"),
    [("1", True), ("true", True), ("YES", True), ("on", True), ("0", False), ("false", False), ("", False)],
)
def test_no_index_is_read_as_a_truth_value(machine, word, truth):
    environment, _write = machine
    assert read_pip_settings({**environment, "PIP_NO_INDEX": word}).no_index is truth


def test_broken_files_and_numbers_count_as_absent(machine):
    environment, write = machine
    write("home/.pip/pip.conf", "no section = 1\n[[[\n")
    write("home/.config/pip/pip.conf", "[global]\nindex-url = https://%(x)s/simple\ntimeout = soon\n")
    settings = read_pip_settings(environment)
    assert (settings.index_url, settings.timeout) == ("https://%(x)s/simple", None)


def test_the_registry_that_pip_uses_here_is_found():
    """Against the real pip of this machine, where there is one."""
    import subprocess

    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    told = dict(line.partition("=")[::2] for line in answer.splitlines())
    settings = read_pip_settings()
    for layer in (":env:", "install", "global"):
        if f"{layer}.find-links" in told:
            assert " ".join(settings.find_links) == told[f"{layer}.find-links"].strip("'").replace("\\n", " ").strip()
            break
    else:
        assert settings.find_links == ()


def test_uv_gets_the_same_sources_and_secrets_stay_off_its_command_line(tmp_path):
    (tmp_path / "räder da").mkdir()
    settings = PipSettings(
        index_url="https://me:secret@i/simple",
        extra_index_urls=("https://me:secret@x/simple", str(tmp_path / "simple")),
        find_links=(str(tmp_path / "räder da"), str(tmp_path / "gone"), "https://me:secret@links/", "https://pages/"),
        trusted_hosts=("i", "x:80"), proxy="p:3128", cert="/ca.pem", client_cert="/c.pem", timeout=600.0, retries=2,
    )  # fmt: skip
    words, variables = uv_arguments(settings, {})
    assert words == [
        "--index-strategy", "unsafe-best-match", "--find-links", str(tmp_path / "räder da"),
        "--find-links", "https://pages/", "--allow-insecure-host", "i", "--allow-insecure-host", "x:80",
    ]  # fmt: skip
    assert "secret" not in " ".join(words)
    assert variables["UV_DEFAULT_INDEX"] == "https://me:secret@i/simple"
    assert variables["UV_INDEX"] == f"https://me:secret@x/simple {(tmp_path / 'simple').as_uri()}"
    assert variables["UV_FIND_LINKS"] == "https://me:secret@links/"
    assert variables["HTTPS_PROXY"] == variables["https_proxy"] == variables["ALL_PROXY"] == "http://p:3128"
    assert (variables["SSL_CERT_FILE"], variables["SSL_CLIENT_CERT"]) == ("/ca.pem", "/c.pem")
    assert (variables["UV_HTTP_TIMEOUT"], variables["UV_HTTP_RETRIES"]) == ("30", "2")


def test_one_index_needs_no_merging():
    assert uv_arguments(PipSettings(index_url="https://i/simple"), {}) == ([], {"UV_DEFAULT_INDEX": "https://i/simple"})


def test_no_index_leaves_the_folders_alone(tmp_path):
    settings = PipSettings(index_url="https://i/simple", no_index=True, find_links=(str(tmp_path),))
    assert uv_arguments(settings, {}) == (["--no-index", "--find-links", str(tmp_path)], {})


def test_the_users_own_uv_variables_win():
    settings = PipSettings(
        index_url="https://i/simple", extra_index_urls=("https://x/simple",), find_links=("https://pages/",),
        trusted_hosts=("i",), timeout=5.0, retries=9, cert="/ca.pem",
    )  # fmt: skip
    own = dict.fromkeys(
        ["UV_DEFAULT_INDEX", "UV_INDEX", "UV_FIND_LINKS", "UV_INSECURE_HOST", "UV_HTTP_TIMEOUT", "UV_HTTP_RETRIES"],
        "mine",
    ) | {"UV_INDEX_STRATEGY": "first-index", "SSL_CERT_FILE": "/mine.pem"}
    assert uv_arguments(settings, own) == ([], {})


def test_a_certificate_folder_is_given_as_a_folder(tmp_path):
    assert uv_arguments(PipSettings(cert=str(tmp_path)), {}) == ([], {"SSL_CERT_DIR": str(tmp_path)})


def test_credentials_are_redacted_wherever_they_stand():
    text = "from https://me:secret@host/simple and http://token@other/x, not https://plain/x@y"
    assert redact(text) == "from https://***@host/simple and http://***@other/x, not https://plain/x@y"
