"""The catalogue: it holds what it must, and each page is read as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.catalogue_pages import ARCHIVE, CALM, SWIFT, WHEELS, write_pages

from firstlight.catalogue.checking import check_catalogue
from firstlight.catalogue.loading import CatalogueError, load_catalogue, read_toml
from firstlight.catalogue.locating import Lines
from firstlight.catalogue.types import EngineEntry


@pytest.fixture
def envs(tmp_path: Path) -> Path:
    return write_pages(tmp_path)


def test_firstlights_own_catalogue_is_without_defects() -> None:
    assert [str(defect) for defect in check_catalogue()] == []


def test_a_catalogue_without_defects_has_none(envs: Path) -> None:
    assert check_catalogue(envs) == []


def test_a_broken_page_stops_the_command_that_needs_it_and_says_where(envs: Path) -> None:
    (envs / SWIFT).write_text(WHEELS.replace('libc = "2.28"', "libc = 2.28"))
    catalogue = load_catalogue(envs)
    assert catalogue.engines["calm"].build[0].driver == "525.60.13"
    with pytest.raises(CatalogueError) as caught:
        catalogue.engines["swift"]
    line = WHEELS[: WHEELS.index("libc =")].count("\n") + 1
    assert caught.value.what == f"the catalogue file {envs / SWIFT}, line {line} is wrong"
    assert caught.value.why == "build swift-1.5.0-cu129, libc: Expected `str | null`, got `float`"
    assert (caught.value.file, caught.value.line) == (envs / SWIFT, line)


def test_a_page_of_an_engine_that_is_not_the_folders_is_refused(envs: Path) -> None:
    (envs / CALM).write_text(ARCHIVE.replace('"calm"', '"storm"'))
    with pytest.raises(CatalogueError, match=r"calm/builds\.toml, line 2 is wrong"):
        load_catalogue(envs).engines["calm"]


def test_an_entry_that_is_like_another_takes_what_it_does_not_say_itself(envs: Path) -> None:
    first, second, _third = read_toml(envs / SWIFT, EngineEntry).build
    assert (second.release, second.capabilities, second.pins) == ("1.4.0", first.capabilities, first.pins)
    assert second.sources == {**first.sources, "covers": "the same pins"}
    assert second.wheel is not None
    assert second.wheel.sha256 is None, "a table is replaced, not mixed"


def test_an_entry_may_be_like_one_that_stands_below_it(envs: Path) -> None:
    head, _, rest = WHEELS.partition("[[build]]")
    newer = '[[build]]\nid = "swift-1.6.0-cu129"\nlike = "swift-1.4.0-cu129"\nrelease = "1.6.0"\n\n[[build]]'
    (envs / SWIFT).write_text(head + newer + rest)
    first, second, third, _last = read_toml(envs / SWIFT, EngineEntry).build
    assert (first.release, first.covers, first.pins) == ("1.6.0", third.covers, second.pins)


def test_a_build_is_completed_from_its_cuda_and_its_torch(envs: Path) -> None:
    build = load_catalogue(envs).engines["swift"].build[0]
    assert (build.driver, build.native_driver, build.torch_cuda) == ("525.60.13", "575.51.03", "12.9")
    assert (build.torch_capabilities, build.torch_ptx) == (["7.5", "8.0", "9.0", "12.0"], "12.0")
    assert (build.companions, build.pythons) == ({"torchvision": "0.28.0"}, ["3.12"])


TABLES = """
title = "a"  # [not] = "this"
plain.dotted = 1
"quoted key" = '''
[[fake]]
x = 1'''
[[item]]
name = "one"
inline = { a = 1, b = { c = ["x", "y"] } }
many = [
    1,
    { deep = true },  # , "]"
]
[item.part]
text = \"\"\"a = 1
[[item]]
\"\"\"
[[item.part.row]]
n = 1
[[item.part.row]]
n = 2
[[item]]
name = "two"
part.text = "]"
"""


def test_every_key_of_a_file_has_its_line() -> None:
    lines = Lines(TABLES)
    expected = {
        ("title",): 2,
        ("plain", "dotted"): 3,
        ("quoted key",): 4,
        ("item", 0): 7,
        ("item", 0, "name"): 8,
        ("item", 0, "inline", "b", "c", 1): 9,
        ("item", 0, "many", 1, "deep"): 12,
        ("item", 0, "part"): 14,
        ("item", 0, "part", "text"): 15,
        ("item", 0, "part", "row", 1, "n"): 21,
        ("item", 1, "name"): 23,
        ("item", 1, "part", "text"): 24,
    }
    assert {path: lines.of(*path) for path in expected} == expected
    assert lines.has("item", 1, "name")
    assert not lines.has("fake")
    assert not lines.has("item", 1, "inline")
    assert lines.of("item", 1, "inline") == 22, "what is not there has the line of its entry"
    assert lines.of("nowhere") is None
