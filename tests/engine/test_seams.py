"""All of vLLM's insides that the tap reads, in one table: a new version that moved something fails by its name."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace

import pytest
import vllm
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.parallel_sampling import ParentRequest

from saewatch.engine.modes import MODES, SEAMS
from saewatch.engine.runners import new_request
from saewatch.engine.vllm import VERSIONS, WORKERS
from tests.engine.standin import ABSENT, CONFIG, a_request

WORKER, RUNNERS, MODES_FILE = "engine/vllm.py", "engine/runners.py", "engine/modes.py"
WATCHED = (
    "load_model()",  # what it takes comes by name, and is handed on
    "compile_or_warm_up_model()",
    "execute_model(scheduler_output)",
    "sample_tokens(grammar_output)",
    "execute_dummy_batch()",
    "get_model()",
    "shutdown()",
    "sleep(level)",
    "wake_up(tags)",
    "reload_weights()",  # what it takes is the runner's
)
RELOADED = "reload_weights(weights_iterator, weights_path, is_checkpoint_format)"
V1, V2 = "vllm.v1.worker.gpu_model_runner:GPUModelRunner", "vllm.v1.worker.gpu.model_runner:GPUModelRunner"
STEP, OUTPUTS = "vllm.v1.core.sched.output", "vllm.v1.outputs"

TABLE: Sequence[tuple[str, str, str, tuple[str, ...]]] = (
    *((WORKER, "the watched life of an engine", worker, WATCHED) for worker in WORKERS.values()),
    *(
        (WORKER, "what is watched", worker, ("vllm_config", "model_config", "device", "model_runner"))
        for worker in WORKERS.values()
    ),
    *(("engine/life.py", "which weights are read anew", runner, (RELOADED,)) for runner in (V1, V2)),
    (WORKER, "where weights come from", "vllm.config:ModelConfig", ("model", "revision", "model_weights")),
    (WORKER, "the platform's worker", "vllm.platforms.interface:Platform", ("device_type",)),
    (WORKER, "our section and the key of compiled graphs", "vllm.config:VllmConfig", ("additional_config",)),
    (WORKER, "how many steps are under way", "vllm.config:VllmConfig", ("max_concurrent_batches",)),
    (WORKER, "which replica this is", "vllm.config:ParallelConfig", ("data_parallel_index",)),
    (
        WORKER,
        "which rank this is, and what its stage says at start",
        "vllm.distributed.parallel_state:GroupCoordinator",
        ("rank_in_group", "world_size", "cpu_group", "is_last_rank"),
    ),
    (WORKER, "where every request ends", "vllm.config:ModelConfig", ("max_model_len",)),
    (
        MODES_FILE,
        "the modes that are refused",
        "vllm.config:VllmConfig",
        (*ABSENT, *CONFIG, "use_v2_model_runner"),
    ),
    (
        MODES_FILE,
        "the modes that are refused",
        "vllm.config:ParallelConfig",
        (
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "data_parallel_size",
            "prefill_context_parallel_size",
            "decode_context_parallel_size",
            "use_sequence_parallel_moe",
            "use_ubatching",
        ),
    ),
    (
        MODES_FILE,
        "the modes that are refused",
        "vllm.config:SpeculativeConfig",
        ("enable_adaptive_verification", "method"),
    ),
    (MODES_FILE, "the modes that are refused", "vllm.config:SchedulerConfig", ("async_scheduling",)),
    (MODES_FILE, "the modes that are refused", "vllm.config:CacheConfig", ("kv_sharing_fast_prefill",)),
    (
        MODES_FILE,
        "the modes that are refused",
        "vllm.config:ModelConfig",
        ("runner_type", "is_encoder_decoder", "is_multimodal_model", "enable_prompt_embeds", "enable_sleep_mode"),
    ),
    (MODES_FILE, "the modes that are refused", "vllm.config:CompilationConfig", ("cache_dir",)),
    (MODES_FILE, "the modes that are refused", "vllm.config:LoadConfig", ("load_format",)),
    (MODES_FILE, "the modes that are refused", "vllm.config:KVTransferConfig", ("kv_connector",)),
    (MODES_FILE, "the modes that are refused", "vllm.config.offload:OffloadConfig", ("uva", "prefetch")),
    (MODES_FILE, "the modes that are refused", "vllm.config.offload:UVAOffloadConfig", ("cpu_offload_gb",)),
    (MODES_FILE, "the modes that are refused", "vllm.config.offload:PrefetchOffloadConfig", ("offload_group_size",)),
    (WORKER, "the largest step", "vllm.config:SchedulerConfig", ("max_num_batched_tokens", "max_num_seqs")),
    (WORKER, "the blocks of the prefix cache", "vllm.config:CacheConfig", ("block_size", "enable_prefix_caching")),
    (
        WORKER,
        "what the model is",
        "vllm.config:ModelConfig",
        (
            "model",
            "dtype",
            "served_model_name",
            "architectures",
            "hf_text_config",
            "quantization",
            "get_hidden_size()",
        ),
    ),
    (WORKER, "tokens that come later", f"{OUTPUTS}:AsyncModelRunnerOutput", ("get_output()",)),
    (WORKER, "the emitted tokens", f"{OUTPUTS}:ModelRunnerOutput", ("sampled_token_ids", "req_id_to_index")),
    (RUNNERS, "the rows of a step", V1, ("input_batch", "query_start_loc", "positions", "input_ids")),
    (RUNNERS, "the rows of a step", "vllm.v1.worker.gpu_input_batch:InputBatch", ("req_ids", "num_reqs")),
    (RUNNERS, "the rows of a step", "vllm.v1.utils:CpuGpuBuffer", ("np", "gpu")),
    (RUNNERS, "the rows of a step", V2, ("execute_model_state", "req_states")),
    (RUNNERS, "the rows of a step", "vllm.v1.worker.gpu.model_runner:ExecuteModelState", ("input_batch",)),
    (
        RUNNERS,
        "the rows of a step",
        "vllm.v1.worker.gpu.input_batch:InputBatch",
        ("req_ids", "num_reqs", "query_start_loc_np", "positions", "input_ids"),
    ),
    (
        RUNNERS,
        "which requests begin, end and go on",
        f"{STEP}:SchedulerOutput",
        (
            "scheduled_new_reqs",
            "scheduled_cached_reqs",
            "num_scheduled_tokens",
            "total_num_scheduled_tokens",
            "finished_req_ids",
            "kv_connector_metadata",
        ),
    ),
    (
        RUNNERS,
        "requests that go on",
        f"{STEP}:CachedRequestData",
        ("req_ids", "num_computed_tokens", "resumed_req_ids"),
    ),
    (
        RUNNERS,
        "requests that begin",
        f"{STEP}:NewRequestData",
        ("req_id", "prompt_len", "prompt_token_ids", "num_computed_tokens", "sampling_params", "lora_request"),
    ),
    (
        RUNNERS,
        "why a request ended",
        "vllm.sampling_params:SamplingParams",
        ("stop_token_ids", "eos_token_id", "max_tokens", "min_tokens", "repetition_detection"),
    ),
    (
        RUNNERS,
        "why a request ended",
        "vllm.sampling_params:RepetitionDetectionParams",
        ("max_pattern_size", "min_pattern_size", "min_count"),
    ),
    (RUNNERS, "the adapter of a request", "vllm.lora.request:LoRARequest", ("lora_name",)),
)
"""Our file, what it uses this for, whose it is, and its names; a method with its parameters that come by position."""

ROWS = [(file, purpose, owner, name) for file, purpose, owner, names in TABLE for name in names]


@cache
def members(owner: str) -> Mapping[str, Sequence[str] | None]:
    """A class's methods with their parameters by position, and its fields with None, from its source."""
    found: dict[str, Sequence[str] | None] = {}
    for cls in reversed(pkgutil.resolve_name(owner).__mro__):
        if cls.__module__.startswith("vllm"):
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
            found |= dict(_members(tree))
    return found


def _members(tree: ast.AST) -> Iterator[tuple[str, Sequence[str] | None]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr, None
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            yield from ((ast.unparse(to), None) for to in (getattr(node, "targets", None) or [node.target]))  # type: ignore[union-attr]  # one of the two
        elif isinstance(node, ast.FunctionDef):
            attribute = any("property" in ast.unparse(decorator) for decorator in node.decorator_list)
            yield node.name, None if attribute else [one.arg for one in node.args.args[1:]]


def has(owner: str, name: str) -> bool:
    """Whether ``owner`` has the field ``name``, or the method ``name(parameter, ...)``."""
    method, _, rest = name.partition("(")
    wanted = [one.strip() for one in rest.rstrip(")").split(",") if one.strip()] if rest else None
    return method in members(owner) and members(owner)[method] == wanted


@pytest.mark.parametrize(
    ("file", "purpose", "owner", "name"), ROWS, ids=[f"{owner.partition(':')[2]}.{name}" for _, _, owner, name in ROWS]
)
def test_vllm_has_what_the_tap_uses(file: str, purpose: str, owner: str, name: str) -> None:
    moved = f"vllm {vllm.__version__} moved {owner}.{name}: {file} uses it for {purpose}"
    try:
        found = has(owner, name)
    except (ImportError, AttributeError):
        found = False
    assert found, moved


def test_what_is_not_there_is_missed() -> None:
    """The table would be of no use if everything passed."""
    worker = WORKERS["cuda"]
    assert not has(worker, "load_modle()")
    assert not has(worker, "execute_model(step)")
    assert not has(worker, "execute_model")
    assert not has(f"{STEP}:SchedulerOutput", "finished_ids")


def test_the_installed_version_is_one_that_was_tested() -> None:
    assert vllm.__version__.split("+")[0] in VERSIONS


def test_every_method_that_a_worker_must_have_is_in_the_table() -> None:
    assert {name.partition("(")[0] for name in WATCHED} == set(SEAMS)


class Asked:
    """A configuration that writes down which fields are asked for, and refuses nothing."""

    def __init__(self, path: str, asked: set[str]) -> None:
        self._path, self._asked = path, asked

    def __getattr__(self, name: str) -> Asked:
        self._asked.add(f"{self._path}.{name}")
        return Asked(name, self._asked)

    def __gt__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]  # nothing keeps one


def test_every_field_that_a_mode_asks_for_is_in_the_table() -> None:
    asked: set[str] = set()
    for found in MODES.values():
        found(Asked("vllm_config", asked))
    parts = ("vllm_config", "speculative_config", *CONFIG)
    owners = {part.title().replace("_", ""): part for part in parts}  # VllmConfig is what vllm_config names
    owners |= {"UVAOffloadConfig": "uva", "PrefetchOffloadConfig": "prefetch", "KVTransferConfig": "kv_transfer_config"}
    known = {f"{owners[of]}.{name}" for _, _, owner, name in ROWS if (of := owner.partition(":")[2]) in owners}
    assert asked - known == set()
    assert len(asked) > 16


def test_only_the_first_runner_keeps_one_batch_for_all_steps() -> None:
    """That is how they are told apart."""
    assert "input_batch" not in members(V2)
    assert "req_states" not in members(V1)


def test_the_answers_of_a_request_for_several_are_named_as_we_read_them() -> None:
    made = SimpleNamespace(request_id="cmpl-1", external_req_id="cmpl-1", params=SamplingParams(n=12))
    several = ParentRequest(made)
    names = [several.get_child_info(index)[0] for index in (0, 2, 11)]
    assert [new_request(a_request(name, 4), 0, 64).child for name in names] == [0, 2, 11]
    assert all(name.endswith("_cmpl-1") for name in names)
