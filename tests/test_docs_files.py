"""The files and sections that the docs show are read by what reads them, as they stand there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from saewatch import config
from saewatch.edge import canaries, webhooks
from saewatch.monitor.policy import rule as rules
from tests.sidecar import ROOT

SECTIONS = {"docs/alerts.md": "webhooks", "docs/canaries.md": "canaries", "docs/drift.md": "baselines"}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", SECTIONS)
def test_sections_of_the_configuration_are_taken(page: str, tmp_path: Path) -> None:
    found = config.read(yaml.safe_load("\n".join(blocks(page, "yaml"))), folder=tmp_path)
    assert getattr(found, SECTIONS[page])
    if page == "docs/alerts.md":
        (tmp_path / "pager.key").write_text("whsec_" + "c2Vj" * 8)
        [hook] = webhooks.load(found.webhooks)
        assert hook.name == "pager"


def test_the_first_policy_is_one() -> None:
    [text] = re.findall(r"(?m)^    # policy.yaml\n((?:    .*\n)+)", (ROOT / "docs/policies.md").read_text())
    policy = rules.read(yaml.safe_load(re.sub(r"(?m)^    ", "", text)), "policy.yaml")
    assert [one.id for one in policy.rules] == ["threat"]


def test_the_canaries_are_canaries(tmp_path: Path) -> None:
    lines = re.findall(r'(?m)^    (\{"id".*\})$', (ROOT / "docs/canaries.md").read_text())
    assert [json.loads(line)["fires"] for line in lines] == [True, False]
    file = tmp_path / "canaries.jsonl"
    file.write_text("\n".join(lines) + "\n")
    assert len(canaries.load(file)) == 2
