"""Every usual mistake is called by its name, from the fixture's own rows.

The mistakes that no figure shows are found by the rows that a bundle stores with its library's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dictionaries.train import chat
from dictionaries.train.corpus import Generator
from saewatch.core.manifest import Exclusions
from saewatch.dictionary import traps
from saewatch.dictionary.bounds import OF_READING, Measured, judge
from saewatch.dictionary.bundle import Parts, read_parts
from saewatch.dictionary.coder import Coder
from saewatch.dictionary.figures import Measurement
from saewatch.dictionary.sample import Sample
from saewatch.engine.encode import Folded, compare, grey_pairs
from saewatch.score import Scorer, places, rows_at_each
from tests import made
from tests.dictionary import trapped

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
OF = read_parts(FIXTURE / "bundle")
STATED = {"fvu": 0.06365, "l0": 23.72414, "sd_l0": 9.60573}
SPECIAL = (0, 1, 2)
SILENT = ("threshold_in_bf16", "weights_in_bf16", "centred")

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Seen:
    """Texts as the model read them: rows at the dictionary's hook point, and at others."""

    texts: list[tuple[list[int], Tensor]]
    elsewhere: Mapping[str, Tensor]

    @cached_property
    def sample(self) -> Sample:
        made = Sample(OF.manifest.encoder.d_in)
        for ids, x in self.texts:
            made.add(ids, x)
        return made


@pytest.fixture(scope="module")
def seen() -> Seen:
    """Prompts with their replies, some 2,500 tokens, in the type that is served."""
    scorer = Scorer.load(FIXTURE / "model", FIXTURE / "bundle", dtype="bfloat16", progress=False)
    generator = Generator("b", seed=2)
    requests = generator.hazards(3) + generator.innocents(30)
    whole = [chat.render(one.prompt, one.reply).text for one in requests]
    given = [scorer.tokenizer(text, add_special_tokens=False)["input_ids"] for text in whole]
    texts = [(ids, x.float()) for ids, x in scorer.rows(given)]
    points = [*places(scorer.model, OF.manifest.hook_point), OF.manifest.hook_point, "resid_pre.2"]
    kept: dict[str, list[Tensor]] = {}
    for ids, _ in texts[:20]:
        plain = ~torch.isin(torch.tensor(ids), torch.tensor(SPECIAL))
        for point, rows in rows_at_each(scorer.model, points, ids).items():
            kept.setdefault(point, []).append(rows.float()[plain])
    return Seen(texts, {point: torch.cat(parts) for point, parts in kept.items()})


def coder(of: Parts) -> Coder:
    columns = (of.tensors[name].float().numpy() for name in ("lim", "s", "c"))
    W_dec, b_dec = (of.tensors[name].float() for name in ("W_dec", "b_dec"))
    return Coder(
        W=of.tensors["W"].float(), folded=Folded(*columns), sheet=of.manifest.encoder, W_dec=W_dec, b_dec=b_dec
    )


def failed(of: Parts, seen: Seen) -> set[str]:
    """Rows of the gate that a dictionary fails on the texts."""
    one = Measurement(coder(of), of.manifest.exclusions)
    for ids, x in seen.texts:
        one.add(ids, x, len(ids))
    far = traps.far_share(scene(of, seen).x)
    competes = of.manifest.encoder.k is not None
    rows = judge(Measured(figures=one.figures(), kind="sae", competes=competes, stated=STATED, far=far))
    return {row.metric for row in rows if row.bad} & OF_READING


def scene(of: Parts, seen: Seen) -> traps.Scene:
    figures = {name: STATED[name] for name in ("fvu", "l0")}
    return traps.scene_of(coder(of), of.manifest.exclusions, seen.sample, special=SPECIAL, **figures)


def test_the_right_dictionary_fails_nothing(seen: Seen) -> None:
    assert failed(OF, seen) == set()
    assert traps.diagnose(scene(OF, seen)) is None


CALLED = {"normalised_per_token": "normalised_twice"}
NAMES = sorted(trapped.mistakes(OF, torch.ones(2, OF.manifest.encoder.d_in)).keys() - {"outlier_norms"})


@pytest.mark.parametrize("name", NAMES)
def test_a_mistake_fails_the_gate_and_is_named(name: str, seen: Seen) -> None:
    planted = trapped.planted(OF, trapped.mistakes(OF, scene(OF, seen).x)[name]())
    assert failed(planted, seen), "the gate lets it pass"
    found = traps.diagnose(scene(planted, seen))
    assert found is not None
    assert found.trap == CALLED.get(name, name)
    assert not found.guess


@pytest.mark.parametrize(
    "point", ["resid_post.1", "resid_pre.2", "resid_mid.2", "mlp_out.2", "mlp_in.3", "resid_post.3"]
)
def test_a_dictionary_at_the_wrong_place_is_told_where_it_belongs(point: str, seen: Seen) -> None:
    """It says that it belongs to ``point``, and reads that; behind it stands where it was trained."""
    sample = Sample(OF.manifest.encoder.d_in)
    rows = seen.elsewhere[point]
    sample.add([5] * len(rows), rows)
    here = traps.scene_of(coder(OF), Exclusions(), sample, special=(), fvu=STATED["fvu"], l0=STATED["l0"])
    others = [(name, x) for name, x in seen.elsewhere.items() if name not in {point, "resid_pre.2"}]
    found = traps.diagnose(here, others)
    assert found is not None
    assert (found.trap, found.guess) == ("other_place", False)
    assert OF.manifest.hook_point in found.says


def test_rows_of_an_extreme_norm_that_nothing_excludes(seen: Seen) -> None:
    """The fixture's model has none, so that some are made as larger ones have them."""
    texts = [(ids, torch.cat([x, x[5:6] * 60])) for ids, x in seen.texts[:20]]
    far = Seen([([*ids, 7], x) for ids, x in texts], {})
    loose = replace(OF.manifest.exclusions, max_norm=None)
    planted = trapped.planted(OF, trapped.Change(rules=loose))
    assert "outliers" in failed(planted, far)
    found = traps.diagnose(scene(planted, far))
    assert found is not None
    assert found.trap == "outlier_norms"
    assert "outliers" not in failed(OF, far), "the data sheet excludes them"


def test_what_nothing_explains_is_named_after_the_nearest_figures_and_called_a_guess(seen: Seen) -> None:
    noise = torch.randn(OF.tensors["W_dec"].shape, generator=torch.Generator().manual_seed(0))
    planted = trapped.planted(OF, trapped.Change({"W_dec": noise.to(OF.tensors["W_dec"].dtype)}))
    found = traps.diagnose(scene(planted, seen))
    assert found is not None
    assert found.guess
    assert str(found).startswith("may be ")


@pytest.mark.parametrize("name", SILENT)
def test_what_no_figure_shows_the_stored_answers_show(name: str, seen: Seen) -> None:
    """Rounding moves no aggregate, and centring hardly one; the library's own answers on the same rows tell."""
    change = trapped.silent(OF)[name]
    planted = trapped.planted(OF, change)
    assert failed(planted, seen) <= failed(OF, seen)
    x, n, right = scene(OF, seen).x, trapped.latents(OF), coder(OF)
    with torch.no_grad():
        expected = made.loaded(FIXTURE / "source").encode(x)
    grey = grey_pairs(x, right.W, right.folded, right.sheet)[:, :n]
    assert compare(right.encode(x)[:, :n], expected, grey).good
    assert not compare(coder(planted).encode(x)[:, :n], expected, grey).good


def test_every_trap_of_the_table_is_provoked() -> None:
    provoked = {*NAMES, "outlier_norms", "other_place"}
    assert {CALLED.get(name, name) for name in provoked} == traps.TRAPS.keys()
