"""The oracle: SAELens itself, in float64, on the stored weights."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import torch

from tests import made


def test_it_is_named_with_its_version() -> None:
    assert made.ORACLE.name == f"sae-lens {version('sae-lens')}"


def test_it_encodes_in_float64(tmp_path: Path) -> None:
    sae = made.saelens("gated", apply_b_dec_to_input=True)
    folder, x = made.source(tmp_path / "source", sae), made.rows(20)
    found = made.ORACLE.encode(folder, x)
    assert found.dtype == torch.float64
    with torch.no_grad():
        assert torch.allclose(found.float(), sae.encode(x), atol=1e-5)
        assert torch.equal(found, sae.to(dtype=torch.float64).encode(x.double()))


def test_it_reads_half_precision_as_stored(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"), half=True)
    assert not torch.equal(
        made.ORACLE.encode(folder, made.rows(5)), made.saelens("standard").double().encode(made.rows(5).double())
    )
