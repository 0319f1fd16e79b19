"""Fills the plain-text templates of this room: configurations and scripts, no HTML."""

from __future__ import annotations

from firstlight.resources import data_folder


def render(template: str, /, **values: object) -> str:
    """Return a template with its values; one that lacks a value is an error, and filters do the quoting."""
    import json
    import shlex

    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        autoescape=False,  # noqa: S701 - configurations and shell; values go through quoting filters
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["shell"] = shlex.quote
    environment.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["indented"] = _indented
    return environment.get_template(template).render(**values)


def _indented(text: str, blanks: int) -> str:
    """Return a text for a YAML block: every line moved in, empty ones left empty."""
    return "\n".join(f"{' ' * blanks}{line}" if line else "" for line in text.rstrip("\n").split("\n"))
