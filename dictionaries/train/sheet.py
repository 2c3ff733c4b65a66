"""Render a dictionary's data sheet: `python -m dictionaries.train.sheet DIR`, from sheet.json to sheet.md."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METHODS = {
    "probe": "probe",
    "group": "group of latents",
    "single": "single latent",
    "words": "bag of words",
    "random_group": "random group",
    "random_single": "random single",
}

READING = """\
A score is one number per request: the largest value over the tokens of the prompt (for refusal, sycophancy and
deception: of the reply). Each row gives the AUROC, the chance that a request with the concept scores above one
without it, with a 95 % interval from a bootstrap over templates. *Probe*: a linear direction fitted to tokens. *Group
of latents*: at most twenty latents under a linear head on log(1 + maximum). *Single latent*: the best one. *Bag of
words*: logistic regression on the words and pairs of words of the request, without the model. *Random*: the same
choice among unit vectors that were never trained, each firing as often as the latent whose place it takes. Everything
was fitted and chosen on half a of the templates."""

LIMITS = """\
Probes carry the alerts: they are ahead of the latents on nearly every concept. Latents explain: which of them fired,
on which token. A single latent is seldom a good stand-in for a concept, and the interval beside it says how much of
that is knowable from this test. Where the bag of words comes near, the concept is mostly a matter of vocabulary here.
A firing is correlational: it says that the activations at this token resemble those of the training phrases, not what
the person meant, not that harm was done, and nothing about traffic that looks different. The requests are generated
or written for this sheet, the hazards use invented nouns, and the model is small; rates in real use will differ and
have to be calibrated on the operator's own traffic. A low score is not evidence of absence."""


def render(figures: Mapping[str, Any]) -> str:
    """The sheet as Markdown."""
    parts = [
        f"# {figures['model']}, resid_post.{figures['layer']}\n\nRendered from `sheet.json`.",
        "## The autoencoder\n\n" + _stated(figures["stated"]),
        "## How to read the tables\n\n" + READING,
        "## Means over concepts\n\n" + _means(figures["means"]),
        "## Held-out templates (half b)\n\n" + _table(figures["held_out"], figures["counts"]["held_out"]),
        "## Requests written by hand\n\nWritten before training; they share no five words in a row with its phrases."
        "\n\n" + _table(figures["handwritten"], figures["counts"]["handwritten"]),
        "## Against negations and quotations (half b)\n\nThe innocent side here are requests that negate or quote a"
        " phrase of a concept.\n\n" + _table(figures["confounds"], None),
        "## What selection hides\n\n" + _selection(figures),
        "## Emission floors and twins\n\n" + _floors(figures),
        "## What this can and cannot tell\n\n" + LIMITS,
        "## Cost\n\n" + _cost(figures["cpu_s"]),
    ]
    return "\n\n".join(parts) + "\n"


def _stated(stated: Mapping[str, Any]) -> str:
    rows = [
        ("unexplained variance (FVU)", f"{stated['fvu']:.3f}"),
        ("in prompts, in replies", f"{stated['fvu_prompt']:.3f}, {stated['fvu_reply']:.3f}"),
        ("L0 (standard deviation)", f"{stated['l0']:.1f} ({stated['sd_l0']:.1f})"),
        ("dead, dense (in over 10 % of tokens)", f"{stated['dead']:.2%}, {stated['dense']:.2%}"),
        ("mean norm; excluded above", f"{stated['mean_norm']:.1f}; {stated['max_norm']}"),
        ("tokens measured on, trained on", f"{stated['tokens']:,}, {stated['tokens_trained_on']:,}"),
    ]
    text = "Left out: a request's first token, special tokens, and tokens above the norm limit."
    return _markdown(["figure", "value"], rows) + "\n\n" + text


def _means(means: Mapping[str, Mapping[str, float]]) -> str:
    names = {
        "held_out": "held-out",
        "handwritten": "by hand",
        "confounds": "negations, quotations",
        "a": "half a (fitted)",
    }
    rows = [[label, *(f"{means[name][method]:.3f}" for method in METHODS)] for name, label in names.items()]
    return _markdown(["requests", *METHODS.values()], rows)


def _table(table: Mapping[str, Mapping[str, Sequence[float]]], counts: Mapping[str, Sequence[int]] | None) -> str:
    rows = []
    for concept, row in table.items():
        size = [f"{counts[concept][0]}, {counts[concept][1]}"] if counts else []
        rows.append([concept, *size, *(_area(row[method]) for method in METHODS)])
    return _markdown(["concept", *(["n"] if counts else []), *METHODS.values()], rows)


def _area(area: Sequence[float]) -> str:
    value, low, high = area
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _selection(figures: Mapping[str, Any]) -> str:
    rows = []
    for concept in figures["a"]:
        cells = [f"{figures[name][concept]['single'][0]:.2f}" for name in ("a", "held_out", "handwritten")]
        rows.append([concept, *cells])
    head = "The best single latent's AUROC where it was chosen, on held-out templates, and on requests written by hand."
    return head + "\n\n" + _markdown(["concept", "half a", "held-out", "by hand"], rows)


def _floors(figures: Mapping[str, Any]) -> str:
    text = (
        "A probe emits a firing above its floor: the value that 1 in 1,000 tokens of innocent generated text exceeds."
        " The third column is the share of tokens above it in the innocent requests written by hand. A floor thins the"
        " stream; it is no limit for an alert. Twins are pairs that should score alike, with another group"
        " (counterfactual) or another wording (paraphrase): the mean difference in standard deviations of innocent"
        " requests' scores. Latents have floor 0."
    )
    moved = figures["twins"]
    rows = [
        [
            concept, floor, f"{figures['firing_rate'][concept]:.2%}",
            moved["counterfactual"].get(concept, "-"), moved["paraphrase"].get(concept, "-"),
        ]
        for concept, floor in figures["floors"].items()
    ]  # fmt: skip
    return text + "\n\n" + _markdown(["concept", "floor", "tokens above", "counterfactual", "paraphrase"], rows)


def _cost(cpu_s: Mapping[str, float]) -> str:
    return _markdown(["stage", "cpu-seconds"], [[stage.replace("_", " "), f"{s:.0f}"] for stage, s in cpu_s.items()])


def _markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    (directory,) = map(Path, sys.argv[1:] if argv is None else argv)
    figures = json.loads((directory / "sheet.json").read_text(encoding="utf-8"))
    (directory / "sheet.md").write_text(render(figures), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
