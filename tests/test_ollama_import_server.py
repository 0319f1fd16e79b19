"""Imports beside a server of Ollama: its pruning, imports through it, and the commands.

The server is a small fake (see `support/ollama_program.py`): it keeps the store as Ollama does, and no model runs.
"""

from __future__ import annotations

import os

import pytest
from support.command import firstlight
from support.ollama_stores import QUIET, STEP, running

from firstlight.engines.ollama.importing import Extras, import_gguf
from firstlight.engines.ollama.names import parse_name
from firstlight.engines.ollama.store import (
    blob_path,
    list_models,
    put_blob,
    read_manifest,
)
from firstlight.events import Note, Step

pytest_plugins = ["support.ollama_models"]


@pytest.mark.parametrize("release", ["0.6.2", "0.35.1"])
def test_an_imported_model_outlives_the_pruning_at_the_servers_start(model, store, tmp_path, release):
    import_gguf(model, parse_name("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    lost = put_blob(store, b"nobody names this one", "kind")
    for path in (store / "blobs").iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    with running(tmp_path, store, release) as server:
        assert server.api.tags() == ["tiny:latest"]
        assert server.ask("tiny") == "Paris is the "
    assert not blob_path(store, lost.digest).exists()
    assert list_models(store)[0].problem is None


def test_a_running_server_makes_the_model_of_the_linked_file(model, store, tmp_path):
    with running(tmp_path, store) as server:
        extras = Extras(system="be brief", context=256)
        done = import_gguf(model, parse_name("tiny"), store, step=STEP, extras=extras, running=(server.api,))
        assert (done.how, done.through) == ("hard link", server.api.base_url)
        assert server.asked("POST") == ["/api/create"]
        assert server.api.tags() == ["tiny:latest"]
        assert server.ask("tiny") == "Paris is the "
    manifest = read_manifest(store, parse_name("tiny"))
    assert blob_path(store, manifest.layers[0].digest).samefile(model)
    assert [layer.media_type.rpartition(".")[2] for layer in manifest.layers] == ["model", "system", "params"]


def test_a_server_of_a_release_before_files_gets_the_model_by_files(model, store, tmp_path):
    with running(tmp_path, store, "0.5.4") as server:
        done = import_gguf(model, parse_name("tiny"), store, step=STEP, running=(server.api,))
        assert done.through == "files"
        assert server.api.tags() == ["tiny:latest"]


def test_a_server_with_another_store_is_told_and_left_alone(model, store, tmp_path):
    said = []
    with running(tmp_path, tmp_path / "other store") as server:
        step = Step(said.append, "import", "import")
        done = import_gguf(model, parse_name("tiny"), store, step=step, running=(server.api,))
        assert (done.through, server.api.tags()) == ("files", [])
        assert server.asked("POST") == []
    assert any("keeps its models elsewhere" in each.text for each in said if isinstance(each, Note))


def test_import_and_list_as_commands(model, tmp_path):
    home = tmp_path / "home"
    ended = firstlight("ollama.import", str(model), "--name", "tiny", "--json", home=home, variables=QUIET)
    assert ended.code == 0, ended.err
    assert (ended.document["schema"], ended.document["how"]) == ("firstlight.import/1", "hard link")
    with running(tmp_path, home / "models" / "ollama") as server:
        server.ask("tiny")
        own = {"OLLAMA_HOST": server.environment["OLLAMA_HOST"]}
        listed = firstlight("ollama.list", "--json", home=home, variables=own).document
        shown = firstlight("ollama.list", home=home, variables=own).out
    (only,) = listed["models"]
    assert (only["name"], only["whole"], only["processor"]) == ("tiny:latest", True, "100% CPU")
    assert listed["server"]["version"] == "0.35.1"
    assert "100% CPU" in shown
    alone = firstlight("ollama.list", home=home, variables=QUIET)
    assert (alone.code, "no server of Ollama answers" in alone.out) == (0, True)


def test_an_import_under_a_taken_name_from_a_script_replaces_it_and_yes_is_not_needed(model, other, tmp_path):
    home = tmp_path / "home"
    firstlight("ollama.import", str(model), "--name", "tiny", home=home, variables=QUIET)
    ended = firstlight("ollama.import", str(other), "--name", "tiny", "--json", home=home, variables=QUIET)
    assert (ended.code, ended.document["reused"]) == (0, False), ended.err
    assert len(list_models(home / "models" / "ollama")) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "my model"], 'did you mean "my-model"'),
        ([], "--name tiny"),
        (["--name", "x", "--context", "many"], "--context"),
        (["--name", "x", "--template", "/nowhere"], "--template"),
    ],
)
def test_wrong_words_end_with_2_and_a_way_on(model, tmp_path, words, says):
    ended = firstlight("ollama.import", str(model), *words, home=tmp_path / "home", variables=QUIET)
    assert (ended.code, says in ended.err) == (2, True), ended.err
    assert not (tmp_path / "home" / "models").exists()


def test_a_file_that_is_no_gguf_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    ended = firstlight("ollama.import", str(tmp_path / "page.gguf"), "--name", "x", home=tmp_path / "home")
    assert (ended.code, "web page" in ended.err) == (2, True), ended.err
    missing = firstlight("ollama.import", str(tmp_path / "absent.gguf"), "--name", "x", home=tmp_path / "home")
    assert (missing.code, "No such file" in missing.err) == (2, True), missing.err
    assert not (tmp_path / "home").exists()


def test_an_empty_store_says_how_to_fill_it(tmp_path):
    ended = firstlight("ollama.list", home=tmp_path / "home", variables=QUIET)
    assert (ended.code, "firstlight ollama.import FILE.gguf" in ended.out) == (0, True), ended.err
