"""What the screen in int8 admits of a real dictionary on real text: how many pairs are computed for one that fires.

The demo's dictionary reads the demo's model on this repository's own texts, at tokens that the data sheet does not
exclude. Its residual stream has a few dimensions some forty times as large as the median. It is counted, not timed:
``ours`` keeps these dimensions apart, ``together`` does not, and ``stored`` is the screen of W itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import form
from dictionaries.train.capture import Reader
from saewatch.core.hookpoint import parse
from saewatch.engine.dictionary_file import Bundle, load_bundle
from saewatch.engine.kernels import available, full, screen
from saewatch.engine.kernels.operands import Latents, Rows, norms, rows_of
from saewatch.engine.kernels.screen import Quantised

MODEL = form.ROOT / ".demo/SmolLM2-135M-Instruct"
BUNDLE = form.ROOT / "dictionaries/smollm2-135m-it.resid_post.14"
TEXTS = form.ROOT / "dictionaries/train/handwritten.jsonl"
ROWS, QUICK_ROWS = 1024, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreenCell:
    """The one cell of it."""

    name: str = "screen/smollm2-135m-it.resid_post.14"

    @property
    def missing(self) -> str:
        """Why it cannot be run here; empty: it can."""
        if not MODEL.exists():
            return f"no model in {MODEL.relative_to(form.ROOT)}: `make demo` fetches it"
        return "" if available() else "neither a GPU nor Triton's interpreter (TRITON_INTERPRET=1)"


@torch.inference_mode()
def screen_row(cell: ScreenCell, device: torch.device, *, quick: bool) -> dict[str, Any]:
    """Does it miss one, and how many does it admit?"""
    bundle = load_bundle(BUNDLE)
    x = _rows(bundle, QUICK_ROWS if quick else ROWS)
    W, limits = bundle.dictionary.W, bundle.dictionary.limits
    count = bundle.manifest.encoder.latents
    lim, s, c = (torch.from_numpy(one)[:count].to(device) for one in (limits.lim, limits.s, limits.c))
    latents = Latents(W=W[:count].to(device), lim=lim, s=s, c=c, norm=norms(W[:count]).to(device))
    fires = x.double() @ W[:count].double().T > lim.cpu()
    rows, total = rows_of(x.to(device), None), int(fires.sum())
    found = {
        "ours": _admitted(latents, rows, bundle.dictionary.b_dec),
        "together": _admitted(latents, rows, None),
        "stored": _screened(latents, rows),
    }
    missed = sum(int((fires & ~one).sum()) for one in found.values())
    ratios = {name: round(int(one.sum()) / total, 4) for name, one in found.items()}
    return {
        "case": cell.name,
        "tokens": len(x),
        "unit": "pairs computed for one that fires",
        "compared": 3 * fires.numel(),
        "mismatched": missed,
        "in_grey_band": 0,
        "ours": ratios.pop("ours"),
        "peers": ratios,
        "n": len(x),
        "l0": round(total / len(x), 2),
    }


def _rows(bundle: Bundle, count: int) -> Tensor:
    """Residual streams ``[count, d]`` float32."""
    reader = Reader(MODEL, parse(bundle.manifest.hook_point).layer)
    texts = [json.loads(line)["text"] for line in TEXTS.read_text().splitlines()]
    captured = reader.capture([reader.encode(text)[0] for text in texts])
    x = captured.below(bundle.manifest.exclusions.max_norm or torch.inf).x
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]]


def _admitted(latents: Latents, rows: Rows, typical: Tensor | None) -> Tensor:
    quantised = Quantised.sized(len(latents), latents.W.shape[1], latents.W.device)
    quantised.load(latents.W, typical)
    found = []
    for first in range(0, len(rows), screen.ROWS):
        part = rows_of(rows.exact[first : first + screen.ROWS], None)
        bits = _bits(latents, part)
        screen.admitted(quantised, latents, part, bits)
        found.append(_unpacked(bits, len(latents)))
    return torch.cat(found)


def _screened(latents: Latents, rows: Rows) -> Tensor:
    bits = _bits(latents, rows)
    full.admitted(latents, rows, bits)
    return _unpacked(bits, len(latents))


def _bits(latents: Latents, rows: Rows) -> Tensor:
    return rows.is_open.new_empty(len(rows), -(-len(latents) // full.TILE) * full.TILE // 32)


def _unpacked(bits: Tensor, latents: int) -> Tensor:
    places = torch.arange(32, device=bits.device)
    return ((bits[:, :, None] >> places) & 1).flatten(1)[:, :latents].bool().cpu()
