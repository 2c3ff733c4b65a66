"""Prints everything about one category: what fires, and what keeps firings away. `python watch.py 127.0.0.1:50071`."""

import sys

from saewatch.client import Client

for event in Client(sys.argv[1]).watch(category="vcr"):
    print(event)
