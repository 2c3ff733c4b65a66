"""What has no place in the graph is refused, and the operator stays in a compiled graph; `kernels/` shows the rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from saewatch.core.catalogue import WatchList
from saewatch.core.errors import ConfigError, MisfitError, SelfTestFailed
from saewatch.core.manifest import InputNorm
from saewatch.engine import inside
from saewatch.engine.encoder import Encoder
from saewatch.engine.inside import Graphed
from saewatch.engine.sink import Sink, Site
from saewatch.engine.tap import Tap
from tests import made
from tests.engine.standin import Blocks, a_config, an_engine

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own code, in its compiler


class Counting:
    """Kernels of a buffer that count what they are asked for."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def fire(self, rows: int) -> None:
        self.rows.append(rows)


class Model(nn.Module):
    """A sink between two layers."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.one, self.other, self.sink = nn.Linear(8, 8), nn.Linear(8, 8), sink

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        self.sink(x, None)
        out: Tensor = self.other(x)
        return out


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()  # noqa: SLF001 - the documented way to forget compiled code
    yield
    torch._dynamo.reset()  # noqa: SLF001 - as above


@pytest.mark.parametrize("compiled", [False, True])
def test_every_pass_multiplies_the_sinks_rows(monkeypatch: pytest.MonkeyPatch, *, compiled: bool) -> None:
    sink, kernels = Sink(rows=16, width=8, like=torch.zeros(1)), Counting()
    sink.multiply()
    monkeypatch.setitem(inside._BY_BUFFER, sink.buffer.data_ptr(), kernels)  # noqa: SLF001 - whoever is asked
    model = Model(sink)
    run = torch.compile(model, fullgraph=True) if compiled else model
    with torch.inference_mode():
        for rows in (5, 3):
            run(torch.ones(rows, 8))
    assert kernels.rows == [5, 3]
    assert (int(sink.calls), int(sink.fired if sink.fired is not None else -1)) == (2, 2)


def test_a_buffer_that_nobody_knows_is_not_counted() -> None:
    sink = Sink(rows=4, width=8, like=torch.zeros(1))
    sink.multiply()
    sink(torch.ones(2, 8), None)
    assert int(sink.calls) == 1
    assert not sink.fired


def test_what_is_in_the_graph_is_in_its_key() -> None:
    sink = Sink(rows=4, width=8, like=torch.zeros(1))
    site = Site("", "output", "sum")
    before = sink.key(site)
    sink.multiply()
    assert before == [str(site), 4, 8]
    assert sink.key(site) == [*before, "multiplied"]


def test_an_engine_without_the_kernels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"saewatch\.placement: found graph with a device without the kernels"):
        Tap.open(a_config(tmp_path, placement="graph"), an_engine(), Blocks())


def test_no_product_in_the_graph_is_no_proof() -> None:
    graphed = object.__new__(Graphed)
    sink = Sink(rows=4, width=8, like=torch.zeros(1))
    graphed._at = {sink: [0]}  # its kernels need Triton
    with pytest.raises(SelfTestFailed, match="no product in the graph"):
        graphed.prove()


def an_encoder(slots: int, dtype: torch.dtype = torch.float32, *, norm: str = "none", fused: bool = True) -> Encoder:
    one = made.dictionary("jumprelu", dtype=dtype, norm=InputNorm(kind=norm))
    encoder = Encoder(rows_max=4, d_in=made.D_IN, slots_max=slots, fused=fused, fixed=True, dtype=dtype)
    encoder.load(one, WatchList(rows=tuple(range(slots)), floors=(0.0,) * slots))
    return encoder


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (an_encoder(6), "found 6 slots, expected at most 5"),
        (an_encoder(3, torch.bfloat16), "dictionary.type"),
        (an_encoder(3, norm="constant_norm_rescale"), "dictionary.input_norm"),
        (an_encoder(3, fused=False), "dictionary.kernels"),
    ],
)
def test_what_the_graphs_buffers_do_not_hold_is_refused(other: Encoder, why: str) -> None:
    first = an_encoder(5)
    first.check_follows(an_encoder(3))
    with pytest.raises(MisfitError, match=why):
        first.check_follows(other)


def test_an_encoder_follows_another_in_its_own_buffers() -> None:
    first, other = an_encoder(5), an_encoder(3)
    one = made.dictionary("jumprelu", seed=4)
    rules = replace(one.manifest.exclusions, special=(9,), exclude_first=2)
    other.load(replace(one, manifest=replace(one.manifest, exclusions=rules)), other.watch_list)
    addresses = [tensor.data_ptr() for tensor in first._read()]  # noqa: SLF001 - those that a graph would hold
    first.follow(other)
    assert [tensor.data_ptr() for tensor in first._read()] == addresses  # noqa: SLF001 - as above
    for here, there in zip(first._read(), other._read(), strict=True):  # noqa: SLF001 - as above
        assert torch.equal(here[: len(there)], there)
    assert torch.isinf(first._lim[3:]).all(), "slots that are left fire nothing"  # noqa: SLF001 - as above
