"""A restored home as a person sees it."""

from __future__ import annotations

from firstlight.serving.restoring import Restored, RestoredService

_MARKS = {"running": "●", "started": "◌", "registered": "○", "failed": "✗"}
_WORDS = {
    "running": "runs already",
    "started": "started (it answers once its model is loaded)",
    "registered": "registered, not started",
    "failed": "could not be restored",
}


def restored_lines(restored: Restored) -> list[str]:
    """Return what was put back, what needs a person, and the line for the start hook."""
    lines = [f"{restored.home} restored in {restored.seconds:.1f} s"]
    lines.append(f"  tool        {restored.link or restored.tool}")
    lines += [f"  conda       {prefix} is on conda's list again" for prefix in restored.registered]
    lines += [f"  user        {name} made again" for name in restored.users]
    for service in restored.services:
        lines += _service(service)
    if not restored.services:
        lines.append("  services    none is installed")
    lines += [f"  ! {problem}" for problem in restored.problems]
    if restored.hook is not None:
        lines += [
            "",
            f"Nothing starts services by itself when {restored.hook.host} starts again.",
            *restored.hook.steps,
        ]
        lines += [f"  ! {restored.hook.warning}"] if restored.hook.warning else []
    return lines


def _service(service: RestoredService) -> list[str]:
    scope = f"{service.scope}, was {service.was}" if service.was else service.scope
    lines = [f"{_MARKS[service.outcome]} {service.name}: {_WORDS[service.outcome]}   [{scope}] {service.endpoint}"]
    lines += [f"  {name:<11} {text}" for name, text in (("why", service.why), ("fix", service.fix)) if text]
    return lines
