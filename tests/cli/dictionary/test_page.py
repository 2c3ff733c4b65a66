"""The page that people read."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from saewatch.cli.dictionary.page import page
from saewatch.dictionary.quality import CAVEATS
from saewatch.dictionary.traps import Diagnosis
from tests.dictionary.evaluated import evaluated
from tests.dictionary.measured import discerned, figures, good, told


class Read:
    """Tags, and text that a reader sees. The page is well-formed XML but for its first line and HTML's open tags."""

    def __init__(self, text: str) -> None:
        body = re.sub(r"<(meta[^>]*)>", r"<\1/>", text.removeprefix("<!doctype html>\n"))
        root = ET.fromstring(body)
        self.tags = [one.tag for one in root.iter()]
        self.said = list(root.itertext())
        for one in root.iter():
            assert not set(one.attrib) & {"src", "href", "onload", "onclick", "onerror"}


def test_the_verdict_stands_first_with_what_failed_and_what_it_looks_like() -> None:
    looks = Diagnosis(trap="x", says="a lost <normalisation>", evidence="undone, it is well")
    read = Read(page(evaluated(good(figures=figures(fvu={"kept": 0.5})), looks_like=looks)))
    said = " ".join(" ".join(read.said).split())
    assert "The quality gate is failed." in said
    assert "looks like a lost <normalisation>: undone, it is well" in said
    assert 0 < said.index("fvu.stated") < said.index("The gate ") < said.index("What this does not say")
    assert "The quality gate is passed." in " ".join(Read(page(evaluated(good()))).said)


def test_figures_carry_their_intervals_their_n_and_the_caveats() -> None:
    said = " ".join(Read(page(evaluated(good()))).said)
    for wanted in ("0.95 [0.92, 0.97]", "200,000 tokens", "100 + 300", "0.80 [0.71, 0.87]", "the feature", "A note."):
        assert wanted in said, wanted
    assert all(one in said for one in CAVEATS)
    assert "unreviewed" in said
    without = " ".join(Read(page(evaluated(good(discerned=None, alerting=())))).said)
    assert "nothing is said of what features tell" in without


def test_a_hostile_label_is_text_and_nothing_else() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;"
    made = page(evaluated(good(discerned=discerned(told('threat.l1<svg onload="x">')), alerting=()), label=evil))
    read = Read(made)
    assert not {"script", "img", "iframe", "link"} & set(read.tags)
    assert evil in " ".join(read.said), "it is shown as it is"
    assert "<script" not in made


def test_the_page_needs_nothing_from_elsewhere() -> None:
    made = page(evaluated(good()))
    assert "default-src 'none'" in made
    assert not re.search(r"https?:|url\(|@import|<script", made)
    assert "prefers-color-scheme:dark" in made
