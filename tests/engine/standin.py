"""A stand-in engine for tests of the tap: four blocks of the fixture's width, its dictionary, and vLLM's worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from saewatch.core.catalogue import Catalogue
from saewatch.core.fit import ModelFacts
from saewatch.core.hookpoint import HookPoint
from saewatch.core.manifest import DECODER_FILE, ENCODER_FILE
from saewatch.core.tapconfig import DictionaryUse, TapConfig
from saewatch.dictionary.bundle import Parts, write_bundle
from saewatch.dictionary.convert import import_source
from saewatch.engine.dictionary_file import load_bundle
from saewatch.engine.families import Places
from saewatch.engine.ledger import NewRequest
from saewatch.engine.modelfacts import model_facts
from saewatch.engine.sink import Place, hang
from saewatch.engine.staging import Rows
from saewatch.engine.watched import Engine, Watched, open_watched, sinks_of
from tests import made

FIXTURE = Path(__file__).resolve().parents[1] / "fixture"
BUNDLE, MODEL = FIXTURE / "bundle", FIXTURE / "model"
WIDTH, ROWS = 128, 64
CPU = torch.device("cpu")


class Norm(nn.Module):
    """Adds what it is given to the residual, as vLLM's norms do, and normalises nothing."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x + residual


class Block(nn.Module):
    """Returns a pair that is not yet added, as vLLM's blocks do: ``x`` and ``2 x``."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.post_attention_layernorm, self.mlp = nn.Identity(), Norm(), nn.Identity()

    def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, residual = self.post_attention_layernorm(self.self_attn(hidden_states), hidden_states)
        return self.mlp(hidden), residual


class LlamaForCausalLM(nn.Module):
    """Has the name and the blocks of vLLM's class."""

    __module__ = "vllm.model_executor.models.llama"

    def __init__(self, layers: int = 4) -> None:
        super().__init__()
        self.model = nn.Module()
        self.blocks = [Block() for _ in range(layers)]
        self.model.layers = nn.ModuleList(self.blocks)


class Blocks:
    """Finds hook points of a stand-in model, and runs its blocks."""

    def __init__(self, device: torch.device = CPU) -> None:
        self.device = device
        self.model = LlamaForCausalLM()
        self.blocks = self.model.blocks
        like = torch.zeros(0, device=device)
        self._places = Places(self.model, architecture="LlamaForCausalLM", config=None, like=like)

    def __call__(self, point: HookPoint) -> Place:
        return self._places(point)

    def run(self, x: torch.Tensor) -> None:
        x = x.to(self.device)
        for block in self.blocks:
            block(x)


def an_engine(**changes: Any) -> Engine:
    facts = model_facts(MODEL, architecture="LlamaForCausalLM", d_model=WIDTH, layers=4)
    known: dict[str, Any] = {"instance": "i", "epoch": 7, "model_name": "m", "facts": facts, "rows": ROWS}
    return Engine(**{**known, **changes})


def other_facts(width: int) -> ModelFacts:
    return ModelFacts(architecture="LlamaForCausalLM", d_model=width, layers=4)


def a_config(folder: Path, **changes: Any) -> TapConfig:
    use = DictionaryUse(path=str(BUNDLE), census=changes.pop("census", 0.0))
    return TapConfig(**{"socket": str(folder / "s"), "dictionaries": (use,), **changes})


def another_bundle(folder: Path, hook_point: str = "resid_post.2", *, features: int | None = None) -> Path:
    """The fixture's dictionary under another name: made for ``hook_point``, with the first of its ``features``."""
    known = load_bundle(BUNDLE)
    manifest = replace(known.manifest, hook_point=hook_point)
    catalogue = Catalogue(weights=manifest.digest, features=known.catalogue.features[:features])
    tensors = load_file(BUNDLE / ENCODER_FILE) | load_file(BUNDLE / DECODER_FILE)
    write_bundle(Parts(manifest=manifest, tensors=tensors, catalogue=catalogue, attestations=()), folder)
    return folder


def pooled_bundle(folder: Path, heads: int = 3, floor: float = 0.05) -> tuple[Path, Mapping[str, torch.Tensor]]:
    """A bundle of one pooled probe for the fixture's model, and its tensors, which ``probe.pt`` has too."""
    source = folder / "source"
    source.mkdir(parents=True)
    probe = made.attending(0, heads, d_in=WIDTH)
    save_file(probe, source / "probes.safetensors")
    torch.save(probe, folder / "probe.pt")
    feature = {"id": "pooled.p1", "kind": "probe", "direction": 0, "label": "made", "category": "ncr", "floor": floor}
    (source / "features.json").write_text(json.dumps([feature | {"severity": "low"}]))
    stated = {"hook_point": "resid_post.2", "exclude_first": 1, "max_norm": 36.7}
    (source / "stated.json").write_text(json.dumps(stated))
    import_source(source, MODEL, folder / "bundle")
    return folder / "bundle", probe


def hidden(rows: int, seed: int = 0) -> torch.Tensor:
    """A third of what the hook point will hold."""
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed)) * 0.5


def rows_of(device: torch.device = CPU, /, **requests: tuple[int, int]) -> Rows:
    """Requests by name: first position and rows."""
    counts = [count for _, count in requests.values()]
    positions = [torch.arange(first, first + count) for first, count in requests.values()]
    return Rows(
        order=list(requests),
        starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
        positions=torch.cat(positions).to(device),
        tokens=torch.full((sum(counts),), 500, device=device),
    )


def a_step(rows: Rows, *, new: bool = True) -> dict[str, Any]:
    """Arguments of `Tap.step` for prompts that are computed at once."""
    counts = np.diff(rows.starts).tolist()
    return {
        "time_ns": 1,
        "new": [NewRequest(engine_id=n, prompt_len=c, computed=0) for n, c in zip(rows.order, counts, strict=True)]
        if new
        else [],
        "finished": (),
        "computed": dict(zip(rows.order, counts, strict=True)),
        "emitted": {name: [7] for name in rows.order},
    }


# --- what vLLM's adapter reads ---------------------------------------------------------------------------------------
class Runner:
    """What `V1View` reads: two requests of 3 and 1 rows, in buffers that are longer."""

    def __init__(self) -> None:
        self.input_batch = SimpleNamespace(req_ids=["b", "a", "gone"], num_reqs=2)
        self.query_start_loc = SimpleNamespace(np=np.array([0, 3, 4, 9], np.int32))
        self.positions = torch.tensor([0, 1, 2, 7, 99])
        self.input_ids = SimpleNamespace(gpu=torch.tensor([5, 6, 7, 8, 99]))


CONFIG: Mapping[str, Mapping[str, Any]] = {
    "parallel_config": {
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "data_parallel_size": 1,
        "data_parallel_index": 0,
        "prefill_context_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "use_sequence_parallel_moe": False,
        "use_ubatching": False,
    },
    "scheduler_config": {"max_num_batched_tokens": ROWS, "max_num_seqs": 8, "async_scheduling": False},
    "cache_config": {"kv_sharing_fast_prefill": False, "block_size": 16, "enable_prefix_caching": True},
    "model_config": {
        "model": str(MODEL),
        "revision": None,
        "model_weights": "",
        "dtype": torch.float32,
        "served_model_name": ["fixture"],
        "architectures": ["LlamaForCausalLM"],
        "hf_text_config": SimpleNamespace(num_hidden_layers=4),
        "quantization": None,
        "runner_type": "generate",
        "is_encoder_decoder": False,
        "is_multimodal_model": False,
        "enable_prompt_embeds": False,
        "enable_sleep_mode": False,
        "max_model_len": 1024,
    },
    "compilation_config": {"cache_dir": ""},
    "load_config": {"load_format": "auto"},
    "offload_config": {
        "uva": SimpleNamespace(cpu_offload_gb=0),
        "prefetch": SimpleNamespace(offload_group_size=0),
    },
}
"""Fields of a `VllmConfig` by the part that they stand in."""
ABSENT = ("kv_transfer_config", "lora_config", "speculative_config", "weight_transfer_config")
"""Parts that an ordinary engine does not have."""


class Worker:
    """A stand-in for the platform's worker, with a loaded model."""

    def __init__(self, config: Any, *, network: nn.Module, runner: Any) -> None:
        self.vllm_config = config
        self.model_config = config.model_config
        self.device = CPU
        self.model_runner = runner
        self.network = network

    def get_model(self) -> nn.Module:
        return self.network

    def execute_dummy_batch(self) -> None:
        for block in self.network.get_submodule("model.layers").children():
            block(torch.ones(1, WIDTH))

    def load_model(self) -> None: ...
    def compile_or_warm_up_model(self) -> None: ...
    def execute_model(self, scheduler_output: Any) -> None: ...
    def sample_tokens(self, grammar_output: Any) -> None: ...
    def shutdown(self) -> None: ...
    def sleep(self, level: int = 1) -> None: ...
    def wake_up(self, tags: list[str] | None = None) -> None: ...
    def reload_weights(self, *args: Any, **kwargs: Any) -> None: ...


def a_section(folder: Path, *bundles: Path, **changes: Any) -> dict[str, Any]:
    """Our section of the additional configuration."""
    return {
        "socket": str(folder / "s"),
        "dictionaries": [{"path": str(path)} for path in bundles or [BUNDLE]],
        **changes,
    }


def a_worker(folder: Path, section: Any = None, **changes: Any) -> Any:
    """A worker whose configuration has ``changes``: fields of `CONFIG`, or ``network``, ``runner`` or ``width``."""
    width, parts = changes.pop("width", WIDTH), {}
    network, runner = changes.pop("network", None) or LlamaForCausalLM(), changes.pop("runner", None) or Runner()
    for part, defaults in CONFIG.items():
        parts[part] = SimpleNamespace(**{name: changes.pop(name, value) for name, value in defaults.items()})
    parts["model_config"].get_hidden_size = lambda: width
    config = SimpleNamespace(
        **parts,
        max_concurrent_batches=changes.pop("max_concurrent_batches", 1),
        use_v2_model_runner=changes.pop("use_v2_model_runner", True),
        additional_config={} if section == "none" else {"saewatch": section or a_section(folder)},
        **{name: changes.pop(name, None) for name in ABSENT},
    )
    assert not changes, f"no such fields: {', '.join(changes)}"
    return Worker(config, network=network, runner=runner)


def a_request(name: str, prompt: int, computed: int = 0, **sampling: Any) -> Any:
    """A `NewRequestData`."""
    settings = SimpleNamespace(
        stop_token_ids=sampling.get("stop", [2]),
        eos_token_id=sampling.get("eos", 9),
        max_tokens=sampling.get("max_tokens", 16),
        min_tokens=sampling.get("min_tokens", 0),
        repetition_detection=sampling.get("repetition"),
    )
    return SimpleNamespace(
        req_id=name,
        prompt_len=prompt,
        prompt_token_ids=list(range(prompt)),
        num_computed_tokens=computed,
        sampling_params=settings,
        lora_request=None,
    )


def scheduled(
    new: Any = (), cached: dict[str, int] | None = None, finished: Any = (), resumed: Any = (), connector: Any = None
) -> Any:
    """A `SchedulerOutput`."""
    before = cached or {}
    tokens = {request.req_id: request.prompt_len - request.num_computed_tokens for request in new}
    tokens |= dict.fromkeys(before, 1)
    return SimpleNamespace(
        scheduled_new_reqs=list(new),
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=list(before), num_computed_tokens=list(before.values()), resumed_req_ids=set(resumed)
        ),
        num_scheduled_tokens=tokens,
        total_num_scheduled_tokens=sum(tokens.values()),
        finished_req_ids=set(finished),
        kv_connector_metadata=connector,
    )


def sampled(**tokens: list[int]) -> Any:
    """A `ModelRunnerOutput`."""
    return SimpleNamespace(
        sampled_token_ids=list(tokens.values()), req_id_to_index={name: row for row, name in enumerate(tokens)}
    )


def hung(config: TapConfig, engine: Engine, blocks: Blocks) -> list[Watched]:
    """Opened, and with its sinks on the blocks."""
    watched = open_watched(config, engine, blocks)
    hang(sinks_of(watched))
    return watched
