"""sparsify's dictionaries against sparsify."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saewatch.core.errors import DictionaryError
from saewatch.dictionary.formats import Asked, read_all
from saewatch.dictionary.formats.sparsify import read, recognises
from tests import layouts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from sparsify import SparseCoder, SparseCoderConfig

SAID = Asked(hook_point=layouts.POINT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("skip", [False, True])
def test_it_encodes_as_the_library_does(tmp_path: Path, dtype: torch.dtype, *, transcode: bool, skip: bool) -> None:
    cfg = SparseCoderConfig(num_latents=layouts.LATENTS, k=layouts.K, transcode=transcode, skip_connection=skip)
    coder = SparseCoder(layouts.D_IN, cfg, dtype=dtype)
    for at, parameter in enumerate(coder.parameters()):
        parameter.data = layouts.noise(*parameter.shape, seed=at, by=0.3).to(dtype)
    coder.save_to_disk(tmp_path / "layers.1")
    theirs = SparseCoder.load_from_disk(tmp_path / "layers.1").float()
    asked = Asked(hook_point=layouts.POINT, hook_out="mlp_out.1" if transcode else None)
    source, _ = read_all(tmp_path / "layers.1", asked)
    assert source is not None
    assert (source.format, source.pre_bias, source.warnings) == ("sparsify", not transcode, ())
    assert (source.kind, source.hook_out) == (("transcoder", "mlp_out.1") if transcode else ("sae", None))

    def encode(x: Tensor) -> Tensor:
        found = theirs.encode(x)
        return torch.zeros(len(x), layouts.LATENTS).scatter(1, found.top_indices, found.top_acts)

    layouts.check(source, encode)


def test_the_number_of_latents_may_be_a_factor() -> None:
    config = layouts.SPARSIFY | {"num_latents": 0, "expansion_factor": layouts.LATENTS // layouts.D_IN}
    assert read(layouts.opened(layouts.sparsify_tensors(), config), SAID).k == layouts.K


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "groups": ({"activation": "groupmax"}, "activation: found groupmax, expected topk"),
    "signed values": ({"signed": True}, "signed: found True"),
    "an unknown key": ({"threshold": 1.0}, "threshold: found an unknown member"),
    "another size": ({"num_latents": 97}, "found 97 latents of width 24, expected 96 of 24"),
    "no k": ({"k": 0}, "k: found 0, expected 1 to 96"),
    "more than there are": ({"k": 97}, "k: found 97, expected 1 to 96"),
    "a skip connection that is not there": ({"skip_connection": True}, "W_skip: found nothing, expected this tensor"),
    "a transcoder without its end": ({"transcode": True}, "expected --hook-out"),
    "text for a flag": ({"transcode": "yes"}, "transcode: found 'yes', expected true or false"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_load_wrongly_is_refused(case: str) -> None:
    changes, message = REFUSED[case]
    looked = layouts.opened(layouts.sparsify_tensors(), layouts.SPARSIFY | changes)
    assert recognises(looked)
    with pytest.raises(DictionaryError) as refused:
        read(looked, SAID)
    assert message in str(refused.value)


def test_the_folders_name_is_not_believed() -> None:
    looked = layouts.opened(layouts.sparsify_tensors(), layouts.SPARSIFY)
    with pytest.raises(DictionaryError, match="--hook-point"):
        read(looked, Asked())
