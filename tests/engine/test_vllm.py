"""The vLLM adapter on a stand-in worker: what it refuses at start, what it keys, and that it fails open."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm

from saewatch.core import tapconfig
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
from saewatch.core.records import Beat, RequestEnd, RequestStart, StreamEnd
from saewatch.engine import vllm as adapter
from saewatch.engine.modes import SEAMS, check_seams
from saewatch.engine.ranks import Ranks
from saewatch.engine.runners import V1View
from saewatch.engine.tap import Tap
from saewatch.engine.vllm import VERSIONS, Watch, describe, open_watch
from saewatch.engine.watched import Watched
from tests.engine.standin import (
    BUNDLE,
    MODEL,
    WIDTH,
    Worker,
    a_request,
    a_section,
    a_worker,
    sampled,
    scheduled,
)
from tests.simulate.sidecar import FakeSidecar
from tests.waiting import wait_until


def test_an_engine_without_the_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="saewatch: found nothing"):
        open_watch(a_worker(tmp_path, "none"))


def test_an_unknown_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"saewatch\.watc: found an unknown key, expected one of socket"):
        open_watch(a_worker(tmp_path, a_section(tmp_path, watc=[])))


def test_an_unknown_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    with pytest.raises(UnsupportedVersion, match=r"found 0\.99\.0, expected 0\.32\.0.*on_failure: serve"):
        open_watch(a_worker(tmp_path))


def test_modes_that_were_not_tested_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedMode, match="vllm mode: found sleep mode"):
        open_watch(a_worker(tmp_path, enable_sleep_mode=True))


def test_a_class_of_the_same_name_that_is_not_vllms_is_refused(tmp_path: Path) -> None:
    class LlamaForCausalLM(torch.nn.Module): ...

    with pytest.raises(UnsupportedMode, match="one of vLLM's own"):
        open_watch(a_worker(tmp_path, network=LlamaForCausalLM()))


def test_an_unknown_runner_or_model_is_refused_by_name(tmp_path: Path) -> None:
    class NovelForCausalLM(torch.nn.Module):
        __module__ = "vllm.model_executor.models.novel"

    with pytest.raises(UnsupportedMode, match="model runner: found Novel"):
        open_watch(a_worker(tmp_path, runner=type("NovelRunner", (), {})()))
    with pytest.raises(UnsupportedMode, match="model architecture: found NovelForCausalLM"):
        open_watch(a_worker(tmp_path, network=NovelForCausalLM()))


@pytest.mark.parametrize("method", SEAMS)
def test_a_worker_without_a_method_that_we_use_is_of_an_unsupported_version(method: str) -> None:
    check_seams(Worker, VERSIONS)
    moved = type("Moved", (), {name: getattr(Worker, name) for name in SEAMS if name != method})
    with pytest.raises(UnsupportedVersion, match=rf"found Moved, expected the method {method}, which vLLM 0\.32\.0 "):
        check_seams(moved, VERSIONS)


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
    place = adapter.places_of(a_worker(tmp_path))
    assert place(HookPoint("resid_post", 3)).like.dtype == torch.float32
    with pytest.raises(HookPointError, match=r"found resid_post\.9, expected a layer from 0 to 3"):
        place(HookPoint("resid_post", 9))


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
        open_watch(a_worker(tmp_path, a_section(tmp_path, dictionaries=[{"path": str(copy)}])))


def test_a_missing_dictionary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"bundle\.json"):
        open_watch(a_worker(tmp_path, a_section(tmp_path, dictionaries=[{"path": str(tmp_path)}])))


def test_a_feature_that_the_catalogue_does_not_have_is_refused(tmp_path: Path) -> None:
    uses = [{"path": str(BUNDLE), "watch": ["nothing.p1"]}]
    with pytest.raises(ConfigError, match=r"'nothing\.p1'"):
        open_watch(a_worker(tmp_path, a_section(tmp_path, dictionaries=uses)))


def test_too_small_a_budget_is_refused(tmp_path: Path) -> None:
    uses = [{"path": str(BUNDLE), "census": 1.0}]
    with pytest.raises(ConfigError, match="device_budget_mib"):
        open_watch(a_worker(tmp_path, a_section(tmp_path, dictionaries=uses, device_budget_mib=1)))


def test_serve_on_failure_serves_blind(tmp_path: Path) -> None:
    watch = open_watch(a_worker(tmp_path, a_section(tmp_path, on_failure="serve"), width=256))
    assert isinstance(watch, Watch)
    assert not watch.tap.watched
    watch.prove()
    watch.after_forward(scheduled(new=[a_request("a", 3)]), sampling=True)
    watch.after_sampling(sampled(a=[7]))
    watch.tap.close()
    (books,) = watch.tap.books
    assert books.blind == "misfit_error"
    assert books.missed == {"blind": 3}


def test_serve_on_failure_serves_blind_whatever_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> Tap:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Tap, "open", out_of_memory)
    watch = open_watch(a_worker(tmp_path, a_section(tmp_path, on_failure="serve")))
    assert isinstance(watch, Watch)
    assert [books.blind for books in watch.tap.books] == ["start_fault"]
    with pytest.raises(RuntimeError, match="out of memory"):
        open_watch(a_worker(tmp_path, a_section(tmp_path)))


def test_serve_on_failure_serves_even_with_a_broken_a_section(tmp_path: Path) -> None:
    assert open_watch(a_worker(tmp_path, {"on_failure": "serve", "nonsense": 1})) is None


def opened(tmp_path: Path, *, section: dict[str, Any] | None = None, **changes: Any) -> tuple[Any, Watch]:
    worker = a_worker(tmp_path, a_section(tmp_path, **(section or {})), **changes)
    watch = open_watch(worker)
    assert isinstance(watch, Watch)
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

    step = scheduled(new=[a_request("b", 3), a_request("a", 1)])
    if where == "rows":
        monkeypatch.setattr(V1View, "rows", broken)
    elif where == "facts":
        monkeypatch.setattr(adapter, "facts_of", broken)
    watch.after_forward(step, sampling=True)
    watch.after_sampling(SimpleNamespace() if where == "sampling" else sampled())
    monkeypatch.undo()
    watch.after_forward(scheduled(cached={"b": 3, "a": 1}), sampling=True)
    watch.after_sampling(sampled(b=[1], a=[1]))
    watch.tap.close()
    (books,) = watch.tap.books
    assert books.blind == "fault"


@pytest.mark.parametrize(("where", "room"), [("rows", V1View), ("census", Watched)])
def test_a_fault_that_comes_once_loses_no_facts_of_its_step(
    tmp_path: Path, where: str, room: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that begins in it is counted to its end, and one that ended before it has ended."""

    def broken(*_args: Any) -> Any:
        raise RuntimeError("planted")

    def step(emitted: dict[str, list[int]], **facts: Any) -> None:
        watch.after_forward(scheduled(**facts), sampling=True)
        watch.after_sampling(sampled(**emitted))

    _, watch = opened(tmp_path)
    with FakeSidecar(tmp_path / "s") as sidecar:
        watch.prove()
        wait_until(lambda: sidecar.of(Beat))
        step({"b": [7], "a": [8]}, new=[a_request("b", 3), a_request("a", 8, computed=7)])
        with monkeypatch.context() as once:
            once.setattr(room, where, broken)
            step({"b": [7], "c": [8]}, new=[a_request("c", 3)], finished=["a"], cached={"b": 3})
        for more in range(4):
            step({"b": [7], "c": [8]}, cached={"b": 4 + more, "c": 3 + more})
        step({}, finished=["b", "c"])
        watch.tap.close()
        wait_until(lambda: sidecar.of(StreamEnd))
    names = {one.request: one.engine_id for one in sidecar.of(RequestStart)}
    assert {names[end.request]: end.fed for end in sidecar.of(RequestEnd)} == {"a": 8, "b": 8, "c": 7}
    (books,) = watch.tap.books
    assert (books.blind, books.fed, books.imbalance) == ("fault", 23, 0)
    assert not {"no_slot", "gap"} & set(books.missed)


@pytest.mark.parametrize(
    ("changes", "block"),
    [({}, 16), ({"enable_prefix_caching": False}, 0), ({"kv_transfer_config": SimpleNamespace()}, 0)],
)
def test_the_blocks_that_are_kept_are_those_of_the_prefix_cache(
    tmp_path: Path, changes: dict[str, Any], block: int
) -> None:
    """None where KV comes from elsewhere too: nothing is replayed there."""
    worker = a_worker(tmp_path, **changes)
    assert describe(worker, tapconfig.read(a_section(tmp_path)), Ranks()).block == block
