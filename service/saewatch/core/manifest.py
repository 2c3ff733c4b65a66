"""The data sheet of a dictionary (``dictionary.json``), and the bundle that is promoted together (``bundle.json``).

The data sheet holds what decides a firing and nothing else: the digest of every folded tensor, and how they are used
(activation, what was folded with which constants, input normalisation, hook point, excluded tokens). Its bytes are
canonical JSON, so the **weights digest** is simply the SHA-256 of the file. Where it came from, what it was made for,
what its authors state and how it was checked are attestations (`saewatch.core.attestation`): they change without
making a new dictionary. A **bundle** names one data sheet, one catalogue and the attestations known when it was made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from saewatch.core import canonical, hookpoint, limits
from saewatch.core.canonical import Json
from saewatch.core.errors import HookPointError, ManifestError
from saewatch.core.fields import Fields
from saewatch.core.head import HeadSheet, check_heads, read_heads

MANIFEST_FILE = "dictionary.json"
CATALOGUE_FILE = "features.json"
BUNDLE_FILE = "bundle.json"
ENCODER_FILE = "encoder.safetensors"
DECODER_FILE = "decoder.safetensors"
CONFORMANCE_FILE = "conformance.safetensors"
ATTESTATIONS = "attestations"

SCHEMA = "saewatch.dictionary/1"
BUNDLE_SCHEMA = "saewatch.bundle/1"
KINDS = ("sae", "transcoder", "probes")
MODES = ("exact", "thresholded")
ACTIVATION_NAMES = ("relu", "jumprelu", "batchtopk", "topk", "gated", "linear")
INPUT_NORM_NAMES = ("none", "layer_norm", "constant_norm_rescale")
DTYPES: Mapping[str, int] = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4, "I32": 4}
"""Element types that our tensor files may hold, safetensors' names, and their bytes."""

NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_FOLDINGS = ("pre_bias", "normalisation", "decoder_norm", "threshold", "rounding")
_NORM_MAX = 1e30  # squared, it is still finite in float64; the largest norm seen in a model is 25,139


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSheet:
    """One tensor as the data sheet states it; ``sha256`` is over ``name|dtype|shape|bytes``."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str

    @property
    def size(self) -> int:
        """Bytes."""
        size = DTYPES[self.dtype]
        for extent in self.shape:
            size *= extent
        return size

    def json(self) -> Json:
        """As in the file."""
        return {"dtype": self.dtype, "shape": list(self.shape), "sha256": self.sha256}


@dataclass(frozen=True, slots=True, kw_only=True)
class InputNorm:
    """What is done to a row before the product; ``eps`` belongs to layer_norm and is added to the deviation."""

    kind: str = "none"
    eps: float | None = None

    def json(self) -> Json:
        """As in the file."""
        if self.eps is None:
            return {"kind": self.kind}
        return {"kind": self.kind, "eps": canonical.decimal_text(self.eps)}


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSheet:
    """Shape and meaning of the encoder: ``latents`` rows, then ``directions`` rows, of width ``d_in``."""

    activation: str
    latents: int
    directions: int
    d_in: int
    d_out: int
    k: int | None = None
    modes: tuple[str, ...] = ("exact",)
    input_norm: InputNorm = field(default_factory=InputNorm)
    heads: tuple[HeadSheet, ...] = ()
    """Of the directions, those that are more than a row."""

    @property
    def rows(self) -> int:
        """Rows of ``W``: latents and directions."""
        return self.latents + self.directions

    def json(self) -> Json:
        """As in the file."""
        heads: dict[str, Json] = {"heads": [head.json() for head in self.heads]} if self.heads else {}
        return heads | {
            "activation": self.activation,
            "latents": self.latents,
            "directions": self.directions,
            "d_in": self.d_in,
            "d_out": self.d_out,
            "k": self.k,
            "modes": list(self.modes),
            "input_norm": self.input_norm.json(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusions:
    """Tokens that the dictionary was not trained on: they emit nothing and are counted as excluded."""

    exclude_first: int = 0
    """Positions below this one."""
    special: tuple[int, ...] = ()
    """Token ids, ascending."""
    max_norm: float | None = None
    """Rows whose Euclidean norm exceeds it."""

    def json(self) -> Json:
        """As in the file."""
        bound = None if self.max_norm is None else canonical.decimal_text(self.max_norm)
        return {"exclude_first": self.exclude_first, "special": list(self.special), "max_norm": bound}

    def words(self) -> dict[str, str]:
        """As a stream says it: the special tokens' ids, which may be thousands, stand in the data sheet."""
        found = {"exclude_first": str(self.exclude_first), "special": f"{len(self.special)} token ids"}
        return found | ({} if self.max_norm is None else {"max_norm": str(self.max_norm)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Folding:
    """Something that was worked into the tensors, and its constant where there is one."""

    what: str
    constant: float | None = None

    def json(self) -> Json:
        """As in the file."""
        if self.constant is None:
            return {"what": self.what}
        return {"what": self.what, "constant": canonical.decimal_text(self.constant)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The data sheet. ``hook_point`` is our spelling; ``hook_out`` is set for transcoders only."""

    kind: str
    hook_point: str
    encoder: EncoderSheet
    tensors: Mapping[str, TensorSheet]
    exclusions: Exclusions = field(default_factory=Exclusions)
    folded: tuple[Folding, ...] = ()
    hook_out: str | None = None

    def data(self) -> bytes:
        """The file's bytes."""
        return canonical.dump(
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "hook": {"point": self.hook_point, "out": self.hook_out},
                "tokens": self.exclusions.json(),
                "encoder": self.encoder.json(),
                "folded": [folding.json() for folding in self.folded],
                "tensors": {name: sheet.json() for name, sheet in self.tensors.items()},
            },
            subject=MANIFEST_FILE,
        )

    @property
    def digest(self) -> str:
        """The weights digest."""
        return canonical.digest(self.data())


def read_manifest(data: bytes, *, subject: str = MANIFEST_FILE) -> Manifest:
    """The data sheet in ``data``; ManifestError naming the member, what was found and what was expected."""
    sheet = Fields(canonical.parse(data, subject=subject), f"{subject}: ")
    sheet.choice("schema", (SCHEMA,))
    hook = sheet.section("hook")
    manifest = Manifest(
        kind=sheet.choice("kind", KINDS),
        hook_point=_hook(hook, "point"),
        hook_out=None if hook.absent("out") else _hook(hook, "out"),
        exclusions=_read_exclusions(sheet.section("tokens")),
        encoder=_read_encoder(sheet.section("encoder")),
        folded=tuple(_read_folding(item) for item in sheet.objects("folded", 16)),
        tensors={name: read_tensor_sheet(item) for name, item in sheet.mapping("tensors").items()},
    )
    hook.close()
    sheet.close()
    _check_tensors(manifest, f"{subject}: tensors")
    return manifest


def expected_tensors(encoder: EncoderSheet, kind: str) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a dictionary's tensors. The encoder's: ``W, lim, s, c``, ``lim_thresholded``, and heads'."""
    shapes: dict[str, tuple[int, ...]] = {"W": (encoder.rows, encoder.d_in)}
    shapes |= dict.fromkeys(("lim", "s", "c"), (encoder.rows,))
    if encoder.activation == "topk" and "thresholded" in encoder.modes:
        shapes["lim_thresholded"] = (encoder.rows,)
    if kind != "probes":
        shapes |= {"W_dec": (encoder.latents, encoder.d_out), "b_dec": (encoder.d_out,)}
    for head in encoder.heads:
        shapes |= head.shapes(encoder.d_in)
    return shapes


DECODER_TENSORS = frozenset({"W_dec", "b_dec"})
"""Tensors of the decoder's file; the others are the encoder's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSheet:
    """``bundle.json``: the digests of what is promoted together."""

    weights: str
    catalogue: str
    attestations: tuple[tuple[str, str], ...] = ()
    """(kind, digest), ascending."""

    def data(self) -> bytes:
        """The file's bytes."""
        listed: list[Json] = [{"kind": kind, "digest": digest} for kind, digest in self.attestations]
        sheet: Json = {
            "schema": BUNDLE_SCHEMA,
            "weights": self.weights,
            "catalogue": self.catalogue,
            "attestations": listed,
        }
        return canonical.dump(sheet, subject=BUNDLE_FILE)

    @property
    def digest(self) -> str:
        """The bundle digest."""
        return canonical.digest(self.data())


def read_sheet(folder: Path, name: str) -> bytes:
    """The bytes of a JSON sheet of the bundle; ManifestError when it is missing or too large."""
    path = folder / name
    try:
        with path.open("rb") as file:
            data = file.read(limits.MANIFEST_BYTES + 1)
    except OSError as error:
        hint = "A bundle is made by importing a dictionary. Name the folder of a bundle, the one with bundle.json."
        raise ManifestError(
            str(path), found=error.strerror or str(error), expected="a readable file", hint=hint
        ) from error
    if len(data) > limits.MANIFEST_BYTES:
        raise ManifestError(str(path), found="a longer file", expected=f"at most {limits.MANIFEST_BYTES} bytes")
    return data


def read_bundle_sheet(data: bytes, *, subject: str = BUNDLE_FILE) -> BundleSheet:
    """The sheet in ``data``; ManifestError where a member is wrong or the attestations are out of order."""
    sheet = Fields(canonical.parse(data, subject=subject), f"{subject}: ")
    sheet.choice("schema", (BUNDLE_SCHEMA,))
    listed = sheet.objects("attestations", limits.ATTESTATIONS)
    named = tuple((item.text("kind", pattern=NAME), item.digest("digest")) for item in listed)
    for item in listed:
        item.close()
    if list(named) != sorted(set(named)):
        raise ManifestError(f"{subject}: attestations", found="repeated or unordered", expected="ascending")
    bundle = BundleSheet(weights=sheet.digest("weights"), catalogue=sheet.digest("catalogue"), attestations=named)
    sheet.close()
    return bundle


def attestation_path(kind: str, digest: str) -> str:
    """Where a bundle keeps an attestation, relative to its folder."""
    return f"{ATTESTATIONS}/{kind}.{digest.removeprefix('sha256:')[:12]}.json"


def _hook(hook: Fields, key: str) -> str:
    text = hook.text(key, limit=64)
    try:
        point = str(hookpoint.parse(text))
    except HookPointError as error:
        raise ManifestError(f"{hook.subject}.{key}", found=error.found, expected=error.expected) from error
    if point != text:
        raise ManifestError(f"{hook.subject}.{key}", found=repr(text), expected=point, hint="Write our spelling.")
    return text


def _read_encoder(sheet: Fields) -> EncoderSheet:
    encoder = EncoderSheet(
        activation=sheet.choice("activation", ACTIVATION_NAMES),
        latents=sheet.integer("latents", 0, limits.LATENTS),
        directions=sheet.integer("directions", 0, limits.WATCH_SLOTS),
        d_in=sheet.integer("d_in", 1, limits.D_IN),
        d_out=sheet.integer("d_out", 1, limits.D_IN),
        k=None if sheet.absent("k") else sheet.integer("k", 1, limits.LATENTS),
        modes=tuple(str(mode) for mode in sheet.items("modes", len(MODES))),
        input_norm=_read_norm(sheet.section("input_norm")),
        heads=read_heads(sheet),
    )
    sheet.close()
    check_encoder(encoder, sheet.subject)
    return encoder


def check_encoder(encoder: EncoderSheet, subject: str) -> None:
    """Refuses members that contradict each other, with ManifestError."""
    competes = encoder.activation == "topk"
    if competes != (encoder.k is not None) or (encoder.k or 0) > encoder.latents:
        expected = "k from 1 to the number of latents" if competes else "no k: each latent decides alone"
        raise ManifestError(f"{subject}.k", found=encoder.k, expected=f"{expected} ({encoder.activation})")
    allowed = (("exact",), ("exact", "thresholded")) if competes else (("exact",),)
    if encoder.modes not in allowed:
        raise ManifestError(f"{subject}.modes", found=list(encoder.modes), expected=f"one of {allowed}")
    if encoder.rows == 0 or (encoder.activation == "linear") != (encoder.latents == 0):
        found = f"{encoder.latents} latents, {encoder.directions} directions"
        raise ManifestError(f"{subject}.latents", found=found, expected=f"rows that fit {encoder.activation}")
    check_heads(encoder.heads, subject, latents=encoder.latents, directions=encoder.directions)
    if encoder.directions and encoder.input_norm.kind != "none":
        hint = "A direction reads the raw row; give probes a dictionary of their own."
        raise ManifestError(
            f"{subject}.directions", found=encoder.input_norm.kind, expected="input_norm none", hint=hint
        )


def _read_norm(sheet: Fields) -> InputNorm:
    kind = sheet.choice("kind", INPUT_NORM_NAMES)
    norm = InputNorm(kind=kind, eps=sheet.decimal("eps", 0.0, 1.0) if kind == "layer_norm" else None)
    sheet.close()
    return norm


def _read_exclusions(sheet: Fields) -> Exclusions:
    rules = Exclusions(
        exclude_first=sheet.integer("exclude_first", 0, limits.POSITION_MAX),
        special=sheet.integers("special", 0, limits.POSITION_MAX, limits.SPECIAL_TOKENS),
        max_norm=None if sheet.absent("max_norm") else sheet.decimal("max_norm", 0.0, _NORM_MAX),
    )
    sheet.close()
    if list(rules.special) != sorted(set(rules.special)):
        raise ManifestError(f"{sheet.subject}.special", found="repeated or unordered", expected="ascending token ids")
    return rules


def _read_folding(sheet: Fields) -> Folding:
    what = sheet.choice("what", _FOLDINGS)
    constant = sheet.decimal("constant", -_NORM_MAX, _NORM_MAX) if sheet.has("constant") else None
    sheet.close()
    return Folding(what=what, constant=constant)


def read_tensor_sheet(sheet: Fields) -> TensorSheet:
    """What a sheet says of one tensor."""
    tensor = TensorSheet(
        dtype=sheet.choice("dtype", DTYPES),
        shape=sheet.integers("shape", 0, limits.LATENTS, 2),
        sha256=sheet.digest("sha256"),
    )
    sheet.close()
    if tensor.size > limits.TENSOR_FILE_BYTES:
        found = f"{tensor.size} bytes"
        raise ManifestError(f"{sheet.subject}.shape", found=found, expected=f"at most {limits.TENSOR_FILE_BYTES}")
    return tensor


def _check_tensors(manifest: Manifest, subject: str) -> None:
    expected = expected_tensors(manifest.encoder, manifest.kind)
    for name in sorted(expected.keys() ^ manifest.tensors.keys()):
        there = name in manifest.tensors
        raise ManifestError(
            f"{subject}.{name}",
            found="present" if there else "nothing",
            expected="no such tensor" if there else "this tensor",
        )
    for name, shape in expected.items():
        sheet = manifest.tensors[name]
        if sheet.shape != shape:
            raise ManifestError(f"{subject}.{name}.shape", found=list(sheet.shape), expected=list(shape))
        if name not in ("W", "W_dec") and sheet.dtype != "F32":
            hint = "Limits and biases are float32: a rounded threshold moves firings."
            raise ManifestError(f"{subject}.{name}.dtype", found=sheet.dtype, expected="F32", hint=hint)
