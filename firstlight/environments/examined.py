"""What was seen when a new environment was examined: the values that its manifest and the receipt keep."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["ok", "warn", "fail", "skip"]


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was looked at: how it is, in one line, the lines that show it, and what mends it."""

    id: str
    status: Status
    summary: str
    detail: list[str] = []
    fix: str | None = None
    seconds: float = 0.0


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """An examination: when (ISO 8601, UTC), how long it took in seconds, and its checks."""

    at: str
    seconds: float
    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """The checks that must hold and do not."""
        return [check for check in self.checks if check.status == "fail"]

    @property
    def summary(self) -> str:
        """Which checks held, in one line."""
        held = self._count("ok")
        told = ["1 check holds" if held == 1 else f"{held} checks hold"]
        told += [f"{words}: {', '.join(found)}" for words, found in self._others() if found]
        return "; ".join(told)

    def _count(self, status: Status) -> int:
        return sum(check.status == status for check in self.checks)

    def _others(self) -> list[tuple[str, list[str]]]:
        names: dict[Status, list[str]] = {}
        for check in self.checks:
            names.setdefault(check.status, []).append(check.id)
        words: list[tuple[str, Status]] = [("failed", "fail"), ("not quite", "warn"), ("not looked at", "skip")]
        return [(text, names.get(status, [])) for text, status in words]
