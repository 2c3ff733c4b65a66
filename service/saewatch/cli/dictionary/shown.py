"""Examples of one feature as they are printed: the firing tokens marked, as `saewatch score` marks them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

from saewatch import cli
from saewatch.cli import marked
from saewatch.cli.terminal import in_colour, printable
from saewatch.core.catalogue import Feature
from saewatch.core.errors import ConfigError
from saewatch.dictionary import labels
from saewatch.dictionary.contents import Contents
from saewatch.dictionary.examplefile import ExampleFile, Head, feature_json
from saewatch.dictionary.examples import Example, FeatureExamples


def show(examples: ExampleFile, contents: Contents, options: argparse.Namespace) -> int:
    """Prints the examples of ``options.show``."""
    (feature,) = contents.catalogue.chosen([options.show])
    found = examples.of(feature.id)
    if found is None:
        raise ConfigError(str(options.out), found=f"no examples of {feature.id}", expected="a feature that has some")
    if options.json:
        told = {"label": feature.label, "label_review": feature.review_state or None, "digest": examples.digest}
        print(json.dumps({**told, **feature_json(found, examples.head)}))
        return cli.GOOD
    print("\n".join(lines(feature, found, examples.head, colour=in_colour(sys.stdout))))
    return cli.GOOD


def lines(feature: Feature, found: FeatureExamples, head: Head, *, colour: bool) -> Iterator[str]:
    """The label, how often it fired, then each kind with its examples."""
    yield printable(f"{feature.id}  {labels.told(feature)}")
    share = f"{100 * found.fired / found.requests:.3g} %" if found.requests else "none"
    yield f"fired over {found.over:.4g} in {found.fired} of {found.requests} requests ({share})"
    yield f"{head.encoded} of {head.tokens} tokens were read by the dictionary"
    kinds = [("largest", found.top)]
    kinds += [(f"from {part.low:.4g} to {part.high:.4g}", part.examples) for part in reversed(found.strata)]
    kinds += [("near misses", found.near), ("silent", found.silent)]
    for name, several in kinds:
        yield f"── {name}: {len(several)}"
        yield from (f"   {text(one, feature, colour=colour)}" for one in several)
    yield from marked.legend(colour=colour)


def text(one: Example, feature: Feature, *, colour: bool) -> str:
    """One example on a line: value, request, and the tokens, marked; positions only where no text was kept."""
    values = dict(one.fired)
    if one.pieces:
        body = "".join(
            marked.piece(part, feature if one.start + index in values else None, colour=colour)
            for index, part in enumerate(one.pieces)
        )
    elif one.ids:
        body = " ".join(f"[{token}]" if one.start + at in values else f"{token}" for at, token in enumerate(one.ids))
    else:
        body = ", ".join(f"{at}: {value:.3g}" for at, value in one.fired) or "nothing fired"
    return f"{one.value:<8.4g} {printable(one.request)} {one.position}  {body}"
