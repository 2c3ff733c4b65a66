"""What a model's dictionaries take of the device together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.footprint import footprint
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.dictionary.journal import NOTHING
from saewatch.dictionary.memory import ROWS_MAX, needs
from saewatch.dictionary.registry import Slot
from tests.dictionary.crashing import SLOT, bundle, move, registry


def test_stable_and_shadow_of_all_slots_of_a_model_together(tmp_path: Path) -> None:
    one = registry(tmp_path / "store")
    a, b = (one.store.add(bundle(tmp_path / f"bundle{seed}", seed=seed)) for seed in range(2))
    assert needs(one, "demo", device="H200").device_bytes == 0
    one.promote(move("candidate"), b.digest, expect=NOTHING)
    one.promote(replace(move(), slot=Slot("other", "resid_post.1")), b.digest, expect=NOTHING)
    one.promote(move(), a.digest, expect=NOTHING)
    use = DictionaryUse(path="")
    config = TapConfig(socket="/", dictionaries=(use,))
    alone = footprint(a.manifest, use, config, rows=ROWS_MAX, slots=4).total
    found = needs(one, "demo", device="H200")
    assert (found.dictionaries, found.device_bytes) == (("demo/resid_post.1@stable",), alone)
    shadowed = needs(one, "demo", device="H200", promoted=(SLOT, "shadow", b.digest))
    shared = footprint(b.manifest, use, config, rows=ROWS_MAX, slots=4, shared=True).total
    assert shadowed.dictionaries == ("demo/resid_post.1@shadow", "demo/resid_post.1@stable")
    assert shadowed.device_bytes == alone + shared
    assert shadowed.step.lower == pytest.approx(2 * found.step.lower)
    assert needs(one, "demo", device="L4").step.upper > found.step.upper
    assert needs(one, "demo", device="H200", promoted=(SLOT, "candidate", a.digest)) == found
    fits = -(-shadowed.device_bytes // limits.MIB)
    shadowed.check(fits)
    with pytest.raises(ConfigError, match=r"MiB for demo/resid_post.1@shadow, demo/resid_post.1@stable, expected at"):
        shadowed.check(fits - 1)
