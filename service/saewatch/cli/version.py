"""Print the version."""

from __future__ import annotations

import argparse
import json
import platform

from saewatch import __version__


def arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own."""
    del parser


def run(options: argparse.Namespace) -> int:
    """Prints it."""
    if options.json:
        print(json.dumps({"saewatch": __version__, "python": platform.python_version()}))
    else:
        print(f"saewatch {__version__}")
    return 0
