"""The services that our own supervisor keeps running where there is no systemd, as it tells them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from firstlight.doctor.probes.stories import story_of
from firstlight.doctor.story import LogStory
from firstlight.home import Home

SUPERVISOR_SECONDS = 1.5


class SupervisedSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A service of ours under our own supervisor."""

    name: str
    engine: str
    state: str
    """As the supervisor tells it (RUNNING, BACKOFF, FATAL …); empty: it does not know it, or does not run."""
    log: str
    supervisor: bool = True
    """Whether the supervisor runs."""
    story: LogStory | None = None
    """What its log tells, for one that failed."""

    @property
    def failed(self) -> bool:
        """Whether the supervisor has given it up, or starts it again and again."""
        return self.state in {"FATAL", "BACKOFF", "UNKNOWN"}


def read(home: Home) -> Iterator[SupervisedSeen]:
    """Give the services that our own supervisor should keep running, as it tells them."""
    if not (home.root / "supervisor").is_dir():
        return
    from firstlight.serving.services.records import all_services
    from firstlight.serving.services.supervisor import LOG
    from firstlight.serving.services.supervisor_daemon import Daemon
    from firstlight.serving.services.supervisor_home import SupervisorHome

    specs = [record.spec for record in all_services(home) if record.spec.scope == "supervisor"]
    daemon = Daemon(SupervisorHome(home), SUPERVISOR_SECONDS)
    runs = bool(specs) and daemon.running()
    for spec in specs:
        seen = daemon.seen(spec.name) if runs else None
        log = spec.folder / LOG
        found = SupervisedSeen(
            name=spec.name,
            engine=spec.engine,
            state=seen.statename if seen is not None else "",
            log=str(log),
            supervisor=runs,
        )
        yield msgspec.structs.replace(found, story=story_of(log, spec.engine)) if found.failed else found
