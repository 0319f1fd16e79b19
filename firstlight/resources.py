"""Where the data that travels with firstlight lies: `envs/` and `templates/`, in a checkout or in the wheel."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_folder(name: str) -> Path:
    """Return the folder `envs` or `templates`: the wheel's copy, else the checkout's.

    Raises:
        FileNotFoundError: neither is there: the installation is damaged.
    """
    for folder in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"firstlight's {name}/ is missing beside {_PACKAGE}: reinstall firstlight")
