"""Does alignment find features again where they are, and nowhere else? On four new dictionaries of the fixture's model.

Each is compared with the fixture's own over the same texts, its features are moved as `saewatch dictionary align
--carry-rows` moves them, and labelled requests tell what each feature is worth before and behind it. A row for each
dictionary; with --resume rows of the same code are kept.

    python -m benchmarks.bench_align [--quick] [--json OUT] [--cells permuted,continued] [--resume] [--check]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import aligning, form
from benchmarks.aligning import CELLS, Ground, Made, losses, prepared, same_bits, scored
from saewatch.dictionary.align import Alignment, Pair, kept
from saewatch.dictionary.bundle import write_bundle
from saewatch.dictionary.carry import ALIGNED, CARRIED, SAME, Move, move, moved_parts

DATA = "sha256:" + "0" * 64
"""The bundles live as long as the run: nobody asks them which texts they were compared on."""


def main(argv: Sequence[str] | None = None) -> int:
    """Aligns and judges; 0 when it ran, 2 when a result was wrong, 3 with --check where a goal is not met."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(1)
    before = _kept(options)
    wanted = options.cells.split(",") if options.cells else list(CELLS)
    if unknown := set(wanted) - set(CELLS):
        print(f"no such cell: {', '.join(sorted(unknown))}; there is {', '.join(CELLS)}", file=sys.stderr)
        return 1
    rows, not_run, ground = [], [], None
    for name in CELLS:
        if name in before:
            rows.append(before[name])
        elif name in wanted:
            ground = ground or prepared(quick=options.quick)
            rows.append({**row(name, ground), "code": _code(options)})
            print(json.dumps({key: one for key, one in rows[-1].items() if key != "features"}), file=sys.stderr)
        else:
            not_run.append({"cell": name, "why": "not asked for"})
        _write(options, rows, not_run)
    result = _write(options, rows, not_run)
    met = {name: one["met"] for name, one in result["goals"].items()}
    print(json.dumps({"facts": result["facts"], "goals": met}, indent=1))
    return 2 if result["correctness"]["mismatched"] else 3 if options.check and "no" in met.values() else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer texts, and dictionaries that are hardly trained")
    parser.add_argument("--json", type=Path, help="write the result there, after each dictionary")
    parser.add_argument("--cells", metavar="NAMES", help=f"of {', '.join(CELLS)}; with commas; else all")
    parser.add_argument("--resume", action="store_true", help="keep rows of the result that is there")
    parser.add_argument("--check", action="store_true", help="exit 3 when a goal is not met")
    return parser


# --- rows -------------------------------------------------------------------------------------------------------------
def row(name: str, ground: Ground) -> dict[str, Any]:
    """One new dictionary: latents and features that were found again, and what these are worth there."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        made = CELLS[name](ground, folder)
        trained_s = time.process_time() - began
        pairs, tokens = compared(ground, made)
        done = move(ground.old, made.parts, pairs, carry_rows=True)
        behind = _moved(ground, made, done, tokens, folder / "out")
        # What would be lost if the nearest latent took each one's place, however far it is.
        forced = [replace(one, why="" if one.new is not None else one.why) for one in pairs]
        nearest = _moved(ground, made, move(ground.old, made.parts, forced), tokens, folder / "nearest")
    return {
        "case": name,
        "unit": "share",
        "n": tokens,
        "labelled": len(ground.labelled),
        "fvu": made.fvu,
        **_counts(made, pairs, done),
        "lost_max": _most(behind["rows"]),
        "nearest": sum(one["method"] == ALIGNED for one in nearest["rows"]),
        "nearest_lost_max": _most(nearest["rows"]),
        "carried_bit_equal": behind["bit_equal"],
        "features": behind["rows"],
        "made_cpu_s": round(trained_s, 1),
        "cpu_s": round(time.process_time() - began, 1),
    }


def _counts(made: Made, pairs: Sequence[Pair], done: Move) -> dict[str, Any]:
    accepted, live = [one for one in pairs if one.accepted], sum(one.new is not None for one in pairs)
    methods = [one.method for one in done.moved]
    return {
        "latents": made.parts.manifest.encoder.latents,
        "live": live,
        "accepted": len(accepted),
        "accepted_share": len(accepted) / live,
        "misplaced": sum(made.went[one.old] != one.new for one in accepted) if made.went else None,
        "features_of": len(done.moved) + len(done.lost),
        "features_accepted": methods.count(ALIGNED),
        "features_same": methods.count(SAME),
        "features_carried": methods.count(CARRIED),
        "features_lost": len(done.lost),
        "why_lost": {one.old.id: one.why for one in done.lost},
    }


def compared(ground: Ground, made: Made) -> tuple[list[Pair], int]:
    """Of all latents, as the verb compares them."""
    old, new = ground.old, made.parts
    wanted = [latent for feature in old.catalogue.features for latent in feature.latents]
    alignment = Alignment(old, new, wanted)
    for ids, x in ground.shared:
        both = kept(old.manifest.exclusions, ids, x) & kept(new.manifest.exclusions, ids, x)
        alignment.add(x[both])
    return alignment.pairs(), alignment.tokens


def _moved(ground: Ground, made: Made, done: Move, tokens: int, out: Path) -> dict[str, Any]:
    """The new bundle, written, read and scored."""
    if not done.moved:
        return {"rows": [], "bit_equal": None}
    write_bundle(moved_parts(ground.old, made.parts, done, tokens=tokens, data=DATA), out)
    after = scored(ground.model, out, ground.labelled)
    moved = [(one.old.id, one.new.id) for one in done.moved]
    found = losses(ground, after, moved)
    rows = [{"method": one.method, **figures} for one, figures in zip(done.moved, found, strict=True)]
    bits = same_bits(ground.before, after, [(one.old.id, one.new.id) for one in done.moved if one.method == CARRIED])
    return {"rows": rows, "bit_equal": sum(bits) / len(bits) if bits else None}


def _most(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest loss of AUROC among features that were found again; 0 where none was, or none loses."""
    return max([0.0, *(float(one["loss"]) for one in rows if one["method"] == ALIGNED)])


def _code(options: argparse.Namespace) -> str:
    """Of what makes the figures."""
    ours = [form.ROOT / f"service/saewatch/dictionary/{name}.py" for name in ("align", "carry", "area")]
    ours += [form.ROOT / f"dictionaries/train/{name}.py" for name in ("sae", "capture", "corpus", "build")]
    ours += [Path(__file__), form.ROOT / "benchmarks/aligning.py"]
    data = b"".join(path.read_bytes() for path in ours) + (b"quick" if options.quick else b"")
    return hashlib.sha256(data).hexdigest()[:12]


def _kept(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    if not (options.resume and options.json and options.json.exists()):
        return {}
    rows = json.loads(options.json.read_text())["rows"]
    return {one["case"]: one for one in rows if one["code"] == _code(options)}


# --- what it comes to -------------------------------------------------------------------------------------------------
def _write(
    options: argparse.Namespace, rows: Sequence[dict[str, Any]], not_run: Sequence[dict[str, str]]
) -> dict[str, Any]:
    facts = facts_of(rows)
    result = form.document(
        "align",
        facts=facts,
        correctness={
            "compared": sum(one["accepted"] for one in rows if one["misplaced"] is not None),
            "mismatched": sum(one["misplaced"] or 0 for one in rows),
            "in_grey_band": 0,
        },
        rows=rows,
        goals=goals({} if options.quick else facts),
        not_run=not_run,
        quick=options.quick,
        seed=aligning.SEED,
    )
    if options.json:
        form.write(options.json, result)
    return result


def facts_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of each dictionary, and of all rows that were carried."""
    facts: dict[str, float] = {}
    for one in rows:
        name = one["case"]
        facts |= {f"{name}_{key}": one[key] for key in FACTS}
    if rows:
        facts |= {"tokens": rows[0]["n"], "labelled": rows[0]["labelled"], "features": rows[0]["features_of"]}
    if carried := sum(one["features_carried"] for one in rows):
        equal = sum(one["carried_bit_equal"] * one["features_carried"] for one in rows if one["features_carried"])
        facts |= {"carried": carried, "carried_bit_equal": equal / carried}
    return facts


FACTS = (
    "accepted_share", "live", "features_accepted", "features_carried", "features_lost", "lost_max", "nearest_lost_max",
)  # fmt: skip


def goals(facts: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """S14, each as what is missing: less is better."""

    def missing(name: str) -> float | None:
        return 1 - facts[name] if name in facts else None

    lost, carried = "AUROC that a feature loses, of those found again on", missing("carried_bit_equal")
    return {
        "S14 permuted": form.goal(
            "live latents not found again on a permuted, rescaled copy",
            missing("permuted_accepted_share"), "share", accept=0, target=0,
        ),
        "S14 continued": form.goal(
            "live latents not found again on one that was trained on",
            missing("continued_accepted_share"), "share", accept=0.05, target=0.05,
        ),
        "S14 continued AUROC": form.goal(
            f"{lost} one that was trained on",
            facts.get("continued_lost_max"), "AUROC", accept=0.02, target=0.02, why=_why(facts),
        ),
        "S14 other seed": form.goal(
            f"{lost} one of another seed", facts.get("other_seed_lost_max"), "AUROC", accept=0.05, target=0.05
        ),
        "S14 carried": form.goal("carried rows with other values", carried, "share", accept=0, target=0),
    }  # fmt: skip


def _why(facts: Mapping[str, float]) -> str:
    if "continued_features_lost" not in facts:
        return ""
    return f"{facts['continued_features_lost']:.0f} of {facts['features']:.0f} features are lost, and not among these"


if __name__ == "__main__":
    sys.exit(main())
