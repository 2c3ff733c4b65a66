"""The key of vLLM's compile cache: what the tap adds to the graph, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from vllm.config import VllmConfig

from saewatch.core.errors import (
    MisfitError,
)
from saewatch.engine.vllm import GRAPH_VERSION, Watch, open_watch
from tests.engine.standin import (
    BUNDLE,
    WIDTH,
    a_section,
    a_worker,
    another_bundle,
)


def key_of(tmp_path: Path, *bundles: Path, **settings: Any) -> tuple[dict[str, Any], str]:
    """What the adapter leaves in the additional configuration, and vLLM's own key of it."""
    worker = a_worker(tmp_path, a_section(tmp_path, *bundles, **settings))
    worker.vllm_config.additional_config["theirs"] = {"kept": 1}
    watch = open_watch(worker)
    assert isinstance(watch, Watch)
    watch.tap.close()
    left = worker.vllm_config.additional_config
    assert left.pop("theirs") == {"kept": 1}
    return left, VllmConfig(additional_config=left).compute_hash()


def test_the_key_holds_what_the_tap_adds_to_the_graph_and_nothing_else(tmp_path: Path) -> None:
    sinks: list[Any] = [("resid_post.2", ["sum output of the block", 64, WIDTH])]
    left, _ = key_of(tmp_path, queue_bytes=2**20, instance="one")
    assert left == {"saewatch": {"graph_version": GRAPH_VERSION, "sinks": sinks}}
    other = another_bundle(tmp_path / "other", "mlp_out.0")
    left, _ = key_of(tmp_path, BUNDLE, BUNDLE, other)
    assert left["saewatch"]["sinks"] == [("mlp_out.0", ["first output of mlp", 64, WIDTH]), *sinks]


def test_another_dictionary_on_the_same_hook_point_has_the_same_key(tmp_path: Path) -> None:
    same = another_bundle(tmp_path / "same", features=2)
    other = another_bundle(tmp_path / "other", "resid_post.1")
    _, key = key_of(tmp_path)
    assert key_of(tmp_path, same, slots=1)[1] == key
    assert key_of(tmp_path, same, BUNDLE)[1] == key
    keys = {key, key_of(tmp_path, other)[1], key_of(tmp_path, BUNDLE, other)[1]}
    assert len(keys) == 3, "another hook point, another graph"


def test_a_blind_engine_has_the_key_of_a_graph_without_sinks(tmp_path: Path) -> None:
    worker = a_worker(tmp_path, a_section(tmp_path, on_failure="serve"), width=256)
    open_watch(worker)
    assert worker.vllm_config.additional_config == {"saewatch": {"graph_version": GRAPH_VERSION, "sinks": []}}
    assert not [name for name, _ in worker.network.named_modules() if "saewatch" in name]


def test_a_second_dictionary_that_does_not_fit_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    worker = a_worker(tmp_path, a_section(tmp_path, BUNDLE, another_bundle(tmp_path / "other", "resid_pre.9")))
    with pytest.raises(MisfitError, match=r"hook point resid_pre\.9: found a model of 4 layers"):
        open_watch(worker)
    assert not [name for name, _ in worker.network.named_modules() if "saewatch" in name]
