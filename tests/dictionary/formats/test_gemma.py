"""Gemma Scope's files, written to the documented layout, against SAELens' class for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saewatch.core.errors import DictionaryError, HookPointError
from saewatch.dictionary.formats import Asked
from saewatch.dictionary.formats.gemma import read, read_2, recognises, recognises_2
from tests import layouts, made

SAID = Asked(hook_point=layouts.POINT)
LOWER = {name.replace("W_", "w_"): tensor for name, tensor in layouts.jumps().items()}


def theirs() -> Any:
    """The same weights in SAELens' class, as its loaders of these formats put them."""
    sae = made.saelens("jumprelu")
    sae.load_state_dict(layouts.jumps())
    return sae


@pytest.mark.parametrize("tensors", [layouts.jumps(), LOWER], ids=["upper", "lower"])
def test_gemma_scope(tensors: dict[str, Tensor]) -> None:
    looked = layouts.opened(tensors, weights="params.npz")
    assert recognises(looked)
    assert not recognises_2(looked)
    source = read(looked, SAID)
    assert (source.kind, source.hook_point, source.pre_bias) == ("sae", layouts.POINT, False)
    layouts.check(source, theirs().encode)
    layouts.decoded(source, theirs())


def test_gemma_scope_2() -> None:
    looked = layouts.opened(LOWER, layouts.GEMMA_2 | {"hf_hook_point_out": None, "affine_connection": False, "l0": 60})
    assert recognises_2(looked)
    assert not recognises(looked)
    source = read_2(looked, Asked())
    assert (source.hook_point, source.model, source.kind) == ("resid_post.1", "gemma-3-1b-pt", "sae")
    layouts.check(source, theirs().encode)


def test_a_transcoder_of_the_first_release_has_to_be_called_one() -> None:
    source = read(layouts.opened(layouts.jumps()), Asked(hook_point="mlp_in.1", hook_out="mlp_out.1"))
    assert (source.kind, source.hook_point, source.hook_out) == ("transcoder", "mlp_in.1", "mlp_out.1")


@pytest.mark.parametrize("affine", [False, True])
def test_a_transcoder_of_the_second_says_so(*, affine: bool) -> None:
    layer = "model.layers.1"
    config: dict[str, Any] = {**layouts.GEMMA_2, "affine_connection": affine}
    config["hf_hook_point_in"] = f"{layer}.pre_feedforward_layernorm.output"
    config["hf_hook_point_out"] = f"{layer}.post_feedforward_layernorm.output"
    tensors = LOWER | ({"affine_skip_connection": torch.ones(layouts.D_IN, layouts.D_IN)} if affine else {})
    source = read_2(layouts.opened(tensors, config), Asked())
    assert (source.kind, source.hook_point, source.hook_out) == ("transcoder", "mlp_in.1", "mlp_out.1")
    layouts.check(source, theirs().encode)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "relu"}, "architecture: found 'relu'"),
        ({"rescale": 2}, "rescale: found an unknown member, expected no such member. If you know"),
        ({"affine_connection": True}, "affine_skip_connection: found nothing"),
        ({"model_name": None}, "model_name: found None, expected text"),
    ],
)
def test_a_configuration_that_would_load_wrongly_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DictionaryError) as refused:
        read_2(layouts.opened(LOWER, layouts.GEMMA_2 | changes), Asked())
    assert message in str(refused.value)


@pytest.mark.parametrize("place", ["self_attn.o_proj.input", "mlp.act_fn"])
def test_a_place_that_is_no_hook_point_of_ours_is_refused(place: str) -> None:
    with pytest.raises(HookPointError, match=place):
        read_2(layouts.opened(LOWER, layouts.GEMMA_2 | {"hf_hook_point_in": f"model.layers.1.{place}"}), Asked())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"scaling_factor": torch.ones(96)}, "scaling_factor: found present, expected no such tensor"),
        ({"W_dec": torch.ones(96, 2, 24)}, "W_dec: found [96, 2, 24], expected a matrix. It is a cross-layer"),
        ({"W_enc": torch.ones(96, 24)}, "found [96, 24], expected [24, 96]"),
        ({"threshold": torch.ones(1)}, "threshold: found [1], expected [96]"),
        ({"threshold": torch.ones(96, dtype=torch.float64)}, "threshold: found F64, expected F32 or narrower"),
    ],
)
def test_tensors_that_would_load_wrongly_are_refused(tensors: dict[str, Tensor], message: str) -> None:
    with pytest.raises(DictionaryError) as refused:
        read(layouts.opened(layouts.jumps() | tensors), SAID)
    assert message in str(refused.value)


def test_a_square_encoder_does_not_say_how_it_lies() -> None:
    square = {name: torch.ones(24, 24) if name.startswith("W_") else torch.ones(24) for name in layouts.jumps()}
    with pytest.raises(DictionaryError, match="the shapes do not tell how W_enc lies"):
        read(layouts.opened(square), SAID)
    assert read(layouts.opened(square), Asked(hook_point=layouts.POINT, format="gemma_scope")).W.shape == (24, 24)


def test_where_it_reads_has_to_be_said() -> None:
    with pytest.raises(DictionaryError, match="expected --hook-point POINT"):
        read(layouts.opened(layouts.jumps()), Asked())
