"""The sink inside a compiled graph: exact rows, every call counted, the buffer written in place, no graph break."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code

from saewatch.engine.sink import Sink, attach

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own code, in its compiler
ROWS, WIDTH = 16, 8


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.manual_seed(0)
    torch._dynamo.reset()  # noqa: SLF001 - the documented way to forget compiled code
    yield
    torch._dynamo.reset()  # noqa: SLF001 - as above


def make_sink(dtype: torch.dtype = torch.float32) -> Sink:
    return Sink(rows=ROWS, width=WIDTH, like=torch.zeros(1, dtype=dtype))


class Block(nn.Module):
    """Returns what vLLM's blocks return: a pair that is not yet added, or one tensor."""

    def __init__(self, *, pair: bool = True) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self._pair = pair

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | torch.Tensor:
        total = hidden + residual
        out = torch.relu(self.linear(total))
        return (out, total) if self._pair else out + total


class Model(nn.Module):
    """Two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = torch.zeros_like(hidden)
        for block in self.blocks:
            hidden, residual = block(hidden, residual)
        logits: torch.Tensor = self.head(hidden + residual)
        return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_the_sum_exactly_and_the_rest_of_the_buffer_stays(dtype: torch.dtype) -> None:
    sink = make_sink(dtype)
    sink.buffer.fill_(7)
    hidden, residual = torch.randn(5, WIDTH).to(dtype), torch.randn(5, WIDTH).to(dtype)
    sink(hidden, residual)
    assert torch.equal(sink.buffer[:5], hidden + residual)
    assert (sink.buffer[5:] == 7).all()
    sink(hidden, None)
    assert torch.equal(sink.buffer[:5], hidden)
    assert int(sink.calls) == 2


@torch.inference_mode()
def test_a_compiled_function_writes_in_place_and_counts_every_call() -> None:
    sink = make_sink()
    address = sink.buffer.data_ptr()

    def forward(hidden: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        sink(hidden * 2, residual)
        return hidden + 1

    compiled = torch.compile(forward, fullgraph=True, backend="aot_eager")  # functionalised, as for every back end
    for call in range(1, 5):
        hidden, residual = torch.randn(6, WIDTH), torch.randn(6, WIDTH) if call % 2 else None
        assert torch.equal(compiled(hidden, residual), hidden + 1)
        assert torch.equal(sink.buffer[:6], hidden * 2 + residual if residual is not None else hidden * 2)
        assert int(sink.calls) == call  # at each call, not at the trace only
    assert sink.buffer.data_ptr() == address


@torch.inference_mode()
def test_the_generated_code_does_not_copy_the_buffer() -> None:
    """A clone of the buffer would cost more than the sink, and the tap would read the wrong one."""
    sink = make_sink()
    compiled = torch.compile(lambda hidden, residual: sink(torch.relu(hidden), residual), fullgraph=True)
    _, (code,) = run_and_get_code(compiled, torch.randn(6, WIDTH), torch.randn(6, WIDTH))
    calls = re.findall(r"torch\.ops\.saewatch\.sink\.default\((.*)\)", code)
    assert len(calls) == 1
    _, _, buffer, counter = (argument.strip() for argument in calls[0].split(","))
    assert re.search(rf"\b{buffer}\b.*= args", code), "the module's own buffer is written"
    assert re.search(rf"\b{counter}\b.*= args", code)
    assert not re.search(rf"{buffer}\.(clone|copy_)|clone\({buffer}|empty\w*\(\({ROWS}, {WIDTH}\)", code)


@torch.inference_mode()
def test_a_hook_that_was_attached_before_compiling_becomes_part_of_the_graph() -> None:
    plain, watched = Model(), Model()
    watched.load_state_dict(plain.state_dict())
    sinks = [make_sink(), make_sink()]
    for block, sink in zip(watched.blocks, sinks, strict=True):
        attach(block, sink)
    compiled = torch.compile(watched, fullgraph=True, dynamic=True, backend="aot_eager")
    for call, rows in enumerate((3, 7, 16, 2), start=1):
        x = torch.randn(rows, WIDTH)
        torch.testing.assert_close(compiled(x), plain(x))
        hidden, residual = x, torch.zeros_like(x)
        for block, sink in zip(plain.blocks, sinks, strict=True):
            hidden, residual = block(hidden, residual)
            torch.testing.assert_close(sink.buffer[:rows], hidden + residual)
            assert int(sink.calls) == call


@torch.inference_mode()
def test_there_is_no_graph_break() -> None:
    model = Model()
    attach(model.blocks[0], make_sink())
    explained = torch._dynamo.explain(model)(torch.randn(4, WIDTH))  # noqa: SLF001 - its documented name
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    assert "saewatch.sink" in explained.graphs[0].code


@torch.inference_mode()
def test_a_block_that_returns_one_tensor() -> None:
    block, sink = Block(pair=False), make_sink()
    attach(block, sink)
    x = torch.randn(4, WIDTH)
    assert torch.equal(sink.buffer[:4], torch.zeros(4, WIDTH))
    out = torch.compile(block, fullgraph=True, backend="aot_eager")(x, x)
    torch.testing.assert_close(sink.buffer[:4], out)


def test_the_sink_hides_from_checkpoints() -> None:
    block = Block()
    before = list(block.state_dict())
    attach(block, make_sink())
    assert list(block.state_dict()) == before
    assert {name for name, _ in block.named_buffers()} == {"saewatch_sink.buffer", "saewatch_sink.calls"}


@pytest.mark.parametrize("with_residual", [True, False])
@pytest.mark.parametrize("rows", [ROWS, 3, 0])
def test_the_operator_is_what_its_schema_says(rows: int, *, with_residual: bool) -> None:
    hidden = torch.randn(rows, WIDTH)
    residual = torch.randn(rows, WIDTH) if with_residual else None
    counter = torch.zeros((), dtype=torch.int64)
    arguments = (hidden, residual, torch.zeros(ROWS, WIDTH), counter)
    result = torch.library.opcheck(torch.ops.saewatch.sink.default, arguments)
    assert set(result.values()) == {"SUCCESS"}


def test_more_rows_than_the_buffer_has_are_refused() -> None:
    with pytest.raises(RuntimeError, match="size"):
        make_sink()(torch.randn(ROWS + 1, WIDTH), None)
