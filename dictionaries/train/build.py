"""Train a dictionary from nothing to its source files: `python -m dictionaries.train.build demo|fixture`.

    python -m dictionaries.train.build fixture --model tests/fixture/model --out tests/fixture/source --train-model
    python -m dictionaries.train.build demo --model MODEL --out dictionaries/source/smollm2-135m-it.resid_post.14

Corpus, capture, sampled text, autoencoder, probes, choice of latents (all on half a), then figures on half b and on
the hand-written requests, then the files. `--work DIR` keeps captures, the sampled text's rows and the autoencoder: a
second run with the same settings starts behind them. Remove the autoencoder's file when what it was trained on has
changed.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dictionaries.train import baselines, dataset, evaluate, fixture_lm, probes, sae, sampled, sheet, source
from dictionaries.train.capture import Reader, max_norm
from dictionaries.train.chat import render
from dictionaries.train.corpus import Generator, Request, families
from dictionaries.train.dataset import Labelled
from dictionaries.train.scores import maxima

FLOOR_QUANTILE = 0.999


@dataclass(frozen=True, slots=True)
class Settings:
    """What differs between the demo's dictionary and the fixture's."""

    model_name: str
    layer: int
    recipe: sae.Recipe
    matrices: torch.dtype
    hazards: int  # requests per concept to train on
    innocents: int
    prose: int
    dialogue_tokens: int  # generated dialogues' tokens among the autoencoder's rows; prose comes whole
    sampled: int  # batches of the model's own text among the autoencoder's rows
    both_halves: bool  # the fixture's model and autoencoder are trained on half b's phrases too
    tested: tuple[int, int, int] = (40, 1_400, 155)  # of half b: per concept, innocents, paragraphs


SETTINGS = {
    "demo": Settings(
        model_name="SmolLM2-135M-Instruct",
        layer=14,
        recipe=sae.Recipe(width=3_072, k=33, steps=2_000),
        matrices=torch.float16,
        hazards=100,
        innocents=1_900,
        prose=5_300,
        sampled=3,
        both_halves=False,
        dialogue_tokens=110_000,
    ),
    "fixture": Settings(
        model_name="saewatch-fixture",
        layer=2,
        recipe=sae.Recipe(width=1_024, k=24, steps=700, dead_after=80_000),
        matrices=torch.float16,
        hazards=70,
        innocents=1_100,
        prose=0,
        sampled=0,
        both_halves=True,
        dialogue_tokens=1_000_000,
        tested=(40, 900, 0),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dictionaries.train.build", description="train a dictionary")
    parser.add_argument("what", choices=SETTINGS)
    parser.add_argument("--model", type=Path, required=True, help="the language model's directory")
    parser.add_argument("--out", type=Path, required=True, help="where the source files go")
    parser.add_argument("--work", type=Path, help="keep captures here")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--train-model", action="store_true", help="fixture: train the language model first")
    parser.add_argument("--steps", type=int, default=480, help="fixture: the language model's steps")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    settings, cost = SETTINGS[options.what], Cost()
    if options.train_model:
        language_model(options.model, options.steps, cost)
    made = build(Reader(options.model, settings.layer), settings, cost, options.work)
    write(made, settings, options.out, cost)
    print(json.dumps(made.sheet["means"], indent=1))
    return 0


class Cost:
    """Cpu-seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.last = time.process_time()

    def done(self, stage: str, seconds: float | None = None) -> None:
        """Book the time since the last stage, or what a stage that was read back from disk took when it ran."""
        now = time.process_time()
        self.seconds[stage] = round(now - self.last if seconds is None else seconds, 1)
        self.last = now
        print(f"build: {stage} took {self.seconds[stage]} cpu-s", flush=True)


@dataclass(frozen=True, slots=True)
class Made:
    """What a build gives."""

    sae: sae.Autoencoder
    probes: tuple[Tensor, Tensor]
    features: list[dict[str, Any]]
    stated: dict[str, Any]
    sheet: dict[str, Any]


def language_model(out: Path, steps: int, cost: Cost) -> None:
    """Train the fixture's model and tokenizer on both halves of the corpus."""
    requests = [fixture_lm.lesson(r) for half in ("a", "b") for r in _drawn(half, 150, 2_600, seed=11)]
    made = fixture_lm.tokenizer(render(request.prompt, request.reply).text for request in requests)
    told = fixture_lm.dialogues(made, requests)
    held_out = told[::40]
    model, _ = fixture_lm.train([dialogue for i, dialogue in enumerate(told) if i % 40], steps=steps)
    print(f"build: held-out loss per reply token {fixture_lm.held_out_loss(model, held_out):.3f}")
    fixture_lm.save(model, made, out)
    cost.done("language_model")


def _drawn(half: Any, hazards: int, innocents: int, *, seed: int) -> list[Request]:
    generator = Generator(half, seed=seed)
    return generator.hazards(hazards) + generator.innocents(innocents)


def build(reader: Reader, settings: Settings, cost: Cost, work: Path | None) -> Made:
    """All stages."""
    requests = training_requests(settings)
    seen = _captured(reader, requests, None, work, "train")
    limit = max_norm(seen.capture.norm)
    outliers = int((seen.capture.norm > limit).sum())
    seen = _below(seen, limit)
    cost.done("capture", seen.capture.cpu_s)
    own_words, seconds = _sampled(reader, settings, limit, work)
    cost.done("sampling", seconds)
    trained, seconds = _trained(torch.cat([training_rows(seen, settings), own_words]), settings.recipe, work)
    if settings.matrices == torch.float16:
        trained = sae.halved(trained)
    cost.done("autoencoder", seconds)
    fitting = seen
    if settings.both_halves:  # labels come from half a's own words, not from the lessons
        own = _drawn("a", settings.hazards, settings.innocents, seed=0)
        fitting = _captured(reader, own, limit, work, "fitting")
    directions = probes.fit(fitting.capture.x, fitting.labels)
    cost.done("probes")
    held_out = _captured(reader, tested_requests(settings), limit, work, "held_out")
    by_hand = _captured(reader, dataset.handwritten(), limit, work, "handwritten")
    calm = _captured(reader, calm_requests(), limit, work, "calm")
    cost.done("capture_tests", sum(found.capture.cpu_s for found in (held_out, by_hand, calm)))
    random = baselines.frozen_random(trained, seen.capture.x[:: max(1, len(seen.labels) // 20_000)])
    views = {
        name: evaluate.view(found, directions, trained, random)
        for name, found in (("a", fitting), ("held_out", held_out), ("handwritten", by_hand))
    }
    chosen = evaluate.chosen(views["a"])
    floors = probe_floors(calm, directions)
    stated = state(trained, held_out, seen, limit=limit, outliers=outliers, special=reader.special)
    figures = {
        "stated": stated,
        **tables(views, chosen),
        "floors": {c: floors[i] for i, c in enumerate(families())},
        "firing_rate": firing_rates(by_hand, directions, floors),
        "twins": twins(reader, directions, limit, views["held_out"]),
        "seed": settings.recipe.seed,
        "recipe": dataclasses.asdict(settings.recipe),
    }
    cost.done("evaluation")
    return Made(trained, directions, catalogue(chosen, floors), stated, figures)


def training_requests(settings: Settings, *, seed: int = 0) -> list[Request]:
    """What the autoencoder is trained on; another seed draws other dialogues."""
    halves = ("a", "b") if settings.both_halves else ("a",)
    drawn = [r for half in halves for r in _drawn(half, settings.hazards, settings.innocents, seed=seed)]
    if settings.both_halves:
        drawn = [fixture_lm.lesson(request) for request in drawn]
    return drawn + dataset.prose_requests(Generator("a", seed=0), settings.prose)


def training_rows(seen: Labelled, settings: Settings) -> Tensor:
    """The autoencoder's rows [N, d]: all prose, and no more of the repetitive dialogues than it needs."""
    prose = torch.tensor([request.kind == "prose" for request in seen.requests])[seen.capture.request.long()]
    dialogue = (~prose).nonzero().flatten()
    order = torch.randperm(len(dialogue), generator=torch.Generator().manual_seed(settings.recipe.seed))
    kept = dialogue[order[: settings.dialogue_tokens]]
    return seen.capture.x[torch.cat([prose.nonzero().flatten(), kept])]


def tested_requests(settings: Settings) -> list[Request]:
    """Half b, with both wordings of 6 phrases per concept."""
    hazards, innocents, paragraphs = settings.tested
    prose = dataset.prose_requests(Generator("b", seed=5), paragraphs, skip=settings.prose)
    return _drawn("b", hazards, innocents, seed=5) + prose


def calm_requests() -> list[Request]:
    """Innocent text on which the probes' floors are set: another draw than any that is reported on."""
    return Generator("b", seed=7).innocents(500)


def _captured(reader: Reader, requests: list[Request], limit: float | None, work: Path | None, name: str) -> Labelled:
    kept = work / f"{name}.pt" if work else None
    if kept and kept.exists():
        found: Labelled = torch.load(kept, weights_only=False)  # our own file of the last run
        if found.requests == requests:
            return found
    found = dataset.captured(reader, dataset.examples(reader, requests), max_norm=limit)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, kept)
    return found


def _sampled(reader: Reader, settings: Settings, limit: float, work: Path | None) -> tuple[Tensor, float]:
    asked, kept = (settings.sampled, limit, settings.recipe.seed), work / "sampled.pt" if work else None
    if kept and kept.exists():
        of, rows, seconds = torch.load(kept, weights_only=False)  # our own file of the last run
        if of == asked:
            return rows, seconds
    started = time.process_time()
    rows = sampled.rows(reader, settings.sampled, max_norm=limit, seed=settings.recipe.seed)
    seconds = time.process_time() - started
    if kept:
        torch.save((asked, rows, seconds), kept)
    return rows, seconds


def _trained(x: Tensor, recipe: sae.Recipe, work: Path | None) -> tuple[sae.Autoencoder, float]:
    kept = work / "autoencoder.pt" if work else None
    if kept and kept.exists():
        of, trained, seconds = torch.load(kept, weights_only=False)  # our own file of the last run
        if of == recipe:
            return trained, seconds
    trained, seconds = sae.train(x, recipe)
    if kept:
        torch.save((recipe, trained, seconds), kept)
    return trained, seconds


def _below(found: Labelled, limit: float) -> Labelled:
    kept = found.capture.norm <= limit
    return Labelled(found.capture.below(limit), found.labels[kept], found.in_reply[kept], found.requests)


def probe_floors(calm: Labelled, directions: tuple[Tensor, Tensor]) -> list[float]:
    """Per probe, the value that one innocent token in 1,000 of its scope exceeds; three digits, at least 0."""
    w, b = directions
    values = calm.capture.x @ w.T + b
    out = []
    for number, family in enumerate(families().values()):
        scope = values[calm.in_reply == family.reply_side, number]
        out.append(float(f"{max(0.0, float(scope.quantile(FLOOR_QUANTILE))):.3g}"))
    return out


def firing_rates(by_hand: Labelled, directions: tuple[Tensor, Tensor], floors: list[float]) -> dict[str, float]:
    """Share of the hand-written innocent requests' tokens above the floor, per probe."""
    w, b = directions
    innocent = torch.tensor([not r.concepts for r in by_hand.requests])[by_hand.capture.request.long()]
    out = {}
    for number, (concept, family) in enumerate(families().items()):
        rows = innocent & (by_hand.in_reply == family.reply_side)
        values = by_hand.capture.x[rows] @ w[number] + b[number]
        out[concept] = round(float((values > floors[number]).float().mean()), 4)
    return out


def state(
    trained: sae.Autoencoder, held_out: Labelled, seen: Labelled, *, limit: float, outliers: int, special: list[int]
) -> dict[str, Any]:
    """The figures that the manifest states, on half b's tokens without outliers."""
    measured = {name: round(value, 5) for name, value in sae.stated(trained, held_out.capture.x).items()}
    reply = held_out.in_reply
    return measured | {
        "fvu_prompt": round(sae.stated(trained, held_out.capture.x[~reply])["fvu"], 5),
        "fvu_reply": round(sae.stated(trained, held_out.capture.x[reply])["fvu"], 5),
        "max_norm": limit,
        "tokens": len(held_out.labels),
        "tokens_trained_on": len(seen.labels),
        "outliers_trained_on": outliers,
        "exclude_first": 1,
        "exclude_special": special,
    }


def tables(views: Mapping[str, evaluate.View], chosen: Mapping[str, evaluate.Chosen]) -> dict[str, Any]:
    """AUROC tables and their means."""
    out: dict[str, Any] = {}
    for name in ("a", *evaluate.SETS):
        out[name] = {c: evaluate.figures(views[name], c, chosen[c]) for c in families()}
    prompts = [c for c, family in families().items() if not family.reply_side]
    out["confounds"] = {c: evaluate.figures(views["held_out"], c, chosen[c], against="confound") for c in prompts}
    out["means"] = {name: evaluate.means(table) for name, table in out.items()}
    out["counts"] = {name: _counts(views[name]) for name in ("a", *evaluate.SETS)}
    return out


def _counts(seen: evaluate.View) -> dict[str, list[int]]:
    return {c: [len(side) for side in evaluate.members(seen.requests, c, "innocent")] for c in families()}


def twins(reader: Reader, directions: tuple[Tensor, Tensor], limit: float, reference: evaluate.View) -> dict[str, Any]:
    """How far a probe's score moves between requests that should score alike, in standard deviations of innocents."""
    w, b = directions
    generator = Generator("b", seed=9)
    axes = {"gender": "gender_stereotype", "age": "age_stereotype", "nationality": "nationality_stereotype"}
    swapped = [(axes[axis], one, other) for axis, one, other in generator.counterfactuals()]
    reworded = [(next(iter(one.concepts)), one, other) for one, other in generator.paraphrases(6)]
    spread = evaluate.innocent_spread(reference)
    out: dict[str, Any] = {}
    for name, pairs in (("counterfactual", swapped), ("paraphrase", reworded)):
        found = dataset.captured(reader, dataset.examples(reader, [r for p in pairs for r in p[1:]]), max_norm=limit)
        scores = maxima(found, lambda x: x @ w.T + b, len(b))
        out[name] = evaluate.moved([concept for concept, *_ in pairs], scores, spread)
    return out


def catalogue(chosen: Mapping[str, evaluate.Chosen], floors: list[float]) -> list[dict[str, Any]]:
    """The features: a probe, a group of latents and the best single latent for each concept."""
    return [feature for i, c in enumerate(families()) for feature in _features(i, c, chosen[c].group, floors[i])]


def _features(number: int, concept: str, group: Any, floor: float) -> list[dict[str, Any]]:
    family = families()[concept]
    common = {
        "category": family.category,
        "severity": family.severity,
        "scope": "reply" if family.reply_side else "prompt",
        "aggregation": "max",
        "claim": "correlational",
    }
    weights = [round(weight, 4) for weight in group.weights]
    return [
        {"id": f"{concept}.p1", "label": family.label, "kind": "probe", "direction": number, "floor": floor, **common},
        {
            "id": f"{concept}.g1", "label": f"{family.label} (latents)", "kind": "group", "latents": group.latents,
            "weights": weights, "head": "sum of weight * log1p(max)", "floor": 0.0, **common,
        },
        {
            "id": f"{concept}.l1", "label": f"{family.label} (one latent)", "kind": "latent",
            "latents": [group.single], "floor": 0.0, **common,
        },
    ]  # fmt: skip


def write(made: Made, settings: Settings, out: Path, cost: Cost) -> None:
    """All source files."""
    source.write_sae(made.sae, out, model_name=settings.model_name, layer=settings.layer, matrices=settings.matrices)
    source.write_probes(*made.probes, out)
    source.write_json(out / "features.json", made.features)
    source.write_json(out / "stated.json", made.stated)
    figures = {"model": settings.model_name, "layer": settings.layer, **made.sheet, "cpu_s": cost.seconds}
    source.write_json(out / "sheet.json", figures)
    (out / "sheet.md").write_text(sheet.render(figures), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
