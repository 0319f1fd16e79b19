"""What the `bootstrap.*` tasks do with files: the token, the archive, the user-data."""

from __future__ import annotations

from pathlib import Path

from firstlight.errors import UsageError
from firstlight.fetching.words import size
from firstlight.files import write_atomic
from firstlight.serving.first_boot import FirstBoot, too_big_for, user_data
from firstlight.serving.tool_archive import pack_tool
from firstlight.serving.user_data_check import problems_of, read_user_data, require_judged
from firstlight.ui.terminal import show, tell


def token_in(file: str | None) -> str | None:
    """Return the token that a file holds.

    Raises:
        UsageError: it cannot be read.
    """
    if file is None:
        return None
    try:
        return Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--hf-token-file {file} cannot be read", why=str(error), fix=f"ls -l {file}") from error


def make(wish: FirstBoot, *, pack: Path | None, output: Path | None) -> None:
    """Write the user-data, and the archive where that was asked for; say how big it is, and for whom too big."""
    archive = pack_tool() if wish.source is None or pack is not None else None
    text = user_data(wish, archive)
    if pack is not None and archive is not None:
        write_atomic(pack, archive.data)
        tell(f"{pack}: {size(len(archive.data))}, SHA-256 {archive.sha256}; upload it to {wish.source or 'a server'}")
    if output is None:
        show(text)
    else:
        write_atomic(output, text, 0o600 if wish.token else 0o644)
        tell(f"{output}: {size(len(text.encode()))}; look at it: cloud-init schema -c {output}")
    clouds = too_big_for(text)
    if clouds:
        tell(f"too big for {', '.join(clouds)}: name a place to fetch the tool from with --source URL --pack FILE")
    if wish.token:
        tell("the token stands in the user-data: who may read the machine's metadata can read it")


def check_file(file: Path) -> int:
    """Tell what is wrong with a file of user-data; the exit code."""
    text = read_user_data(file)
    require_judged(text, file)
    problems = problems_of(text)
    show("\n".join(problems) if problems else f"{file}: every key is one of cloud-init's (its schema tells the rest)")
    return 1 if problems else 0
