"""The device memory that watching will cost: known before anything is allocated, and refused over budget.

The same arithmetic for the tap, which refuses, and for ``saewatch vllm-args``, which tells beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.head import pooled
from saewatch.core.manifest import DTYPES, Manifest
from saewatch.core.tapconfig import DictionaryUse, TapConfig

ROWS = 1024
"""Rows encoded at a time: what lies between the product and the slab stays below ``ROWS x slots`` entries."""

BLOCK = 8192
"""Latents of the whole dictionary at a time: 1,024 rows of them are 32 MiB in float32."""

KEPT = 1024
"""Latents of a row that the kernels list where none compete: ten times what dictionaries are trained for."""

SKETCH = 256
"""Numbers of a decoder's sketch for each latent: the unexplained share has a standard deviation of 8.8 % at most."""

SKETCH_FROM = 1024
"""Least width that is sketched, on a GPU. Below, the decoder itself costs no more than the sketch's four bytes each."""

TEMPORARY_BYTES = 4 + 4 + 1 + 1 + 8 + 8 + 8 + 4 + 4
"""Per (row, slot) between the product and the slab: u, value, fires, kept, three i64, row, slot."""

WIDTH = 8
"""What ``d_in`` must be a multiple of for the kernels, which read 16 bytes at a time. Every model's is one of 64."""

SCREENED = 128
"""Rows of the whole dictionary's screen at most; more go through windows."""

WINDOW = 2048
"""Latents of a window: 512 tiles of 128 x 256 at 8,192 rows are 3.88 waves of 132 multiprocessors, and 8 MiB in
float32 at 1,024 rows stay in L2."""

SAMPLE, WINNERS = 8, 256
"""Of TopK by the kernels: one latent of so many is computed for a row's floor, which some ``SAMPLE`` k latents then
reach; and winners of a row at most: with more, what reaches the floor would often not fit the longest list."""

APART = 16
"""Dimensions that the screen in int8 keeps apart at most, in float32 (`engine.kernels.screen`)."""

TILE = 16
"""Slots of the kernels' smallest tile, and rows of their smallest block of rows."""

HEAD_TEMPORARY_BYTES = 4 + 4 + 4
"""Per (row, hidden unit) of a head: before the activation, after it, and times the second layer's weight."""

HISTORY_FIRING_BYTES = 8
"""Per firing in the history: 4.8 were measured at 16 firings a token and 7.5 at one (docs/decisions/0012)."""


REUSE_ROW_BYTES, REUSE_FIRING_BYTES = 14, 6
"""Of what is kept for prompts that come again, on the host: 2 B a row and 192 B a block of 16 rows; slot and value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Device bytes of one stream, by what they are for."""

    staging: int
    watched: int
    whole: int
    decoder: int
    slabs: int
    temporary: int
    heads: int = 0
    """Probe heads, where there are some: their weights, what lies between their layers, and what the host pools."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.staging + self.watched + self.whole + self.decoder + self.slabs + self.temporary + self.heads

    def __str__(self) -> str:
        parts = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return f"{mib(self.total)} ({', '.join(f'{name} {mib(size)}' for name, size in parts.items() if size)})"


def footprint(
    manifest: Manifest,
    use: DictionaryUse,
    config: TapConfig,
    *,
    rows: int,
    slots: int,
    element_bytes: int = 2,
    staged: bool = True,
    fused: bool | None = None,
    shared: bool = False,
) -> Footprint:
    """Device bytes of one stream.

    Args:
        manifest: the dictionary's data sheet.
        use: how it is used.
        config: the tap.
        rows: of the largest step (vLLM's ``max_num_batched_tokens``).
        slots: watched rows of the dictionary.
        element_bytes: of the activations.
        staged: rows are copied into slots, as on a GPU; on the CPU they are encoded in place.
        fused: kernels encode what they can, as where there is Triton; None: on a GPU.
        shared: a stream before it has the same hook point, and so the same rows.

    Raises `ConfigError` where rows are to be multiplied in the graph and cannot be, or where no kernel would screen.
    """
    sheet = manifest.encoder
    firings = firings_max(config, rows=rows, slots=slots)
    decodes = use.census > 0 and manifest.kind == "sae" and "W_dec" in manifest.tensors
    whole = needs_whole(manifest, use)
    stored = max(
        DTYPES[manifest.tensors[name].dtype]
        for name in (("W", "W_dec") if decodes and not sketches(sheet.d_out, staged=staged) else ("W",))
    )
    d_out = sheet.d_out if decodes else 0
    at_once = min(rows, ROWS)
    block = 4 * min(sheet.rows, BLOCK) * (sheet.d_in + d_out + 6 * at_once) if whole else 0  # upcast, products, keys
    kernels = (staged if fused is None else fused) and sheet.d_in % WIDTH == 0
    launched = kernels and not competes(manifest, use) and not sheet.heads
    if use.screen == "int8":
        check_screen(manifest, use, kernels=kernels)
    inside = config.placement == "graph"
    if inside:
        check_inside(manifest, use, kernels=kernels)
    together = rows if inside else at_once  # in the graph what lies between has to last until the pass is over
    between = _between_kernels(manifest, together, slots) if launched else at_once * slots * TEMPORARY_BYTES
    element = DTYPES[manifest.tensors["W"].dtype] if kernels else 4
    copies = 0 if shared else 1 + (config.slots if staged and not inside else 0)
    across = 2 * sum(head.units for head in sheet.heads) if pooled(sheet.heads) else 0
    units = 0 if across else sum(head.units for head in sheet.heads)
    stored_heads = 4 * (units * (sheet.d_in + 2) + 3 * len(sheet.heads)) * (2 if whole else 1)  # and for the census
    return Footprint(
        staging=rows * sheet.d_in * element_bytes * copies + 16 * rows * (config.slots + inside),
        watched=(slots * (element * sheet.d_in + 32) + 8 * limits.SPECIAL_TOKENS) * (1 + inside),
        whole=sheet.rows * (stored * sheet.d_in + 24) + _quantised(manifest, use) if whole else 0,
        decoder=_decoder(sheet.rows, stored, d_out, staged=staged),
        slabs=config.slots * (12 * (firings + 1) + 2 * rows + 16) + inside * (2 * rows + 40),
        temporary=at_once * (4 * sheet.d_in + 16) * (whole or not launched) + between + block,
        heads=stored_heads
        + at_once * (HEAD_TEMPORARY_BYTES * units + 4 * len(sheet.heads))
        + 4 * across * (sheet.d_in + config.slots * rows + at_once),
    )


def _decoder(rows: int, stored: int, d_out: int, *, staged: bool) -> int:
    if sketches(d_out, staged=staged):
        return 4 * SKETCH * (rows + d_out + 1)
    return rows * stored * d_out + 12 * d_out


def sketches(d_out: int, *, staged: bool) -> bool:
    """Whether a census measures reconstruction by a sketch of the decoder, or by the decoder."""
    return staged and d_out >= SKETCH_FROM


def needs_whole(manifest: Manifest, use: DictionaryUse) -> bool:
    """Whether the whole dictionary is on the device: for a census, or where latents compete."""
    return use.census > 0 or competes(manifest, use)


def competes(manifest: Manifest, use: DictionaryUse) -> bool:
    """Whether a latent fires or not by what others do."""
    return manifest.encoder.k is not None and use.mode == "exact"


def check_inside(manifest: Manifest, use: DictionaryUse, *, kernels: bool) -> None:
    """ConfigError where the model's graph has no place for what is watched."""
    found = {
        "a device without the kernels": not kernels,
        "latents that compete": competes(manifest, use),
        "a census": use.census > 0,
        "probe heads": bool(manifest.encoder.heads),
    }
    for why, is_so in found.items():
        if is_so:
            hint = f"{use.path}: only watched rows that decide alone can be in the graph, on a GPU with Triton."
            raise ConfigError("saewatch.placement", found=f"graph with {why}", expected="side", hint=hint)


def check_screen(manifest: Manifest, use: DictionaryUse, *, kernels: bool) -> None:
    """ConfigError where nothing would be screened in int8."""
    found = {"a device without the kernels": not kernels, "neither TopK nor a census": not needs_whole(manifest, use)}
    for why, is_so in found.items():
        if is_so:
            hint = f"{use.path}: only what encodes the whole dictionary on a GPU with Triton is screened."
            raise ConfigError("screen", found=f"int8 with {why}", expected="stored", hint=hint)


def _quantised(manifest: Manifest, use: DictionaryUse) -> int:
    """The rows in int8 with their step, two lengths, and the columns that are kept apart."""
    width = -(-manifest.encoder.d_in // 16) * 16
    return manifest.encoder.rows * (width + 12 + 4 * APART) + width if use.screen == "int8" else 0


def _between_kernels(manifest: Manifest, rows: int, slots: int) -> int:
    """Values, a bit a (row, slot), counts of tiles and blocks, and rows' scales; centred rows where there are such.

    The slots of a tap share them, since they encode one after the other.
    """
    tiles = -(-slots // TILE)
    centred = 4 * manifest.encoder.d_in * rows if manifest.encoder.input_norm.kind == "layer_norm" else 0
    return rows * (4 * slots + 2 * tiles + 4 * tiles + 4) + 4 * tiles * -(-rows // TILE) + 8 * tiles + 248 + centred


def firings_max(config: TapConfig, *, rows: int, slots: int) -> int:
    """Firings of one step that a slab takes."""
    return rows * min(config.firings_per_token, max(slots, 1))


def check_budget(needed: Footprint, config: TapConfig, *, rows: int, slots: int, taken: int = 0) -> None:
    """ConfigError when a stream needs more than the budget leaves, saying by what and what would fit.

    ``taken``: bytes of the streams before it.
    """
    budget = config.device_budget_mib * limits.MIB - taken
    if needed.total <= budget:
        return
    fixed = needed.total - needed.watched - needed.temporary
    each = max(1, (needed.watched + needed.temporary) // max(1, slots))
    fits = (budget - fixed) // each
    enough = f"Raise it to {mib(taken + needed.total)}."
    hint = f"About {fits} slots would fit at {rows} rows a step." if fits > 0 else enough
    found = f"{mib(budget)} of {config.device_budget_mib} MiB left" if taken else mib(budget)
    raise ConfigError("device_budget_mib", found=found, expected=str(needed), hint=hint)


def mib(size: int) -> str:
    """In mebibytes."""
    return f"{size / limits.MIB:.1f} MiB"
