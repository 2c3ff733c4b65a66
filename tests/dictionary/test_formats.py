"""The table of formats: each is recognised by what is in it, and whatever else a stranger writes is refused."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saewatch.core.errors import ConfigError, ManifestError, SaewatchError
from saewatch.core.manifest import Exclusions
from saewatch.dictionary.convert import convert
from saewatch.dictionary.formats import CONVERTERS, Asked, read_all
from tests import layouts, made

PLAIN = {name: layout for name, layout in layouts.layouts().items() if not layout.asked.allow_pickle}


def test_every_format_has_a_layout_in_the_tests() -> None:
    assert CONVERTERS.keys() == {"saelens", "probes", *layouts.layouts()}


@pytest.mark.parametrize("name", [*PLAIN, "dictionary_learning"])
def test_a_format_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    layout = layouts.layouts()[name]
    latents, probes = read_all(layout.write(tmp_path), layout.asked)
    assert latents is not None
    assert probes is None
    assert (latents.format, latents.W.shape, latents.warnings) == (name, (layouts.LATENTS, layouts.D_IN), ())
    assert set(latents.files) == {layout.weights, *([layout.config_name] if layout.config else [])}
    convert(latents, exclusions=Exclusions())


def recognised(name: str) -> list[str]:
    layout = layouts.layouts()[name]
    tensors = {key: tensor for key, tensor in layout.tensors.items() if isinstance(tensor, torch.Tensor)}
    looked = layouts.opened(tensors, layout.config)
    return [other for other, row in CONVERTERS.items() if row.recognises(looked)]


@pytest.mark.parametrize("name", layouts.layouts())
def test_each_layout_is_one_formats(name: str) -> None:
    assert recognised(name) == [name]


def test_two_dictionaries_in_one_folder_are_refused(tmp_path: Path) -> None:
    made.saelens("standard").save_model(tmp_path)
    save_file({name: tensor.contiguous() for name, tensor in layouts.jumps().items()}, tmp_path / "other.safetensors")
    with pytest.raises(ConfigError) as refused:
        read_all(tmp_path)
    assert refused.value.found == "saelens (other.safetensors), saelens (sae_weights.safetensors)"
    assert "--format" in refused.value.hint
    latents, _ = read_all(tmp_path / "sae_weights.safetensors")
    assert latents is not None


def test_two_formats_in_one_folder_ask_which(tmp_path: Path) -> None:
    made.saelens("jumprelu").save_model(tmp_path)
    save_file(layouts.sparsify_tensors(), tmp_path / "sae.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(layouts.SPARSIFY))
    with pytest.raises(ConfigError, match=r"saelens \(sae_weights.*sparsify \(sae.safetensors\)|sparsify"):
        read_all(tmp_path, Asked(hook_point=layouts.POINT))
    latents, _ = read_all(tmp_path, Asked(hook_point=layouts.POINT, format="sparsify"))
    assert latents is not None
    assert latents.format == "sparsify"
    assert latents.warnings == ("sae_weights.safetensors: not read",)


def test_a_named_format_says_what_it_misses(tmp_path: Path) -> None:
    save_file({"W_enc": torch.ones(24, 96)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"known format \(x.safetensors with W_enc\).*--format NAME"):
        read_all(tmp_path)
    with pytest.raises(SaewatchError, match=r"x.safetensors: W_dec: found nothing, expected this tensor|b_dec"):
        read_all(tmp_path, Asked(format="gemma_scope", hook_point=layouts.POINT))


def test_pickles_are_not_opened_unless_that_is_allowed(tmp_path: Path) -> None:
    layouts.layouts()["openai"].write(tmp_path)
    for path in (tmp_path, tmp_path / "v5.pt"):
        with pytest.raises(ConfigError, match=r"v5.pt: found a pickle, expected .*--allow-pickle"):
            read_all(path, Asked(hook_point=layouts.POINT))
    layouts.layouts()["goodfire"].write(tmp_path)
    with pytest.raises(ConfigError, match=r"found l1.pth, v5.pt, expected one checkpoint. Name the file"):
        read_all(tmp_path, Asked(hook_point=layouts.POINT, allow_pickle=True))


def test_weights_that_are_no_pickle_are_preferred(tmp_path: Path) -> None:
    made.saelens("standard").save_model(tmp_path)
    torch.save({}, tmp_path / "optimizer.pt")
    latents, _ = read_all(tmp_path, Asked(allow_pickle=True))
    assert latents is not None
    assert latents.format == "saelens"


def test_a_name_is_compared_and_gives_a_warning(tmp_path: Path) -> None:
    for folder, warnings in {
        "layers.1": (),
        "layers.12": ("a name says layer 12, it is read as resid_post.1",),
        "W32K-L0_50": ("a name says L0 50, k is 7",),
        "layer_1-L0_7": (),
    }.items():
        layout = layouts.layouts()["sparsify"]
        latents, _ = read_all(layout.write(tmp_path / "x" / folder), layout.asked)
        assert latents is not None
        assert latents.warnings == warnings


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(k=8), r"--k: found 8, expected nothing"),
        (Asked(hook_out="mlp_out.1"), r"--hook-out: found mlp_out.1, expected nothing"),
        (Asked(mean_norm=3.0), r"--mean-norm: found 3.0, expected nothing"),
        (Asked(hook_point="resid_post.2"), r"hook.point: found resid_post.2, expected resid_post.1"),
    ],
)
def test_what_is_asked_for_comes_into_force_or_is_refused(tmp_path: Path, asked: Asked, message: str) -> None:
    made.saelens("standard").save_model(tmp_path)
    with pytest.raises(ManifestError, match=message):
        read_all(tmp_path, asked)


def test_two_configurations_beside_probes_are_no_two_probes(tmp_path: Path) -> None:
    folder = made.source(tmp_path / "source", made.saelens("standard"), directions=2)
    (folder / "config.json").write_text("{}")
    latents, probes = read_all(folder)
    assert latents is not None
    assert probes is not None
    assert (latents.format, latents.files[0]) == ("saelens", "cfg.json")


def test_a_file_that_is_said_to_be_probes_says_what_it_misses(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, 24), "c": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(SaewatchError, match=r"x.safetensors: b: found nothing"):
        read_all(tmp_path, Asked(format="probes"))


# --- a little fuzzing -------------------------------------------------------------------------------------------------
Damage = Callable[[bytearray, random.Random], bytes]
WORDS = [b"0", b"-1", b"99999999999999999999", b"null", b"true", b'"x"', b"[]", b"{}", b"1e400", b"NaN", b"[[[["]


def flip(data: bytearray, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 4])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def flip_head(data: bytearray, rng: random.Random) -> bytes:
    data[rng.randrange(min(400, len(data)))] = rng.randrange(256)
    return bytes(data)


def cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


def repeat(data: bytearray, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return bytes(data[:at] + data[max(0, at - 64) : at] + data[at:])


def another_number(data: bytearray, rng: random.Random) -> bytes:
    """Another word in the place of a number, in what is text."""
    found = list(re.finditer(rb"\d+", bytes(data[:4000])))
    if not found:
        return bytes(data)
    match = rng.choice(found)
    return bytes(data[: match.start()] + rng.choice(WORDS) + data[match.end() :])


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gemma_scope", "params.npz"),
        ("gemma_scope_2", "params.safetensors"),
        ("gemma_scope_2", "config.json"),
        ("llama_scope", "hyperparams.json"),
        ("sparsify", "cfg.json"),
        ("saelens", "cfg.json"),
    ],
)
def test_a_damaged_file_is_refused_or_read(tmp_path: Path, name: str, file: str) -> None:
    """80 seeded mutations each: another exception than ours would be a way to crash whoever imports."""
    if name == "saelens":
        made.saelens("gated").save_model(tmp_path)
        asked = Asked()
    else:
        asked = layouts.layouts()[name].asked
        layouts.layouts()[name].write(tmp_path)
    folder, rng = tmp_path, random.Random(name + file)
    whole = (folder / file).read_bytes()
    refused: list[str] = []
    for at in range(80):
        damage: Damage = [flip, flip_head, cut, repeat, another_number][at % 5]
        (folder / file).write_bytes(damage(bytearray(whole), rng))
        try:
            latents, _ = read_all(folder, asked)
            assert latents is not None
            convert(latents, exclusions=Exclusions())
        except SaewatchError as error:
            refused.append(str(error))
    assert 20 < len(refused) <= 80
    assert max(map(len, refused)) < 2000
