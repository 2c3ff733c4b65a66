"""Made examples: a feature that fires on texts about cats and dogs, and not on others."""

from __future__ import annotations

from pathlib import Path

from saewatch.dictionary.examplefile import FILE, TEXT, Head, example_lines
from saewatch.dictionary.examples import Example, FeatureExamples, Stratum

PETS = ("cat", "dog")
OTHERS = ("boat", "car", "lamp", "tree")


def example(number: int, word: str, *, fires: bool) -> Example:
    """``the <word> of town <number>``."""
    pieces = ("the", f" {word}", " of", " town", f" number{'abcdefghijklmnopqrstuvwxyz'[number % 26]}", f" {number}")
    fired = ((1, 2.0 + number),) if fires else ()
    return Example(
        request=f"r{number}",
        position=1,
        value=2.0 + number if fires else 0.0,
        start=0,
        fired=fired,
        ids=tuple(range(len(pieces))),
        pieces=pieces,
    )


def pets(feature: str, *, count: int = 40, requests: int = 1000) -> FeatureExamples:
    """``count`` examples that fire, half of cats and half of dogs, and as many that do not."""
    firing = tuple(example(number, PETS[number % 2], fires=True) for number in range(count))
    silent = tuple(example(number, OTHERS[number % 4], fires=False) for number in range(100, 100 + count))
    return FeatureExamples(
        feature=feature,
        requests=requests,
        fired=count,
        over=0.5,
        top=firing[-4:],
        strata=(Stratum(low=2.0, high=2.0 + count, examples=firing),),
        near=silent[:10],
        silent=silent[10:],
    )


def head(weights: str, *features: FeatureExamples, content: str = TEXT) -> Head:
    """Of a folder with these."""
    digest = "sha256:" + "0" * 64
    return Head(
        weights=weights,
        catalogue=digest,
        data=digest,
        content=content,
        model="",
        requests=1000,
        tokens=6000,
        encoded=5000,
        each=64,
        window=16,
        seed=0,
        features=len(features),
    )


def write(folder: Path, weights: str, *features: FeatureExamples, content: str = TEXT) -> Path:
    """A folder of examples."""
    folder.mkdir(exist_ok=True)
    (folder / FILE).write_bytes(b"".join(example_lines(head(weights, *features, content=content), features)))
    return folder
