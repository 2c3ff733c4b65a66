"""Make the bundles that ship, from their sources: `python -m dictionaries.bundles [demo|fixture]`.

The demo's needs its language model (`.demo/SmolLM2-135M-Instruct`, made by `make demo` or by `deploy/demo/model.py`):
the bundle says which model's digests it fits. Both are checked against SAELens before they are written. The same
sources give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saewatch.dictionary.convert import import_source
from saewatch.dictionary.oracle import SAELENS

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Shipped:
    """A dictionary that ships: its name, its source, the language model it fits, and its bundle."""

    name: str
    source: Path
    model: Path
    bundle: Path


SHIPPED = {
    "demo": Shipped(
        "smollm2-135m-it.resid_post.14",
        ROOT / "dictionaries/source/smollm2-135m-it.resid_post.14",
        ROOT / ".demo/SmolLM2-135M-Instruct",
        ROOT / "dictionaries/smollm2-135m-it.resid_post.14",
    ),
    "fixture": Shipped(
        "saewatch-fixture.resid_post.2",
        ROOT / "tests/fixture/source",
        ROOT / "tests/fixture/model",
        ROOT / "tests/fixture/bundle",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dictionaries.bundles", description="make the bundles that ship")
    parser.add_argument("what", nargs="?", choices=SHIPPED, help="one of them; else both")
    asked = parser.parse_args(argv).what
    for shipped in [SHIPPED[asked]] if asked else SHIPPED.values():
        print(f"{shipped.bundle.relative_to(ROOT)}: weights {make(shipped)}")
    return 0


def make(of: Shipped, out: Path | None = None) -> str:
    """Makes the bundle in `out`, else where it ships from; its weights digest."""
    target = of.bundle if out is None else out
    return import_source(of.source, of.model, target, name=of.name, oracle=SAELENS, replace_bundle=True).weights


if __name__ == "__main__":
    raise SystemExit(main())
