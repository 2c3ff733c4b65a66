"""Rules and canaries that a promotion would break."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from saewatch import cli
from saewatch.cli.policy import breaking
from saewatch.monitor.policy.rule import Policy, read
from saewatch.monitor.tables import KnownDictionary
from tests.cli.dictionary.shop import Shop
from tests.dictionary.crashing import bundle
from tests.dictionary.test_calibration import KNOWN, LATENT, PROBE
from tests.edge.test_policies import calibrated

POLICY = """
policy: trust
rules:
  - {id: probe, severity: high, when: {feature: threat.p1, above: 5.0}, uncalibrated: a test}
  - {id: latent, severity: low, when: {feature: threat.l1, above: 5.0}, uncalibrated: a test}
  - {id: elsewhere, severity: low, when: {feature: other.l1}}
"""


def a_policy() -> Policy:
    rules = [
        {"id": "probe", "severity": "high", "when": {"feature": PROBE.id, "above": 9.0}},
        {"id": "latent", "severity": "low", "when": {"feature": LATENT.id, "above": 1.0}, "uncalibrated": "a test"},
        {"id": "tried", "severity": "low", "when": {"feature": LATENT.id, "above": 1.0}},
    ]
    return read({"policy": "trust", "rules": rules}, "p.yaml")


def broken(after: KnownDictionary) -> dict[str, tuple[str, str]]:
    before = replace(KNOWN, evidence=(calibrated(),))
    found = breaking.broken(a_policy(), before, after, "p.yaml")
    return {one.rule: (one.state, one.why) for one in found}


def test_the_same_again_breaks_nothing() -> None:
    assert broken(replace(KNOWN, evidence=(calibrated(),))) == {}


def test_without_its_calibration_a_rule_falls_into_shadow() -> None:
    why = f"{PROBE.id} has no calibrated limit for this statistic and scope"
    assert broken(KNOWN) == {"probe": ("shadow", why)}


def test_without_its_feature_it_sees_nothing_and_one_in_shadow_is_no_loss() -> None:
    catalogue = replace(KNOWN.catalogue, features=(PROBE,))
    after = replace(KNOWN, catalogue=catalogue, evidence=(calibrated(),))
    assert broken(after) == {"latent": ("elsewhere", f"nothing that it names is here: it lacks {LATENT.id}")}


def test_nothing_is_broken_where_nothing_was() -> None:
    options = Namespace(policy=[], canaries=[], override=False, reason="")
    assert breaking.check(options, None, KNOWN) == []


def test_a_promotion_lists_them_and_is_refused_unless_it_is_overridden(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY)
    policy = ["--policy", str(file)]
    assert shop.promote(shop.old, "none", *policy)[0] == cli.GOOD, "nothing was active before"
    assert shop.promote(shop.new, shop.old, *policy)[0] == cli.GOOD, "it has the same features"
    one = bundle(tmp_path / "fewer", seed=7, features=())
    _, added = shop.ask("add", str(one))
    code, said = shop.promote(added["bundle"], shop.new, *policy)
    assert code == cli.FAILED
    assert said["error"]["subject"] == "--policy, --canaries"
    assert (
        "trust/latent would be elsewhere: nothing that it names is here: it lacks threat.l1" in said["error"]["found"]
    )
    assert "elsewhere/" not in said["error"]["found"]
    assert shop.ask("list")[1]["slots"]["demo/resid_post.1"]["stable"] == shop.new, "nothing has moved"
    code, said = shop.promote(added["bundle"], shop.new, *policy, "--override")
    assert (code, said["reason"]) == (cli.GOOD, "because")


def test_a_canary_that_would_lose_its_feature_is_listed(shop: Shop, tmp_path: Path) -> None:
    of = {"fires": True, "prompt": "text"}
    lines = [{"id": "a", "feature": "threat.l1", **of}, {"id": "b", "feature": "never.l1", **of}]
    file = tmp_path / "canaries.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in lines))
    options = ["--canaries", str(file)]
    assert shop.promote(shop.old, "none", *options)[0] == cli.GOOD, "nothing was judged before"
    assert shop.promote(shop.new, shop.old, *options)[0] == cli.GOOD, "it has the same features"
    _, added = shop.ask("add", str(bundle(tmp_path / "fewer", seed=7, features=())))
    code, said = shop.promote(added["bundle"], shop.new, *options)
    assert code == cli.FAILED
    assert said["error"]["found"] == "canaries.jsonl/a would be blind: it lacks threat.l1"
    assert shop.promote(added["bundle"], shop.new, *options, "--override")[0] == cli.GOOD
    assert shop.promote(shop.old, "none", *options, ref="candidate")[0] == cli.USAGE


def test_only_stable_raises_alerts(shop: Shop, tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(POLICY)
    assert shop.promote(shop.old, "none", "--policy", str(file), ref="candidate")[0] == cli.USAGE
