"""Does this encoder give what the dictionary's own library gives? Stored rows, stored answers, one comparison.

At import some rows are encoded by the library that the dictionary was trained with (the oracle, in float64) and the
answers are stored with the bundle. Every encoder is compared with them when it starts: that finds a lost
normalisation, a threshold read as its logarithm, a transposed matrix, or a processor that multiplies in less than
float32. Firing sets must be equal outside the grey band and values within 1e-5 of the row's largest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from saewatch.core.attestation import read_conformance
from saewatch.core.catalogue import WatchList
from saewatch.core.errors import SelfTestFailed
from saewatch.core.manifest import CONFORMANCE_FILE, EncoderSheet
from saewatch.engine.dictionary_file import Bundle, load_tensors
from saewatch.engine.encode import VALUE_TOLERANCE, Verdict, compare, grey_pairs
from saewatch.engine.encoder import Encoder
from saewatch.engine.slab import Slab

PAIRS = 2**20
"""(row, slot) pairs encoded at a time: a slab of 12 MiB, however many rows are stored, in an engine that serves."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reference:
    """What an encoder should give on the stored rows, for the rows that it watches. Kept, it needs no file again."""

    weights: str  # the dictionary's digest
    oracle: str
    x: Tensor  # [n, d_in]
    expected: Tensor  # [n, slots] dense values, 0: does not fire
    floor: Tensor  # [slots] least value that is sent
    largest: Tensor  # [n, 1] of all rows of the dictionary, watched or not
    grey: Tensor  # [n, slots] bool: float32 does not settle it
    kept: Tensor  # [n] bool: rows that the data sheet does not exclude


def self_check(encoder: Encoder, bundle: Bundle) -> Verdict | None:
    """The stored rows through ``encoder``'s own path, on the rows that it watches, against the stored answers.

    Returns None when the bundle has no conformance rows. Raises SelfTestFailed when they disagree.
    """
    reference = reference_of(encoder, bundle)
    return None if reference is None else agree(encoder, reference)


def reference_of(encoder: Encoder, bundle: Bundle) -> Reference | None:
    """The stored rows and answers, made ready for what ``encoder`` watches now; None without any."""
    stored = load_rows(bundle)
    if stored is None or encoder.dictionary is None:
        return None
    oracle, x, dense = stored
    expected, floor = dense[:, encoder.watch_list.rows], torch.tensor(encoder.watch_list.floors)
    return Reference(
        weights=bundle.sheet.weights,
        oracle=oracle,
        x=x,
        expected=torch.where(expected > floor, expected, 0.0),
        floor=floor,
        largest=dense.amax(dim=1, keepdim=True),
        grey=_unsettled(encoder, bundle, x),
        kept=_kept(encoder, x),
    )


def compared(encoder: Encoder, reference: Reference) -> Verdict:
    """What ``encoder`` gives now against ``reference``. Reads the encoder, and synchronises the current stream only."""
    kept = reference.kept
    found, expected, largest = _fired(encoder, reference.x)[kept], reference.expected[kept], reference.largest[kept]
    value = torch.maximum(found, expected)
    at_floor = (value > 0) & ((value - reference.floor).abs() <= VALUE_TOLERANCE * largest)
    return compare(found, expected, reference.grey[kept] | at_floor, whole=largest, oracle=reference.oracle)


def agree(encoder: Encoder, reference: Reference) -> Verdict:
    """The same; raises SelfTestFailed when they disagree."""
    verdict = compared(encoder, reference)
    if not verdict.good:
        raise disagreement(verdict, reference)
    return verdict


def agree_served(encoder: Encoder, reference: Reference, bundle: Bundle, dtype: torch.dtype) -> None:
    """The stored rows rounded to ``dtype``, as the engine gives them: kernels are to give what they give in float32.

    Stored rows are float32, and so what `agree` proves is not the product that serves. Raises SelfTestFailed when the
    two disagree; does nothing where no kernel encodes.
    """
    if not encoder.fused or dtype == torch.float32:
        return
    x = reference.x.to(dtype)
    exact = x.float()
    expected, grey, kept = _fired(encoder, exact), _unsettled(encoder, bundle, exact), _kept(encoder, exact)
    agree(encoder, replace(reference, oracle="itself in float32", x=x, expected=expected, grey=grey, kept=kept))


def disagreement(verdict: Verdict, reference: Reference) -> SelfTestFailed:
    """In words, with what to do about it."""
    found = (
        f"{verdict.mismatched} of {verdict.compared} firings differ outside the grey band, "
        f"values by up to {verdict.error_max:.1e} of the row's largest"
    )
    hint = "Products may run in less than float32 here (torch.set_float32_matmul_precision), or the bundle is damaged."
    expected = f"what {verdict.oracle} gives, within {VALUE_TOLERANCE:.0e}"
    return SelfTestFailed(f"encoder of {reference.weights[:19]}", found=found, expected=expected, hint=hint)


def load_rows(bundle: Bundle) -> tuple[str, Tensor, Tensor] | None:
    """The oracle's name, its input rows ``[n, d_in]`` and its dense answers ``[n, rows]``; None without them."""
    attested = bundle.attestation("conformance")
    if attested is None:
        return None
    found = read_conformance(attested)
    tensors = load_tensors(bundle.folder / CONFORMANCE_FILE, found.tensors)
    dense = torch.zeros(len(tensors["inputs"]), bundle.manifest.encoder.rows)
    dense[tensors["row"].long(), tensors["index"].long()] = tensors["value"]
    return found.oracle, tensors["inputs"], dense


def full_watch(sheet: EncoderSheet) -> WatchList:
    """Every row of a dictionary, floor 0."""
    return WatchList(rows=tuple(range(sheet.rows)), floors=(0.0,) * sheet.rows)


def _unsettled(encoder: Encoder, bundle: Bundle, x: Tensor) -> Tensor:
    """Pairs ``[n, slots]`` whose limit float32 does not decide."""
    one, sheet = bundle.dictionary, bundle.manifest.encoder
    grey = grey_pairs(x, one.W, one.folded(encoder.mode), sheet, mode=encoder.mode, heads=one.heads)
    return grey[:, encoder.watch_list.rows]


def _kept(encoder: Encoder, x: Tensor) -> Tensor:
    rows = x.to(encoder.device)
    positions, ids = _neutral(encoder, len(x))
    return ~encoder.excluded(rows, positions, ids).cpu()


def _neutral(encoder: Encoder, rows: int) -> tuple[Tensor, Tensor]:
    """Positions and token ids that no rule excludes."""
    positions = torch.full((rows,), 2**31 - 1, dtype=torch.int64, device=encoder.device)
    return positions, torch.full_like(positions, -1)


def _fired(encoder: Encoder, x: Tensor) -> Tensor:
    """Dense values ``[n, slots]`` on the host."""
    at_once = max(1, min(len(x), PAIRS // max(1, encoder.slots)))
    slab = Slab(rows_max=at_once, firings_max=at_once * max(1, encoder.slots), device=encoder.device)
    dense = torch.zeros(len(x), encoder.slots)
    for first in range(0, len(x), at_once):
        part = x[first : first + at_once]
        positions, ids = _neutral(encoder, len(part))
        encoder.encode(part.to(encoder.device), positions=positions, token_ids=ids, slab=slab)
        slab.to_host()
        if encoder.device.type != "cpu":
            torch.cuda.current_stream(encoder.device).synchronize()
        firings = slab.encoded()
        row = torch.from_numpy(firings.row).long() + first
        dense[row, torch.from_numpy(firings.slot).long()] = torch.from_numpy(firings.value)
    return dense
