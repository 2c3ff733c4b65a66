"""What is launched on a GPU is what the compile gate compiled, and what was compiled when the engine started.

Triton compiles a kernel anew for each set of types, of arguments that are multiples of 16, and of arguments that are 1.
Here nothing runs: each launch is bound as Triton would bind it, and compared with its row of the table. So the
programs are checked that the interpreter does not have: types of pointers, alignment, and numbers of rows.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.jit import create_function_from_signature

from saewatch.core.catalogue import WatchList
from saewatch.core.manifest import InputNorm
from saewatch.engine.encoder import Encoder, inside_of, launch_of
from saewatch.engine.kernels import inside, table
from saewatch.engine.kernels import launch as launching
from saewatch.engine.kernels.group import Work
from saewatch.engine.kernels.variant import Variant
from saewatch.engine.slab import Slab
from saewatch.engine.whole import Given, Whole
from tests import made

BACKEND = make_backend(GPUTarget("cuda", 90, 32))
ROWS = (1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 127, 128, 129, 130, 500, 1000, 1024)
D_IN = 64
ROOMS = ("full", "screen", "pack", "settle", "pick", "window", "fused", "decode")


def bound(variant: Variant, *args: Any, **arguments: Any) -> dict[str, tuple[str, Any]]:
    """Type and specialisation of each argument, as Triton's launcher finds them."""
    kernel = variant.kernel
    binder = create_function_from_signature(kernel.signature, kernel.params, BACKEND)
    _, found, _ = binder(*args, **arguments, **variant.constexprs)
    return dict(zip(kernel.arg_names, found, strict=True))


def gated(variant: Variant) -> dict[str, tuple[str, Any]]:
    """The same as the gate compiles it."""
    return {name: (kind, "D" if name in variant.aligned else None) for name, kind in variant.signature.items()}


class Seen:
    """Launches that were bound."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, variant: Variant, _grid: tuple[int, ...], *args: Any, **arguments: Any) -> None:
        arguments.pop("warm", None)
        args = tuple(args[0]) if args else ()
        found, expected = bound(variant, *args, **arguments), gated(variant)
        for name, (kind, special) in found.items():
            if expected[name][0] != "constexpr":
                kept = special if isinstance(special, str) and special else None
                assert (kind.replace(" ", ""), kept) == (expected[name][0].replace(" ", ""), expected[name][1]), (
                    f"{variant.name}: {name}"
                )
        self.names.add(variant.name)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found = Seen()
    for room in ROOMS:
        monkeypatch.setattr(importlib.import_module(f"saewatch.engine.kernels.{room}"), "launch", found)
    monkeypatch.setattr(launching, "start", found)
    monkeypatch.setattr(inside, "start", found)
    return found


KINDS: Mapping[str, tuple[str, int | None, InputNorm]] = {
    "jumprelu": ("jumprelu", None, InputNorm()),
    "topk": ("topk", 10, InputNorm()),
    "centred": ("relu", None, InputNorm(kind="layer_norm", eps=1e-5)),
}


def whole_of(kind: str, dtype: torch.dtype, *, int8: bool) -> Whole:
    activation, k, norm = KINDS[kind]
    one = made.dictionary(activation, latents=331, d_in=D_IN, k=k, norm=norm, dtype=dtype)
    assert one.W_dec is not None
    one, sheet = replace(one, W_dec=one.W_dec.to(dtype)), one.manifest.encoder
    whole = Whole(rows=sheet.rows, d_in=D_IN, dtype=dtype, d_out=D_IN, int8=int8, fused=True)
    whole.load(one, "exact")
    return whole


@pytest.mark.parametrize("fused", [(), ((129, 1),)], ids=["windows", "fused"])
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("stored", "hooked"),
    [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.bfloat16), (torch.float16, torch.bfloat16)],
)
def test_the_whole_dictionary(
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    stored: torch.dtype,
    hooked: torch.dtype,
    kind: str,
    *,
    int8: bool,
    fused: tuple[tuple[int, int], ...],
) -> None:
    monkeypatch.setattr(table, "FUSED", fused)
    whole = whole_of(kind, stored, int8=int8)
    whole.compile(hooked)
    at_start = set(seen.names)
    assert at_start
    for rows in ROWS:
        x = torch.zeros(rows, D_IN)
        dtype = torch.float32 if kind == "centred" else hooked
        code = whole.code(x, None, Given(kept=torch.ones(rows, dtype=torch.bool), dtype=dtype))
        assert code is not None
        code.count.zero_()
        whole.decoded(code)
    assert seen.names == at_start, "no step waits for a compiler"


@pytest.mark.parametrize("kind", ["jumprelu", "centred"])
@pytest.mark.parametrize(("stored", "hooked"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float16)])
def test_watched_rows(seen: Seen, stored: torch.dtype, hooked: torch.dtype, kind: str) -> None:
    activation, _, norm = KINDS[kind]
    one = made.dictionary(activation, latents=331, d_in=D_IN, norm=norm, dtype=stored)
    encoder = Encoder(rows_max=2048, d_in=D_IN, slots_max=37, dtype=stored, fused=True, fixed=True)
    encoder.load(one, WatchList(rows=tuple(range(35)), floors=(0.0,) * 35))
    encoder.compile(hooked)
    at_start = set(seen.names)
    assert at_start
    slab = Slab(rows_max=2048, firings_max=4096)
    launch = launch_of([encoder.group(torch.zeros(2048, D_IN, dtype=hooked), slab)], Work(torch.device("cpu")))
    for rows in (*ROWS, 2000):
        launch.run(rows, *torch.zeros(2, rows, dtype=torch.int64))
    assert seen.names == at_start


@pytest.mark.parametrize("kind", ["jumprelu", "centred"])
def test_inside_the_graph(seen: Seen, kind: str) -> None:
    activation, _, norm = KINDS[kind]
    one = made.dictionary(activation, latents=331, d_in=D_IN, norm=norm, dtype=torch.bfloat16)
    encoder = Encoder(rows_max=512, d_in=D_IN, slots_max=37, dtype=torch.bfloat16, fused=True, fixed=True)
    encoder.load(one, WatchList(rows=tuple(range(35)), floors=(0.0,) * 35))
    slab = Slab(rows_max=512, firings_max=1024)
    kernels = inside_of([encoder.group(torch.zeros(512, D_IN, dtype=torch.bfloat16), slab)])
    kernels.compile()
    at_start, packs = set(seen.names), kernels.packs([slab])
    assert at_start
    for rows in ROWS[:-2]:
        kernels.fire(rows)
        kernels.pack(packs, rows, *torch.zeros(2, rows, dtype=torch.int64))
    assert seen.names == at_start


def test_what_is_compiled_at_start_is_loaded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton loads a program on the device when it is first launched, which a step would wait for."""
    loaded: list[tuple[Any, ...]] = []

    class Compiled:
        def __init__(self, *arguments: Any) -> None:
            self._arguments = arguments

        @property
        def run(self) -> None:
            loaded.append(self._arguments)

    class Kernel:
        def warmup(self, *arguments: Any, grid: tuple[int, int], **_: Any) -> Compiled:
            return Compiled(*arguments, grid)

    launching.start(replace(table.VARIANTS[0], kernel=Kernel()), (3, 1), (1, 2), warm=True)
    assert loaded == [(1, 2, (3, 1))]
