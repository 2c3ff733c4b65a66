"""An evaluation as one page for people: the verdict first, then what failed and why, then figures with intervals.

One file, without scripts and without anything from elsewhere, for screens in the light and in the dark and for paper.
It is put together from text: a library for templates would be a dependency for one page, and escaping is one function.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from saewatch.cli.dictionary import plots
from saewatch.cli.dictionary.verdict import NAMES, area, share
from saewatch.cli.framed import framed
from saewatch.core.catalogue import Feature
from saewatch.dictionary import quality as qualities
from saewatch.dictionary.area import Area
from saewatch.dictionary.bounds import FAILED, LEFT_OUT, PASSED, TOO_LITTLE
from saewatch.dictionary.discern import GOOD, Told
from saewatch.dictionary.quality import CAVEATS, Quality

MARKS: Mapping[str, str] = {PASSED: "+", FAILED: "!", TOO_LITTLE: "!", LEFT_OUT: ""}


def page(quality: Quality) -> str:
    """The page's HTML."""
    parts = [_verdict(quality), _rows(quality), _figures(quality), _features(quality), _slices(quality)]
    body = "\n".join([*parts, _caveats(quality), _provenance(quality)])
    return framed(f"evaluation of {quality.weights[7:19]}", f"<h1>Evaluation of a dictionary</h1>\n{body}")


def _verdict(quality: Quality) -> str:
    word, kind = ("passed", "good") if quality.passed else ("failed", "bad")
    against = quality.measured.against
    beside = f"It was compared with the bundle <code>{escape(against.bundle[:19])}</code>." if against else NOT_COMPARED
    lines = [f"<b>The quality gate is {word}.</b> {beside}"]
    says = {one.metric: one for one in quality.rows}
    for name in quality.failed:
        one = says[name]
        lines.append(
            f"<b>{escape(name)}</b>: {escape(one.says)}: {escape(one.found)}; the bound is {escape(one.bound)}"
        )
    if quality.looks_like is not None:
        lines.append(f"This {escape(str(quality.looks_like))}.")
    return f'<div class="verdict {kind}">{"".join(f"<p>{line}</p>" for line in lines)}</div>'


NOT_COMPARED = "It was compared with no other dictionary, so nothing is said of a regression."


def _rows(quality: Quality) -> str:
    rows = [(one.metric, f"{MARKS[one.verdict]}{one.verdict}", one.found, one.bound, one.says) for one in quality.rows]
    return "<h2>The gate</h2>" + plots.table(("metric", "verdict", "found", "bound", "what it is"), rows)


def _figures(quality: Quality) -> str:
    of = quality.measured.figures
    histograms = "".join(
        plots.bars(one, title, unit)
        for one, title, unit in (
            (of.values, "Values of firings", "log scale"),
            (of.norms, "Norms of the rows", "log scale"),
            (of.l0s, "Latents that fire on a token", "tokens by L0"),
        )
    )
    table = plots.table(("figure", "here", "stated"), list(_figure_rows(quality)))
    return f'<h2>On text without labels</h2>{table}<div class="plots">{histograms}</div>'


def _figure_rows(quality: Quality) -> Iterator[Sequence[str]]:
    of, stated = quality.measured.figures, quality.measured.stated
    names = {
        "kept": "FVU",
        "outliers": "FVU, with rows of too great a norm",
        "prompt": "FVU of prompts",
        "reply": "FVU of replies",
    }
    for name, says in names.items():
        told = stated.get({"kept": "fvu", "outliers": ""}.get(name, f"fvu_{name}"))
        yield says, _number(of.fvu[name]), _number(told)
    yield "cross entropy recovered", _ce(quality), "-"
    yield "L0", _number(of.l0), _number(stated.get("l0"))
    yield "deviation of L0", _number(of.sd_l0), _number(stated.get("sd_l0"))
    yield "feature sparsity ratio", _number(of.sparsity), "-"
    yield f"dead latents (of {of.tokens:,} tokens)", _number(of.dead), _number(stated.get("dead"))
    yield f"dense latents (of {of.tokens:,} tokens)", _number(of.dense), _number(stated.get("dense"))
    yield "cosine of rows and reconstructions", _number(of.cosine), "-"
    yield "mean norm of the rows", _number(of.mean_norm), _number(stated.get("mean_norm"))
    yield (
        "tokens that took part; excluded; of too great a norm",
        f"{of.tokens:,}; {of.excluded:,}; {of.outliers:,}",
        "-",
    )


def _ce(quality: Quality) -> str:
    ce = quality.measured.ce
    return "not measured" if ce is None else f"{ce:.4g} (on {quality.ce_tokens:,} tokens)"


def _features(quality: Quality) -> str:
    found = quality.measured.discerned
    if found is None:
        return "<h2>Features</h2><p>There were no labelled requests: nothing is said of what features tell.</p>"
    covered = sum(value >= GOOD for value in found.covered.values())
    lift = (
        "" if found.lift is None else f" Latents are {area(found.lift)} of AUROC above random directions, in the mean."
    )
    head = f"{covered} of {len(found.covered)} concepts have a feature with an AUROC of {GOOD:g} or more.{lift}"
    fitted = f"Baselines are fitted on {quality.fitted_on}."
    key = "".join(
        f'<span class="m-{name}">{escape(NAMES[name])}</span>' for name in ("feature", "words", "probe", "random")
    )
    rows = [(one.feature, _methods(one)) for one in found.told if one.auroc is not None]
    names = {one.id: one for one in quality.features}
    lines = [_feature_row(one, names[one.feature], quality) for one in found.told]
    table = plots.table(FEATURES, lines)
    labels = _labels(quality)
    return (
        f'<h2>Features on labelled requests</h2><p>{escape(head)} {escape(fitted)}</p><p class="key">{key}</p>'
        f"{plots.ranges(rows)}{table}<p>{escape(labels)}</p>"
    )


FEATURES = (
    "feature", "label", "with + without", "AUROC", "best", "difference", "recall at limit", "false alarms",
    "precision here", "label is",
)  # fmt: skip


def _methods(one: Told) -> dict[str, Area | None]:
    return {"feature": one.auroc, **one.baselines}


def _feature_row(one: Told, feature: Feature, quality: Quality) -> Sequence[str]:
    against = quality.measured.against
    difference = against.differences.get(one.feature) if against else None
    best = NAMES[one.wins] if one.wins else "not measured"
    shares = [share(found) for found in (one.recall, one.false_alarms, one.precision)]
    state = next(iter(qualities.labels([feature])["review"]), "unreviewed")
    counts = f"{one.positives} + {one.negatives}"
    return (one.feature, feature.label, counts, area(one.auroc), best, area(difference), *shares, state)


def _labels(quality: Quality) -> str:
    found = qualities.labels(quality.features)
    states = ", ".join(f"{count} {state}" for state, count in sorted(found["review"].items())) or "none"
    return (
        f"Labels that a person reviewed: {states}. {found['scored']} of {found['features']} have a score of their own."
    )


def _slices(quality: Quality) -> str:
    found = quality.measured.discerned
    rows = [
        (
            one.feature,
            part.name,
            f"{part.positives} + {part.negatives}",
            area(part.auroc),
            share(part.recall),
            share(part.false_alarms),
        )
        for one in (found.told if found else ())
        for part in one.slices
    ]
    if not rows:
        return ""
    head = ("feature", "requests", "with + without", "AUROC", "recall at limit", "false alarms")
    folded = f"<details><summary>{len(rows)} rows</summary>{plots.table(head, rows)}</details>"
    return f"<h2>By length, kind and wording</h2>{folded}"


def _caveats(quality: Quality) -> str:
    lines = "".join(f"<li>{escape(one)}</li>" for one in (*quality.notes, *CAVEATS))
    return f"<h2>What this does not say</h2><ul>{lines}</ul>"


def _provenance(quality: Quality) -> str:
    data = quality.labelled
    rows = [
        ("weights", quality.weights),
        ("catalogue", quality.catalogue),
        ("bundle", quality.bundle),
        ("read by", quality.served.reader),
        ("model", quality.served.model or "not known"),
        ("texts", f"{quality.texts.digest}, {quality.texts.texts:,} texts, {quality.texts.tokens:,} tokens"),
        (
            "labelled requests",
            f"{data.digest}, {data.requests:,} of {data.distinct:,} templates or authors" if data else "none",
        ),
        ("attestation", quality.attestation().digest),
    ]
    return "<h2>What was read</h2>" + plots.table(("", ""), rows, kind="read")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
