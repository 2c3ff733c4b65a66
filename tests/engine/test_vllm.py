"""The vLLM adapter on a stand-in worker: what it refuses at start, what it reads of a step, and that it fails open."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import vllm
from torch import nn

from saewatch.core.errors import (
    ConfigError,
    HookPointError,
    ManifestError,
    MisfitError,
    SelfTestFailed,
    TensorFileError,
    UnsupportedMode,
    UnsupportedVersion,
)
from saewatch.core.hookpoint import HookPoint
from saewatch.engine import vllm as adapter
from saewatch.engine.tap import Tap
from saewatch.engine.vllm import RunnerView, V1View, Watch, facts_of, new_request, open_watch
from tests.engine.standin import BUNDLE, MODEL, WIDTH, Block


class Model(nn.Module):
    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.model = nn.Module()
        self.blocks = [Block() for _ in range(layers)]
        self.model.layers = nn.ModuleList(self.blocks)


class Runner:
    """What V1View reads, two requests of 3 and 1 rows."""

    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_ids=["b", "a", "gone"], num_reqs=2)
        self.query_start_loc = SimpleNamespace(np=np.array([0, 3, 4, 9], np.int32))
        self.positions = torch.tensor([0, 1, 2, 7, 99])
        self.input_ids = SimpleNamespace(gpu=torch.tensor([5, 6, 7, 8, 99]))


def a_worker(tmp_path: Path, section: Any = None, **changes: Any) -> Any:
    """A stand-in with the attributes that the adapter reads."""
    if section is None:
        section = {"socket": str(tmp_path / "s"), "dictionaries": [{"path": str(BUNDLE)}]}
    model = SimpleNamespace(
        model=str(MODEL),
        served_model_name=["fixture"],
        architectures=["LlamaForCausalLM"],
        get_hidden_size=lambda: changes.get("width", WIDTH),
        hf_text_config=SimpleNamespace(num_hidden_layers=4),
        quantization=None,
        runner_type=changes.get("runner_type", "generate"),
        is_encoder_decoder=changes.get("is_encoder_decoder", False),
        is_multimodal_model=changes.get("is_multimodal_model", False),
        enable_prompt_embeds=changes.get("enable_prompt_embeds", False),
    )
    model.architectures = [changes.get("architecture", "LlamaForCausalLM")]
    parallel = SimpleNamespace(
        tensor_parallel_size=changes.get("tensor_parallel_size", 1),
        pipeline_parallel_size=changes.get("pipeline_parallel_size", 1),
        data_parallel_size=changes.get("data_parallel_size", 1),
        enable_dbo=changes.get("enable_dbo", False),
    )
    scheduler = SimpleNamespace(
        max_num_batched_tokens=64, max_num_seqs=8, async_scheduling=changes.get("async_scheduling", False)
    )
    config = SimpleNamespace(
        additional_config={"saewatch": section} if section != "none" else {},
        model_config=model,
        parallel_config=parallel,
        scheduler_config=scheduler,
        speculative_config=changes.get("speculative_config"),
    )
    network = Model()
    return SimpleNamespace(
        vllm_config=config,
        model_config=model,
        model_runner=changes.get("runner", Runner()),
        get_model=lambda: network,
        network=network,
        execute_dummy_batch=lambda: network.blocks[2](torch.ones(1, WIDTH)),
    )


def section(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {"socket": str(tmp_path / "s"), "dictionaries": [{"path": str(BUNDLE)}], **changes}


def test_an_engine_without_the_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="saewatch: found nothing"):
        open_watch(a_worker(tmp_path, "none"))


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"saewatch\.watc: found an unknown key, expected one of socket"):
        open_watch(a_worker(tmp_path, section(tmp_path, watc=[])))


def test_an_unknown_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    with pytest.raises(UnsupportedVersion, match=r"found 0\.99\.0, expected 0\.32\.0.*on_failure: serve"):
        open_watch(a_worker(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tensor_parallel_size": 2}, "tensor parallelism"),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"data_parallel_size": 2}, "data parallelism"),
        ({"enable_dbo": True}, "DBO"),
        ({"speculative_config": object()}, "speculative decoding"),
        ({"async_scheduling": True}, "asynchronous scheduling"),
        ({"runner_type": "pooling"}, "pooling"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"is_multimodal_model": True}, "multimodal"),
        ({"enable_prompt_embeds": True}, "prompt embeddings"),
        ({"architecture": "NovelForCausalLM"}, "NovelForCausalLM"),
        ({"runner": object()}, "model runner"),
    ],
)
def test_an_untested_mode_is_refused_by_name(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsupportedMode, match=says):
        open_watch(a_worker(tmp_path, **change))


def test_a_dictionary_of_another_width_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisfitError, match="found 128, expected 256"):
        open_watch(a_worker(tmp_path, width=256))


def test_a_dictionary_of_another_model_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(data)
    worker = a_worker(tmp_path)
    worker.model_config.model = str(other)
    with pytest.raises(MisfitError, match="model weights"):
        open_watch(worker)


def test_a_hook_point_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    worker = a_worker(tmp_path)
    blocks = adapter.Blocks(worker)
    with pytest.raises(HookPointError, match=r"found resid_post\.9, expected a layer from 0 to 3"):
        blocks(HookPoint("resid_post", 9))
    with pytest.raises(HookPointError, match="found mlp_out"):
        blocks(HookPoint("mlp_out", 1))


def a_copy(tmp_path: Path) -> Path:
    copy = tmp_path / "bundle"
    shutil.copytree(BUNDLE, copy)
    return copy


def test_a_corrupt_dictionary_is_refused(tmp_path: Path) -> None:
    copy = a_copy(tmp_path)
    file = copy / "encoder.safetensors"
    file.chmod(0o644)
    data = bytearray(file.read_bytes())
    data[-3] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(TensorFileError, match=r"encoder\.safetensors"):
        open_watch(a_worker(tmp_path, section(tmp_path, dictionaries=[{"path": str(copy)}])))


def test_a_missing_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"bundle\.json"):
        open_watch(a_worker(tmp_path, section(tmp_path, dictionaries=[{"path": str(tmp_path)}])))


def test_a_feature_that_the_catalogue_does_not_have_is_refused(tmp_path: Path) -> None:
    uses = [{"path": str(BUNDLE), "watch": ["nothing.p1"]}]
    with pytest.raises(ConfigError, match=r"'nothing\.p1'"):
        open_watch(a_worker(tmp_path, section(tmp_path, dictionaries=uses)))


def test_too_small_a_budget_is_refused(tmp_path: Path) -> None:
    uses = [{"path": str(BUNDLE), "census": 1.0}]
    with pytest.raises(ConfigError, match="device_budget_mib"):
        open_watch(a_worker(tmp_path, section(tmp_path, dictionaries=uses, device_budget_mib=1)))


def test_serve_on_failure_serves_blind(tmp_path: Path) -> None:
    watch = open_watch(a_worker(tmp_path, section(tmp_path, on_failure="serve"), width=256))
    assert watch is not None
    assert not watch.tap.watched
    watch.prove()
    watch.after_forward(a_step(new=[a_request("a", 3)]), sampling=True)
    watch.after_sampling(SimpleNamespace(sampled_token_ids=[[7]], req_id_to_index={"a": 0}))
    watch.tap.close()
    (books,) = watch.tap.books
    assert books.blind == "misfit_error"
    assert books.missed == {"blind": 3}


def test_serve_on_failure_serves_blind_whatever_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> Tap:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Tap, "open", out_of_memory)
    watch = open_watch(a_worker(tmp_path, section(tmp_path, on_failure="serve")))
    assert watch is not None
    assert [books.blind for books in watch.tap.books] == ["start_fault"]
    with pytest.raises(RuntimeError, match="out of memory"):
        open_watch(a_worker(tmp_path, section(tmp_path)))


def test_serve_on_failure_serves_even_with_a_broken_section(tmp_path: Path) -> None:
    assert open_watch(a_worker(tmp_path, {"on_failure": "serve", "nonsense": 1})) is None


def a_request(name: str, prompt: int, computed: int = 0, **sampling: Any) -> Any:
    settings = SimpleNamespace(
        stop_token_ids=sampling.get("stop", [2]),
        eos_token_id=sampling.get("eos", 9),
        max_tokens=sampling.get("max_tokens", 16),
    )
    return SimpleNamespace(
        req_id=name, prompt_len=prompt, num_computed_tokens=computed, sampling_params=settings, lora_request=None
    )


def a_step(new: Any = (), cached: dict[str, int] | None = None, finished: Any = (), resumed: Any = ()) -> Any:
    before = cached or {}
    scheduled = {request.req_id: request.prompt_len - request.num_computed_tokens for request in new}
    scheduled |= dict.fromkeys(before, 1)
    return SimpleNamespace(
        scheduled_new_reqs=list(new),
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(before), num_computed_tokens=list(before.values()), resumed_req_ids=set(resumed)
        ),
        num_scheduled_tokens=scheduled,
        total_num_scheduled_tokens=sum(scheduled.values()),
        finished_req_ids=set(finished),
    )


@pytest.mark.parametrize(("name", "child"), [("3_cmpl-1", 3), ("cmpl-1", 0), ("9" * 20 + "_0", 0), ("9" * 5000, 0)])
def test_which_answer_of_several_a_name_says(name: str, child: int) -> None:
    assert new_request(a_request(name, 4), 0).child == child


def test_a_step_in_the_ledgers_words() -> None:
    step = a_step(new=[a_request("a", 5, 2)], cached={"b": 7, "c": 3}, finished=["d"], resumed=["c"])
    facts = facts_of(step)
    assert facts["computed"] == {"a": 5, "b": 8, "c": 4}
    assert facts["finished"] == ("d",)
    assert [(item.engine_id, item.computed) for item in facts["new"]] == [("a", 2), ("c", 3)]


def test_a_request_in_the_ledgers_words() -> None:
    found = new_request(a_request("2_cmpl-x", 5, stop=[3], eos=None, max_tokens=4), 11)
    assert (found.child, found.stop_tokens, found.max_tokens, found.prompt_len) == (2, frozenset({3}), 4, 5)


def test_rows_come_in_the_runners_order() -> None:
    rows = V1View(Runner()).rows()
    assert list(rows.order) == ["b", "a"]
    assert rows.starts.tolist() == [0, 3, 4]
    assert rows.positions.tolist() == [0, 1, 2, 7]
    assert rows.tokens.tolist() == [5, 6, 7, 8]


def opened(tmp_path: Path) -> tuple[Any, Watch]:
    worker = a_worker(tmp_path)
    watch = open_watch(worker)
    assert watch is not None
    return worker, watch


def test_an_eager_engine_is_proved_by_a_dummy_batch(tmp_path: Path) -> None:
    _, watch = opened(tmp_path)
    watch.prove()
    assert watch.tap.fired
    watch.tap.close()


def test_a_sink_that_never_fired_stops_the_engine(tmp_path: Path) -> None:
    worker, watch = opened(tmp_path)
    worker.execute_dummy_batch = lambda: None
    with pytest.raises(SelfTestFailed, match="found no call"):
        watch.prove()


def test_garbage_from_the_warm_up_does_not_stop_the_engine(tmp_path: Path) -> None:
    """Its attention reads memory that nobody has written."""
    worker, watch = opened(tmp_path)
    worker.execute_dummy_batch = lambda: worker.network.blocks[2](torch.full((1, WIDTH), torch.nan))
    watch.prove()
    (watched,) = watch.tap.watched
    assert torch.isnan(watched.sink.buffer).all(), "a row that no pass writes must not look like one"
    watch.tap.close()


def test_a_sink_that_writes_something_else_stops_the_engine(tmp_path: Path) -> None:
    _, watch = opened(tmp_path)
    (watched,) = watch.tap.watched
    watched.sink.forward = lambda hidden, residual: watched.sink.buffer[:2].copy_(hidden)  # type: ignore[method-assign, assignment]  # planted
    watched.sink.calls.add_(1)
    with pytest.raises(SelfTestFailed, match="other rows in its buffer"):
        watch.prove()


def an_encoder_that_lies(watch: Watch) -> None:
    (watched,) = watch.tap.watched
    watched.encoder._W.neg_()  # noqa: SLF001 - a fault that no public door can make


def test_an_encoder_that_disagrees_with_its_reference_stops_the_engine(tmp_path: Path) -> None:
    _, watch = opened(tmp_path)
    an_encoder_that_lies(watch)
    with pytest.raises(SelfTestFailed):
        watch.prove()


@pytest.mark.parametrize("where", ["rows", "sampling", "facts"])
def test_after_start_a_fault_of_the_tap_never_reaches_the_engine(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, watch = opened(tmp_path)
    watch.prove()

    def broken(*_args: Any) -> Any:
        raise RuntimeError("planted")

    step = a_step(new=[a_request("b", 3), a_request("a", 1)])
    if where == "rows":
        monkeypatch.setattr(V1View, "rows", broken)
    elif where == "facts":
        monkeypatch.setattr(adapter, "facts_of", broken)
    watch.after_forward(step, sampling=True)
    watch.after_sampling(None if where == "sampling" else SimpleNamespace(sampled_token_ids=[], req_id_to_index={}))
    monkeypatch.undo()
    watch.after_forward(a_step(cached={"b": 3, "a": 1}), sampling=True)
    watch.after_sampling(SimpleNamespace(sampled_token_ids=[[1], [1]], req_id_to_index={"b": 0, "a": 1}))
    watch.tap.close()
    (books,) = watch.tap.books
    assert books.blind == "fault"


def test_every_view_says_what_it_fits() -> None:
    views: list[type[RunnerView]] = list(adapter.VIEWS)
    fits: list[Callable[[Any], bool]] = [view.fits for view in views]
    assert not any(fit(object()) for fit in fits)
    assert V1View.fits(Runner())
