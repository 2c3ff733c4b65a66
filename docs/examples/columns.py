"""Firings as numpy columns and as a data frame. `python columns.py 127.0.0.1:50071`."""

import sys

import pandas as pd

from saewatch.client import Client, Firings

frames, tokens = [], 0
with Client(sys.argv[1]) as client:
    for event in client.watch():
        if isinstance(event, Firings):
            tokens += event.tokens
            frames.append(pd.DataFrame(event.columns()))
            loud = event.value > 2.0  # event.feature, .request, .position and .slot are columns of the same length
            print(f"{loud.sum()} of {len(event)} feature firings are above 2")
        if sum(map(len, frames)) >= 20:
            break
firings = pd.concat(frames)
print((firings.groupby("feature").value.count() / tokens).rename("firing rate"))
