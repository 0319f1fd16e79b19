"""scripts/firstlight where there is nothing: a minimal Debian without Python, curl and wget."""

from __future__ import annotations

import json
import shutil

import pytest
import uv
from support.bare_root import USER_ID, BareRoot, minimal_debian
from support.tiny_checkout import REPOSITORY, TinyCheckout

pytestmark = pytest.mark.root

CHECKOUT = "/srv/first light/ö"
START = f"{CHECKOUT}/scripts/firstlight"


@pytest.fixture
def bare(tmp_path):
    yield BareRoot(minimal_debian(), tmp_path / "layer")
    shutil.rmtree(tmp_path / "layer")


@pytest.fixture
def small(bare, tmp_path):
    """The bare root with a small checkout that belongs to the user."""
    bare.put_checkout(TinyCheckout(tmp_path / "small").root, CHECKOUT, owner=USER_ID)
    bare.variables["BUILD_CALLS"] = "/tmp/calls"
    return bare


def lines_of(text):
    return [line.strip() for line in text.splitlines()]


def test_bare_debian_to_machine_facts(bare):
    bare.put_checkout(REPOSITORY, CHECKOUT)
    first = bare.run(START, "machine", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["schema"] == "firstlight.machine/1"
    assert "as root, installing one with apt-get" in first.stderr
    again = bare.run(START, "machine", "--json", PATH="/nowhere")
    assert (again.returncode, again.stderr) == (0, "")


def test_without_root_and_python_every_way_is_named(small):
    run = small.run(START, "machine", "--json", user=USER_ID)
    assert run.returncode == 1
    fix = json.loads(run.stdout)["error"]["fix"].splitlines()
    assert "sudo apt-get update && sudo apt-get install -y python3 python3-venv ca-certificates" in fix
    said = lines_of(run.stderr)
    assert any(line.startswith("packages of the distribution (apt-get): not root") for line in said)
    assert any(line.startswith("uv: not here") for line in said)
    assert all(line in said for line in fix)


def test_uv_that_cannot_deliver_is_named_with_its_reason(small):
    small.put("/usr/local/bin/uv", "", mode=0o755)
    shutil.copy2(uv.find_uv_bin(), small.path("/usr/local/bin/uv"))
    mirror = "file:///nowhere/python-build-standalone"
    run = small.run(START, "x", user=USER_ID, UV_PYTHON_INSTALL_MIRROR=mirror)
    assert run.returncode == 1
    assert f"getting Python 3.12 with uv from {mirror}" in run.stderr
    assert any(line.startswith("uv (/usr/local/bin/uv python install 3.12): ") for line in lines_of(run.stderr))


def test_root_who_forbids_packages_is_obeyed(small):
    run = small.run(START, "x", FIRSTLIGHT_SYSTEM_PACKAGES="no")
    assert run.returncode == 1
    assert "FIRSTLIGHT_SYSTEM_PACKAGES=no" in run.stderr
    assert small.run("sh", "-c", "command -v python3").returncode != 0


def test_user_with_a_python_that_lacks_ensurepip(small):
    small.put("/etc/apt/apt.conf.d/90test", 'APT::Install-Recommends "false";\n')
    made = small.run("sh", "-c", "apt-get -q update && apt-get -q -y install python3", DEBIAN_FRONTEND="noninteractive")
    assert made.returncode == 0, made.stderr
    assert small.run("python3", "-c", "import ensurepip").returncode != 0
    run = small.run(START, "x", user=USER_ID)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["arguments"] == ["x"]
    assert small.path(CHECKOUT + "/.venv/bin/firstlight").stat().st_uid == USER_ID


MANAGER = """#!/bin/sh
echo "${0##*/} $*" >>/tmp/asked
case " $* " in
    *" python3.12 "* | *" python312 "* | *" python3 "*) ln -s /opt/python3.11 /usr/local/bin/python3 ;;
    *) echo "no such package" && exit 1 ;;
esac
"""


def test_other_distributions_are_asked_in_their_own_words(small):
    install = "apt-get -q update && apt-get -q -y install python3"
    hide = "cp /usr/bin/python3 /opt/python3.11 && rm /usr/bin/python3* /usr/bin/apt-get"
    made = small.run("sh", "-c", f"{install} && {hide}")
    assert made.returncode == 0, made.stderr
    for manager, last in (
        ("dnf", "dnf -q -y install python3.12 ca-certificates"),
        ("yum", "yum -q -y install python3.12 ca-certificates"),
        ("microdnf", "microdnf -y install python3.12 ca-certificates"),
        ("zypper", "zypper --non-interactive --quiet install python312 ca-certificates"),
        ("apk", "apk add --no-cache python3 ca-certificates"),
    ):
        small.put(f"/usr/local/bin/{manager}", MANAGER, mode=0o755)
        run = small.run(START, "x")
        assert run.returncode == 0, run.stderr
        assert f"firstlight: running: {last}" in run.stderr
        assert small.path("/tmp/asked").read_text().splitlines()[-1] == last
        small.run("rm", "-r", "/tmp/asked", f"/usr/local/bin/{manager}", "/usr/local/bin/python3", f"{CHECKOUT}/.venv")


def test_user_with_a_checkout_of_someone_else(small):
    made = small.run(
        "sh",
        "-c",
        "apt-get -q update && apt-get -q -y --no-install-recommends install python3-venv && chown -R 0:0 '/srv'",
    )
    assert made.returncode == 0, made.stderr
    first = small.run(START, "x", user=USER_ID)
    assert first.returncode == 0, first.stderr
    assert "cannot be written to" in first.stderr
    assert json.loads(first.stdout)["prefix"].startswith("/home/someone/.cache/firstlight/venv-")
    assert not small.path(CHECKOUT + "/.venv").exists()
    again = small.run(START, "x", user=USER_ID)
    assert (again.returncode, again.stderr) == (0, "")
