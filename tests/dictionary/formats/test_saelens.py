"""Reading what others wrote: every quiet trap of a source folder is refused by name."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from saewatch.core.errors import HookPointError, ManifestError, TensorFileError
from saewatch.dictionary.formats import read_saelens
from tests import layouts, made

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from sae_lens.saes.sae import SAE, TrainingSAE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made.source(tmp_path / "source", made.saelens("jumprelu", apply_b_dec_to_input=True), directions=3)


def configured(folder: Path, **changes: Any) -> Path:
    cfg = json.loads((folder / "cfg.json").read_text())
    for path, value in changes.items():
        *way, last = path.split("__")
        place = cfg
        for key in way:
            place = place[key]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return folder


def stored(folder: Path, **tensors: torch.Tensor | None) -> Path:
    found = load_file(folder / "sae_weights.safetensors") | tensors
    kept = {name: tensor for name, tensor in found.items() if tensor is not None}
    save_file(kept, folder / "sae_weights.safetensors")
    return folder


def test_a_dictionary_in_our_orientation(folder: Path) -> None:
    source = read_saelens(folder)
    found = load_file(folder / "sae_weights.safetensors")
    assert torch.equal(source.W, found["W_enc"].t())
    assert source.W.is_contiguous()
    assert (source.activation, source.kind, source.hook_point) == ("jumprelu", "sae", "resid_post.1")
    assert source.pre_bias
    assert source.vectors.keys() == {"b_enc", "threshold"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_dictionary_may_be_trained_in_less_than_float32(tmp_path: Path, dtype: str) -> None:
    sae = made.saelens("standard").to(dtype=getattr(torch, dtype))
    source = read_saelens(made.source(tmp_path / "source", sae))
    assert source.W.dtype == getattr(torch, dtype)
    assert source.vectors["b_enc"].dtype == torch.float32


def test_one_half_precision_is_not_the_other(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard").to(dtype=torch.bfloat16))
    with pytest.raises(TensorFileError, match="found BF16, expected F16 or narrower"):
        read_saelens(configured(folder, dtype="float16"))


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"finetuning_scaling_factor": True}, "cfg.json: finetuning_scaling_factor: found an unknown"),
    "no width": ({"d_in": ...}, "cfg.json: d_in: found nothing"),
    "another width": ({"d_in": 25}, "W_enc: found [24, 96], expected [25, 96]. Its width or number of latents"),
    "another number of latents": ({"d_sae": 95}, "found [96], expected [95]"),
    "no pre-bias": ({"apply_b_dec_to_input": ...}, "cfg.json: apply_b_dec_to_input: found nothing"),
    "a pre-bias of text": (
        {"apply_b_dec_to_input": "yes"},
        "b_dec_to_input: found 'yes', expected true or false",
    ),
    "another dtype": ({"dtype": "float8"}, "cfg.json: dtype: found 'float8'"),
    "weights wider than the configuration": ({"dtype": "bfloat16"}, "expected BF16 or narrower. A reader would round"),
    "an average not folded": ({"normalize_activations": "expected_average_only_in"}, "fold it first"),
    "a whitening not folded": ({"normalize_activations": "covariance_whitening"}, "fold it first"),
    "an unknown normalisation": ({"normalize_activations": "rms"}, "cfg.json: normalize_activations: found rms"),
    "reshaped heads": ({"reshape_activations": "hook_z"}, "cfg.json: reshape_activations: found 'hook_z'"),
    "no version": ({"metadata__sae_lens_version": ...}, "sae_lens_version: found none, expected 6 or later"),
    "an old version": ({"metadata__sae_lens_version": "5.9.1"}, "found 5.9.1, expected 6 or later. Load it with"),
    "no hook point": ({"metadata__hook_name": ...}, "cfg.json: metadata.hook_name: found nothing"),
    "processed weights": (
        {"metadata__model_from_pretrained_kwargs": {"center_writing_weights": True}},
        "model_from_pretrained_kwargs: found center_writing_weights",
    ),
    "an output of its own": ({"metadata__hook_name_out": "blocks.1.hook_mlp_out"}, "hook_name_out: found mlp_out.1"),
    "another architecture's tensors": ({"architecture": "gated"}, "sae_weights.safetensors: b_enc: found present"),
    "no such architecture": ({"architecture": "sparsemax"}, "found 'sparsemax'"),
    "abstopk": ({"architecture": "abstopk"}, "its values are signed"),
    "matching_pursuit": ({"architecture": "matching_pursuit"}, "depends on those chosen before it"),
    "temporal": ({"architecture": "temporal"}, "it attends over the sequence"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_configuration_that_would_load_wrongly_is_refused(folder: Path, case: str) -> None:
    changes, message = CONFIGS[case]
    with pytest.raises((ManifestError, TensorFileError)) as refused:
        read_saelens(configured(folder, **changes))
    assert message in str(refused.value)


def test_a_hook_point_that_nobody_knows(folder: Path) -> None:
    with pytest.raises(HookPointError, match="hook_q"):
        read_saelens(configured(folder, metadata__hook_name="blocks.1.attn.hook_q"))


def test_processing_that_changes_nothing_is_no_processing(folder: Path) -> None:
    read_saelens(configured(folder, metadata__model_from_pretrained_kwargs={"center_writing_weights": False}))


TENSORS: dict[str, tuple[dict[str, torch.Tensor | None], str]] = {
    "one too many": ({"scaling_factor": torch.ones(96)}, "scaling_factor: found present, expected no such tensor"),
    "one missing": ({"threshold": None}, "threshold: found nothing, expected this tensor"),
    "transposed": ({"W_enc": torch.ones(96, 24)}, "W_enc: found [96, 24], expected [24, 96]"),
    "integers": ({"b_enc": torch.ones(96, dtype=torch.int32)}, "b_enc: found I32, expected F32 or narrower"),
    "doubles": ({"b_enc": torch.ones(96, dtype=torch.float64)}, "b_enc: found F64"),
    "NaN": ({"threshold": torch.full((96,), torch.nan)}, "threshold: found NaN or infinity"),
    "infinity": ({"W_dec": torch.full((96, 24), torch.inf)}, "W_dec: found NaN or infinity"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_would_load_wrongly_are_refused(folder: Path, case: str) -> None:
    tensors, message = TENSORS[case]
    with pytest.raises(TensorFileError) as refused:
        read_saelens(stored(folder, **tensors))
    assert message in str(refused.value)


def test_a_transcoder_takes_no_pre_bias(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("transcoder"))
    with pytest.raises(ManifestError, match="expected false for a transcoder"):
        read_saelens(configured(folder, apply_b_dec_to_input=True))


def test_a_transcoder_names_where_its_output_goes(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("transcoder"))
    assert read_saelens(folder).hook_out == "mlp_out.1"
    with pytest.raises(ManifestError, match="hook_name_out: found nothing, expected a hook point"):
        read_saelens(configured(folder, metadata__hook_name_out=...))


FOLDABLE = (
    "standard",
    "jumprelu",
    "gated",
    "topk",
    "transcoder",
    "skip_transcoder",
    "jumprelu_transcoder",
    "jumprelu_skip_transcoder",
)
NORMS = ("none", "layer_norm", "constant_norm_rescale")
FOLDED_FIRST = ("expected_average_only_in", "covariance_whitening")


def combinations(architecture: str) -> Iterator[dict[str, Any]]:
    """Every way in which SAELens 6.54 lets a dictionary of this class be configured."""
    for norm, pre_bias in itertools.product((*NORMS, *FOLDED_FIRST), (False, True)):
        options = {"normalize_activations": norm, "apply_b_dec_to_input": pre_bias}
        if "topk" in architecture:
            yield from ({**options, "k": 7, "rescale_acts_by_decoder_norm": by_norms} for by_norms in (False, True))
        else:
            yield options


@pytest.mark.parametrize("architecture", FOLDABLE)
def test_every_dictionary_that_saelens_saves_encodes_as_it_does_or_is_refused(
    tmp_path: Path, architecture: str
) -> None:
    for at, options in enumerate(combinations(architecture)):
        if "transcoder" in architecture and options["apply_b_dec_to_input"]:
            with pytest.raises(ValueError, match="not supported for transcoders"):
                made.saelens(architecture, **options)
            continue
        sae = made.saelens(architecture, seed=at, **options)
        folder = tmp_path / str(at)
        sae.save_model(folder)
        if options["normalize_activations"] in FOLDED_FIRST:
            with pytest.raises(ManifestError, match=r"normalize_activations.*fold it first"):
                read_saelens(folder)
        else:
            layouts.check(read_saelens(folder), sae.encode)


@pytest.mark.parametrize("architecture", ["abstopk", "matching_pursuit"])
def test_the_others_are_refused_by_name_however_configured(tmp_path: Path, architecture: str) -> None:
    for at, options in enumerate(combinations(architecture)):
        made.saelens(architecture, **options).save_model(tmp_path / str(at))
        with pytest.raises(ManifestError, match=f"found '{architecture}'.*cannot be watched row by row"):
            read_saelens(tmp_path / str(at))


@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "gated", "topk"])
def test_what_saelens_folds_before_saving_is_read(tmp_path: Path, architecture: str) -> None:
    k = {"k": 7, "rescale_acts_by_decoder_norm": True} if architecture == "topk" else {}
    average = made.saelens(architecture, normalize_activations="expected_average_only_in", **k)
    average.fold_activation_norm_scaling_factor(0.7)
    norms = made.saelens(architecture, apply_b_dec_to_input=True, **k)
    norms.fold_W_dec_norm()
    whitened = made.saelens(architecture, normalize_activations="covariance_whitening", apply_b_dec_to_input=True, **k)
    mixing = made.rows(made.D_IN, seed=4, scale=0.3) + torch.eye(made.D_IN)
    whitened.fold_activation_whitening(made.rows(1)[0], mixing, torch.linalg.inv(mixing))
    for at, sae in enumerate((average, norms, whitened)):
        sae.save_model(tmp_path / str(at))
        layouts.check(read_saelens(tmp_path / str(at)), sae.encode)


@pytest.mark.parametrize("name", ["batchtopk", "matryoshka_batchtopk"])
def test_dictionaries_that_were_trained_with_a_threshold_are_saved_as_jumprelu(tmp_path: Path, name: str) -> None:
    widths = {"matryoshka_widths": [32, made.LATENTS]} if name.startswith("matryoshka") else {}
    config = {"d_in": made.D_IN, "d_sae": made.LATENTS, "k": 7, "dtype": "float32", "apply_b_dec_to_input": True}
    sae = TrainingSAE.from_dict({"architecture": name, **config, **widths})
    for at, parameter in enumerate(sae.parameters()):
        parameter.data = made.rows(1, seed=at, d_in=parameter.numel(), scale=0.3).reshape(parameter.shape)
    sae.topk_threshold.fill_(0.3)
    sae.cfg.metadata.hook_name = made.HOOK
    sae.save_inference_model(tmp_path)
    source = read_saelens(tmp_path)
    assert source.activation == "jumprelu"
    assert float(source.vectors["threshold"].max()) == pytest.approx(0.3)
    layouts.check(source, SAE.load_from_disk(tmp_path).encode)


def test_a_file_of_an_older_saelens_says_what_to_do(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"))
    old = {"d_in": 24, "d_sae": 96, "hook_point": "blocks.1.hook_resid_post", "activation_fn_str": "relu"}
    (folder / "cfg.json").write_text(json.dumps(old))
    with pytest.raises(ManifestError, match=r"sae_lens_version: found none, expected 6 or later. Load it with"):
        read_saelens(folder)
