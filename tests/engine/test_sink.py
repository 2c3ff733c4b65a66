"""The sink inside a compiled graph: exact rows, every call counted, the buffer written in place, no graph break."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.utils import run_and_get_code

from saewatch.engine.sink import Place, Sink, Site, attach

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


class Norm(nn.Module):
    """One tensor for one, and for two their sum as well."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        return torch.tanh(x) if residual is None else (torch.tanh(x + residual), x + residual)


class Attention(nn.Module):
    """Is called by name, and takes something else first."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, positions: Tensor, hidden_states: Tensor) -> Tensor:
        out: Tensor = self.linear(hidden_states) + positions[..., None]
        return out


class Projection(nn.Linear):
    """Returns its bias beside its output, as vLLM's linear layers do."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as theirs
        return super().forward(x), self.bias


class Block(nn.Module):
    """vLLM's usual block: it returns the hidden states and the residual, not yet added."""

    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = Attention(), Projection(WIDTH, WIDTH)

    def forward(self, positions: Tensor, hidden_states: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if residual is None:
            hidden, residual = self.input_layernorm(hidden_states), hidden_states
        else:
            hidden, residual = self.input_layernorm(hidden_states, residual)
        hidden = self.self_attn(positions=positions, hidden_states=hidden)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        assert residual is not None
        return self.mlp(hidden)[0], residual


class Model(nn.Module):
    """Two blocks, called as ``by_name`` says, and a head."""

    def __init__(self, *, by_name: bool = False) -> None:
        super().__init__()
        self.each = [Block(), Block()]
        self.blocks = nn.ModuleList(self.each)
        self.head = nn.Linear(WIDTH, 3)
        self._by_name = by_name

    def forward(self, hidden: Tensor) -> Tensor:
        residual: Tensor = None  # type: ignore[assignment]  # as vLLM calls its first block
        positions = torch.arange(hidden.shape[-2], dtype=hidden.dtype)
        for block in self.blocks:
            if self._by_name:
                hidden, residual = block(positions=positions, residual=residual, hidden_states=hidden)
            else:
                hidden, residual = block(positions, hidden, residual)
        logits: Tensor = self.head(hidden + residual)
        return logits


SITES: Mapping[str, Site] = {
    "resid_pre": Site("", "input", "sum"),
    "block_hidden": Site("", "input"),
    "attn_in": Site("self_attn", "input"),
    "attn_out": Site("self_attn", "output"),
    "resid_mid": Site("post_attention_layernorm", "output", "second"),
    "mlp_in": Site("mlp", "input"),
    "mlp_out": Site("mlp", "output"),
    "resid_hidden": Site("", "output", "first"),
    "resid_post": Site("", "output", "sum"),
}


def by_hand(model: Model, hidden: Tensor) -> list[dict[str, Tensor]]:
    """What each site of each block holds, from the blocks' arithmetic and not from their modules' calls."""
    found, stream, positions = [], hidden, torch.arange(hidden.shape[-2], dtype=hidden.dtype)
    for block in model.each:
        attn_in = torch.tanh(stream)
        attn_out = block.self_attn.linear(attn_in) + positions[..., None]
        mid = stream + attn_out
        mlp_in = torch.tanh(mid)
        mlp_out = nn.functional.linear(mlp_in, block.mlp.weight, block.mlp.bias)
        found.append({"resid_pre": stream, "block_hidden": hidden, "attn_in": attn_in, "attn_out": attn_out})
        found[-1] |= {"resid_mid": mid, "mlp_in": mlp_in, "mlp_out": mlp_out}
        found[-1] |= {"resid_hidden": mlp_out, "resid_post": mid + mlp_out}
        hidden, stream = mlp_out, mid + mlp_out
    return found


def watch(model: Model, *names: str) -> dict[tuple[int, str], Sink]:
    """A sink on each named site of each block."""
    sinks = {}
    for index, block in enumerate(model.blocks):
        for name in names:
            sinks[index, name] = make_sink()
            attach(Place(block, SITES[name], torch.zeros(0)), sinks[index, name], f"saewatch_{name}")
    return sinks


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


def test_a_batch_of_one_counts_as_its_rows() -> None:
    sink = make_sink()
    hidden, residual = torch.randn(1, 5, WIDTH), torch.randn(1, 5, WIDTH)
    sink(hidden, residual)
    assert torch.equal(sink.buffer[:5], (hidden + residual)[0])
    sink(hidden, None)
    assert torch.equal(sink.buffer[:6], torch.cat([hidden[0], torch.zeros(1, WIDTH)]))


@torch.inference_mode()
def test_a_compiled_function_writes_in_place_and_counts_every_call() -> None:
    sink = make_sink()
    address = sink.buffer.data_ptr()

    def forward(hidden: Tensor, residual: Tensor | None) -> Tensor:
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


def check_sinks(model: Model, sinks: Mapping[tuple[int, str], Sink], hidden: Tensor, *, call: int) -> None:
    expected, rows = by_hand(model, hidden), hidden.shape[-2]
    for (index, name), sink in sinks.items():
        found = expected[index][name].reshape(rows, WIDTH)
        assert torch.allclose(sink.buffer[:rows], found, rtol=1e-5, atol=1e-6), f"{name}.{index}"
        assert int(sink.calls) == call, f"{name}.{index}"


@pytest.mark.parametrize("by_name", [False, True])
@torch.inference_mode()
def test_every_site_becomes_part_of_the_graph(*, by_name: bool) -> None:
    """Attached before the first compilation; the residual of the first block is None."""
    plain, model = Model(), Model(by_name=by_name)
    model.load_state_dict(plain.state_dict())
    sinks = watch(model, *SITES)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for call, rows in enumerate((3, 7, 16, 2), start=1):
        x = torch.randn(rows, WIDTH)
        torch.testing.assert_close(compiled(x), plain(x))
        check_sinks(model, sinks, x, call=call)


@torch.inference_mode()
def test_every_site_takes_a_batch_of_one() -> None:
    model = Model()
    sinks = watch(model, *SITES)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for call in (1, 2):
        x = torch.randn(1, 5, WIDTH)
        compiled(x)
        check_sinks(model, sinks, x, call=call)


@pytest.mark.parametrize("name", SITES)
@torch.inference_mode()
def test_there_is_no_graph_break(name: str) -> None:
    model = Model()
    watch(model, name)
    explained = torch._dynamo.explain(model)(torch.randn(4, WIDTH))  # noqa: SLF001 - its documented name
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    assert explained.graphs[0].code.count("saewatch.sink") == 2, "one a block"


class OneTensor(nn.Module):
    """A block that passes on one tensor, and is called with one."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        return torch.relu(hidden_states)


@torch.inference_mode()
def test_a_block_that_passes_on_one_tensor() -> None:
    block, before, after = OneTensor(), make_sink(), make_sink()
    attach(Place(block, SITES["resid_pre"], torch.zeros(0)), before, "before")
    attach(Place(block, SITES["resid_post"], torch.zeros(0)), after, "after")
    x = torch.randn(4, WIDTH)
    out = torch.compile(block, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(before.buffer[:4], x)
    assert torch.equal(after.buffer[:4], out)
    assert not torch.equal(x, out)


def test_the_sink_hides_from_checkpoints() -> None:
    block = Block()
    before = list(block.state_dict())
    attach(Place(block, SITES["mlp_out"], torch.zeros(0)), make_sink())
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


def test_somebodys_wrapper_in_place_of_forward_does_not_hide_its_arguments() -> None:
    """As vLLM's offloading leaves one."""
    block, sink = Block(), make_sink()
    forward = block.forward

    def wrapped(*args: Any, **named: Any) -> Any:
        return forward(*args, **named)

    block.forward = wrapped  # type: ignore[method-assign]  # as the wrapper does
    attach(Place(block, Site("", "input", "sum"), torch.zeros(1)), sink)
    hidden, residual = torch.randn(3, WIDTH), torch.randn(3, WIDTH)
    block(torch.arange(3), hidden, residual)
    torch.testing.assert_close(sink.buffer[:3], hidden + residual)
