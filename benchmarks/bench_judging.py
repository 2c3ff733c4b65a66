"""How long does it take to judge a dictionary and to choose its limits? `dictionary evaluate`, then `calibrate`.

Both verbs as a user calls them, each a process of its own, on files of generated requests: some two thousand, of which
600 are benign ones that limits are chosen on. --quick takes the fixture's small model.

    python -m benchmarks.bench_judging [--quick] [--json OUT]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import form
from dictionaries.bundles import SHIPPED, Shipped
from dictionaries.train.corpus import Generator, Request
from saewatch.score import Scorer

SEED = 16
HAZARDS, HAZARDS_QUICK = 20, 6
"""Requests of each concept; as many again without one."""
BENIGN, BENIGN_QUICK = 600, 320
"""Requests that limits are chosen on: for 10 of 1,000, some 300 are needed."""
TEXTS, TEXTS_QUICK = 200, 40
ACCEPT_S, TARGET_S = 600, 240


@dataclass(frozen=True, slots=True)
class Verb:
    """What a verb came to."""

    name: str
    seconds: float
    code: int
    document: dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs both and judges the time; 2 where a verb failed."""
    options = _parser().parse_args(argv)
    of = SHIPPED["fixture" if options.quick else "demo"]
    with tempfile.TemporaryDirectory() as folder:
        counts = written(of, Path(folder), quick=options.quick)
        verbs = [evaluated(of, Path(folder)), calibrated(of, Path(folder))]
    result = form.document(
        "judging",
        facts=facts_of(verbs, counts),
        rows=[
            {"case": one.name, "unit": "s", "n": 1, "seconds": round(one.seconds, 1), "exit": one.code} for one in verbs
        ],
        goals=goals(sum(one.seconds for one in verbs), quick=options.quick),
        quick=options.quick,
        seed=SEED,
    )
    return form.finish(result, options.json, wrong=any(one.code for one in verbs))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the fixture's model, and fewer requests")
    parser.add_argument("--json", type=Path, help="write the result there")
    return parser


# --- files ------------------------------------------------------------------------------------------------------------
def written(of: Shipped, folder: Path, *, quick: bool) -> dict[str, int]:
    """Texts, labelled requests and benign ones, of half b; the ones that features were chosen on, of half a."""
    count = HAZARDS_QUICK if quick else HAZARDS
    told, chosen = Generator("b", seed=SEED), Generator("a", seed=SEED)
    files = {
        "texts": told.innocents(TEXTS_QUICK if quick else TEXTS),
        "labelled": told.hazards(count) + told.innocents(16 * count),
        "chosen": chosen.hazards(count) + chosen.innocents(16 * count),
        "tested": told.hazards(count // 2),
        "benign": told.innocents(BENIGN_QUICK if quick else BENIGN),
    }
    scorer = Scorer.load(of.model, of.bundle, progress=False)
    for name, requests in files.items():
        lines = (json.dumps(_line(scorer, one, name)) + "\n" for one in requests)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return {name: len(requests) for name, requests in files.items()}


def _line(scorer: Scorer, one: Request, file: str) -> dict[str, Any]:
    """As the verbs read it. Texts say nothing of themselves."""
    prompt = scorer.tokenizer.apply_chat_template(
        [{"role": "user", "content": one.prompt}], add_generation_prompt=True, tokenize=True, return_dict=True
    )["input_ids"]
    line: dict[str, Any] = {"tokens": list(prompt)}
    if one.reply:
        line["answer"] = list(scorer.tokenizer(one.reply, add_special_tokens=False)["input_ids"])
    if file != "texts":
        line |= {"concept": sorted(one.concepts) or None, "template": one.template, "kind": one.kind}
    return line


# --- the verbs --------------------------------------------------------------------------------------------------------
def evaluated(of: Shipped, folder: Path) -> Verb:
    """`saewatch dictionary evaluate`, with its report."""
    files = ["--texts", "texts", "--labelled", "labelled", "--chosen-on", "chosen"]
    return _run("evaluate", of, [*_files(files, folder), "--html", str(folder / "report.html")])


def calibrated(of: Shipped, folder: Path) -> Verb:
    """`saewatch dictionary calibrate`."""
    files = ["--benign", "benign", "--labelled", "tested", "--chosen-on", "chosen"]
    return _run("calibrate", of, [*_files(files, folder), "--out", str(folder / "calibration.json")])


def _files(words: Iterable[str], folder: Path) -> list[str]:
    return [one if one.startswith("--") else str(folder / f"{one}.jsonl") for one in words]


def _run(name: str, of: Shipped, words: Sequence[str]) -> Verb:
    """In float32: a processor without bfloat16 takes several times as long for it."""
    command = [sys.executable, "-m", "saewatch", "dictionary", name, str(of.bundle), "--model", str(of.model)]
    began = time.monotonic()
    done = subprocess.run(
        [*command, *words, "--dtype", "float32", "--json"],
        env={**os.environ, "PYTHONPATH": form.IMPORTS},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    took = time.monotonic() - began
    return Verb(name, took, done.returncode, json.loads(done.stdout) if done.stdout else {})


# --- what it came to --------------------------------------------------------------------------------------------------
def facts_of(verbs: Sequence[Verb], counts: dict[str, int]) -> dict[str, float]:
    """Seconds of each, requests of each file, and what was found."""
    facts: dict[str, float] = {f"{one.name}_s": round(one.seconds, 1) for one in verbs}
    return facts | {f"requests_{name}": count for name, count in counts.items()}


def goals(seconds: float, *, quick: bool) -> dict[str, dict[str, Any]]:
    """S16, which is about the demo's model on two cores."""
    statement = "evaluate and calibrate the demo's dictionary on two cores, one after the other"
    value = None if quick else round(seconds, 1)
    return {"S16": form.goal(statement, value, "s", accept=ACCEPT_S, target=TARGET_S)}


if __name__ == "__main__":
    sys.exit(main())
