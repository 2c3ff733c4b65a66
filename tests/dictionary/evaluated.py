"""An evaluation of made measurements."""

from __future__ import annotations

from typing import Any

from saewatch.core.catalogue import Feature
from saewatch.dictionary.bounds import Measured, judge
from saewatch.dictionary.calibration import Data, Served
from saewatch.dictionary.quality import Quality, Texts

DIGEST = "sha256:" + "a" * 64


def evaluated(of: Measured, *, label: str = "Threats", weights: str = DIGEST, **changes: Any) -> Quality:
    names = [one.feature for one in of.discerned.told] if of.discerned else []
    features = tuple(
        Feature(id=name, label=label, category="vcr", severity="high", floor=0.0, latents=(3,)) for name in names
    )
    plain: dict[str, Any] = {
        "weights": weights,
        "catalogue": DIGEST,
        "bundle": DIGEST,
        "served": Served(model="", proof="", quantisation="", mode="exact", excluded={}, reader="transformers"),
        "texts": Texts(digest=DIGEST, texts=10, tokens=200_010),
        "labelled": Data(digest=DIGEST, requests=400, distinct=140),
        "fitted_on": "half of the templates",
        "ce_tokens": 2000,
        "measured": of,
        "rows": judge(of),
        "features": features,
        "notes": ("A note.",),
    }
    return Quality(**plain | changes)
