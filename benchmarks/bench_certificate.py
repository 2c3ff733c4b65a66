"""Does a certificate tell how much of a dictionary survives? Copies of a model, from nearly the same to broken.

The same texts go through the model in float32 and through each copy (`benchmarks.copies`): rounded to fewer and fewer
bits, and tuned more and more. The certificate has to put them into that order, by correlations and by Jaccard, and to
quarantine what broke. A row for each copy; with --resume rows of the same code and texts are kept.

    python -m benchmarks.bench_certificate [--quick] [--json OUT] [--cells bf16,int8] [--resume] [--budget-s S]
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import form
from benchmarks.copies import COPIES, FAMILIES, altered
from dictionaries.bundles import SHIPPED
from dictionaries.train.corpus import Generator, Half, Request
from saewatch.dictionary.calibration import Data, Served
from saewatch.dictionary.certificate import QUARANTINED, UNMEASURED, Certificate
from saewatch.dictionary.certify import certified
from saewatch.dictionary.fidelity import Fidelity
from saewatch.engine.dictionary_file import Bundle, load_bundle
from saewatch.score import Exchange, Scorer, rows_at

TOKENS, TOKENS_QUICK = 25_000, 3000
SEED = 7
TUNED_ON = 64
"""Texts of the other half of the phrases."""
ORDERED = ("corr_median", "corr_5", "jaccard_all", "jaccard_5")
GOAL_S = 180
"""For 25,000 tokens on two cores."""


@dataclass(frozen=True, slots=True, eq=False)
class Bench:
    """The model in float32, its dictionary, and what it gave for the texts."""

    scorer: Scorer
    held: Bundle
    texts: Sequence[tuple[Sequence[int], int, Tensor]]
    """Tokens, length of the prompt, and rows."""
    tuned_on: Sequence[Sequence[int]]
    reference_s: float

    @property
    def digest(self) -> str:
        """Of the texts' tokens."""
        data = json.dumps([list(ids) for ids, _, _ in self.texts]).encode()
        return f"sha256:{hashlib.sha256(data).hexdigest()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Certifies each copy and judges the order; 0 when it ran, 2 when it is wrong."""
    options = _parser().parse_args(argv)
    torch.manual_seed(SEED)
    began = time.monotonic()
    tokens = options.tokens or (TOKENS_QUICK if options.quick else TOKENS)
    bench = prepared("fixture" if options.quick else "demo", tokens)
    kept = _kept(options, bench)
    wanted = options.cells.split(",") if options.cells else list(COPIES)
    rows, not_run = [], []
    for name in COPIES:
        late = options.budget_s and time.monotonic() - began > options.budget_s
        if name in kept:
            rows.append(kept[name])
        elif name in wanted and not late:
            rows.append({**_row(name, bench), "code": _code(), "texts_digest": bench.digest})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        else:
            not_run.append({"cell": name, "why": "the time that was given is over" if late else "not asked for"})
        _write(options, rows, not_run)
    result = _write(options, rows, not_run)
    print(json.dumps({"facts": result["facts"], "goals": {name: one["met"] for name, one in result["goals"].items()}}))
    return 2 if result["correctness"]["mismatched"] else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the fixture's small model, and fewer texts")
    parser.add_argument("--json", type=Path, help="write the result there, after each copy")
    parser.add_argument("--cells", metavar="NAMES", help=f"of {', '.join(COPIES)}; with commas; else all")
    parser.add_argument("--resume", action="store_true", help="keep rows of the result that is there")
    parser.add_argument("--tokens", type=int, default=0, metavar="N", help=f"about so many (quick or {TOKENS})")
    parser.add_argument("--budget-s", type=float, default=0.0, help="begin no copy after so many seconds")
    return parser


# --- what is compared -------------------------------------------------------------------------------------------------
def prepared(name: str, tokens: int) -> Bench:
    """The model and its dictionary, with the reference's rows for so many tokens."""
    of = SHIPPED[name]
    scorer = Scorer.load(of.model, of.bundle, progress=False)
    held, found, count = load_bundle(of.bundle, decoder=True), [], 0
    began = time.monotonic()
    for ids, prompt_len in _texts(scorer, "b"):
        found.append((ids, prompt_len, rows_at(scorer.model, held.manifest.hook_point, ids)))
        count += len(ids)
        if count >= tokens:
            break
    took = time.monotonic() - began
    tuned_on = [ids for (ids, _), _ in zip(_texts(scorer, "a"), range(TUNED_ON), strict=False)]
    return Bench(scorer, held, found, tuned_on, took)


def _texts(scorer: Scorer, half: Half) -> Iterator[tuple[list[int], int]]:
    """Generated requests without end, every second one with a concept; each with its reply, where it has one."""
    made = Generator(half, seed=SEED)
    while True:
        batch = [one for pair in zip(made.innocents(16), made.hazards(1), strict=True) for one in pair]
        yield from (_ids(scorer, one) for one in batch)


def _ids(scorer: Scorer, one: Request) -> tuple[list[int], int]:
    prompt = scorer.tokenizer.apply_chat_template(
        [{"role": "user", "content": one.prompt}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    reply = scorer.tokenizer(one.reply, add_special_tokens=False)["input_ids"] if one.reply else []
    exchange = Exchange(prompt, reply)
    return [*exchange.prompt, *exchange.answer], len(prompt)


def certificate_of(model: Any, bench: Bench) -> Certificate:
    """What the verb would write for ``model`` in the place of what serves."""
    held, features = bench.held, bench.held.catalogue.features
    fidelity = Fidelity(held.dictionary, features)
    for ids, prompt_len, x in bench.texts:
        y = rows_at(model, held.manifest.hook_point, ids)
        fidelity.add(fidelity.encoded(ids, x), fidelity.encoded(ids, y), prompt_len)
    served = Served.of(bench.scorer.opening, "transformers, bfloat16")
    return certified(
        fidelity.result(),
        features,
        weights=held.sheet.weights,
        reference=Served.of(bench.scorer.opening, "transformers, float32"),
        served=served,
        versions={},
        kv_cache="",
        date=dt.datetime.now(tz=dt.UTC).date(),
        texts=Data(digest=bench.digest, requests=len(bench.texts), distinct=len(bench.texts)),
    )


# --- rows -------------------------------------------------------------------------------------------------------------
def _row(name: str, bench: Bench) -> dict[str, Any]:
    began = time.monotonic()
    model = altered(bench.scorer.model, COPIES[name], bench.tuned_on)
    made_s, began = time.monotonic() - began, time.monotonic()
    made = certificate_of(model, bench)
    took = time.monotonic() - began
    latents = made.latents
    judged = [made.judged(one) for one in made.features]
    agreed = [one.requests.value for one in made.features if not one.unmeasured]
    return {
        "case": name,
        "unit": "share",
        "n": made.tokens,
        "texts": made.texts.requests,
        "verdict": made.verdict,
        "fvu": made.fvu,
        "fvu_served": made.fvu_served,
        "jaccard_all": latents.both / latents.either,
        **{point: float(value) for point, value in latents.points.items()},
        "live": latents.live,
        "quarantined": latents.quarantined,
        "quarantined_share": latents.quarantined / latents.live,
        "features": len(judged),
        "features_quarantined": judged.count(QUARANTINED),
        "features_unmeasured": judged.count(UNMEASURED),
        "agreement_mean": sum(agreed) / len(agreed) if agreed else None,
        "agreement_worst": min(agreed, default=None),
        "made_s": round(made_s, 1),
        "certify_s": round(took, 1),
        "reference_s": round(bench.reference_s, 1),
    }


def _code() -> str:
    """Of what makes the figures."""
    made_with = ("pairing", "fidelity", "rules", "certificate", "certify")
    data = b"".join((form.ROOT / f"service/saewatch/dictionary/{name}.py").read_bytes() for name in made_with)
    return hashlib.sha256(data).hexdigest()[:12]


def _kept(options: argparse.Namespace, bench: Bench) -> dict[str, dict[str, Any]]:
    if not (options.resume and options.json and options.json.exists()):
        return {}
    rows = json.loads(options.json.read_text())["rows"]
    return {row["case"]: row for row in rows if (row["code"], row["texts_digest"]) == (_code(), bench.digest)}


def _write(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], not_run: Sequence[dict[str, str]]
) -> dict[str, Any]:
    facts = facts_of(rows)
    result = form.document(
        "certificate",
        facts=facts,
        correctness={"compared": len(rows), "mismatched": int(facts.get("ordered") == 0), "in_grey_band": 0},
        rows=rows,
        goals=goals(facts, quick=options.quick),
        not_run=not_run,
        quick=options.quick,
        seed=SEED,
    )
    if options.json:
        form.write(options.json, result)
    return result


def facts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``ordered`` only where every copy is there."""
    by_name = {row["case"]: row for row in rows}
    facts: dict[str, float] = {}
    for name, row in by_name.items():
        facts |= {f"quarantined_{name}": row["quarantined_share"], f"jaccard_{name}": row["jaccard_all"]}
        facts |= {f"corr_{name}": row["corr_median"], f"features_quarantined_{name}": row["features_quarantined"]}
        facts |= {f"refused_{name}": int(row["verdict"] == "refused")}
    if by_name:
        facts["tokens"] = next(iter(by_name.values()))["n"]
        facts["certify_s"] = max(row["certify_s"] + row["reference_s"] for row in by_name.values())
    if by_name.keys() == COPIES.keys():
        facts["inversions"] = inversions(by_name)
        facts["ordered"] = int(not facts["inversions"])
    return facts


def inversions(rows: Mapping[str, Mapping[str, Any]]) -> int:
    """Neighbours of a family in the wrong order, over every figure that is to tell the order."""
    pairs = [pair for family in FAMILIES for pair in itertools.pairwise(family)]
    return sum(not rows[less][name] > rows[more][name] for less, more in pairs for name in ORDERED)


def goals(facts: Mapping[str, float], *, quick: bool = False) -> dict[str, dict[str, Any]]:
    """S15: the order, what is quarantined, and how long it takes. Other bits break the model of ``quick``."""
    says = f"neighbouring copies in the wrong order, by {', '.join(ORDERED)}"
    found = {"S15": form.goal(says, facts.get("inversions"), "pairs", accept=0, target=0)}
    for name, most in (("bf16", 0.01), ("int8", 0.02)):
        says = f"share of live latents quarantined in {name}, which breaks nearly nothing"
        found[f"S15 {name}"] = form.goal(says, facts.get(f"quarantined_{name}"), "share", accept=most, target=most / 2)
    whole = facts.get("tokens", 0) >= TOKENS
    broken = [facts.get(f"refused_{name}") if not quick else None for name in ("int4", "tuned_large")]
    passed = None if None in broken else broken.count(0)
    says = "broken copies (int4, tuned_large) that were not refused"
    found["S15 refused"] = form.goal(says, passed, "copies", accept=0, target=0)
    took = facts.get("certify_s") if whole else None
    says = "reference and one copy, 25,000 tokens, on this machine"
    found["S15 time"] = form.goal(says, took, "s", accept=2 * GOAL_S, target=GOAL_S)
    return found


if __name__ == "__main__":
    sys.exit(main())
