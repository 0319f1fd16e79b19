"""Runs a Python module with a flag whose value is a secret: it comes from a variable, so that no process list shows it.

`python with_key.py --variable NAME --flag --api-keys -m package words…` is `python -m package words… --api-keys VALUE`
but for the words that the kernel shows of this process. For engines that take a key by a flag alone; standard library
only.
"""

from __future__ import annotations

import os
import runpy
import sys


def main() -> None:
    """Put the secret behind the module's words and become the module."""
    words = sys.argv[1:]
    split = words.index("-m")
    options = dict(zip(words[:split:2], words[1:split:2], strict=True))
    module, rest = words[split + 1], words[split + 2 :]
    secret = os.environ.pop(options["--variable"], "")
    if not secret:
        sys.exit(f"firstlight: the variable {options['--variable']} is not set")
    sys.argv = [module, *rest, options["--flag"], secret]
    # As `python -m` does: the folder of this file is no place for imports.
    sys.path[0] = os.getcwd()  # noqa: PTH109 - text is what stands there
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
