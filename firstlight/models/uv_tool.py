"""How uv is called for models that travel as packages."""

from __future__ import annotations

from pathlib import Path

import msgspec


class UvTool(msgspec.Struct, frozen=True, kw_only=True):
    """How uv is called here: the user's pip configuration as arguments and variables, and the Python for helpers."""

    uv: Path
    arguments: tuple[str, ...] = ()
    """Options that `uv pip install` and `uv run` both take."""
    environment: dict[str, str] = {}
    cache: Path
    """On the filesystem of the home, so that hard links work."""
    python: str

    def variables(self) -> dict[str, str | None]:
        """Return the variables for uv and what it starts: its cache, and nothing of the caller's own Python."""
        own: dict[str, str | None] = {
            "PYTHONPATH": None,
            "PYTHONHOME": None,
            "VIRTUAL_ENV": None,
            "PYTHONNOUSERSITE": "1",
        }
        return {**own, "UV_NO_PROGRESS": "1", **self.environment, "UV_CACHE_DIR": str(self.cache)}
