"""Engines of a tiny model, one after the other, each in a process of its own, beside transformers and SAELens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks import form, interpreted
from benchmarks.oracle import Oracle, Reading
from benchmarks.recorder import Heard, Recorder
from benchmarks.rig import Comparison
from benchmarks.spec import Spec, Watch
from benchmarks.tiny import TINY, make_bundle, make_model
from deploy.demo.chat import Answer
from saewatch.core.hookpoint import HookPoint

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # ranks share the cores that there are
    "OMP_NUM_THREADS": "1",  # models so small that two threads would only wait for each other
    "HF_HUB_OFFLINE": "1",
    "TORCHINDUCTOR_VEC_ISA_OK": "1",  # the compiler knows the processor's vectors: else each empty cache asks it
}
"""vLLM runs in the cell's own process."""
CELL_S = 900.0
"""No cell takes so long."""


Judged = list[dict[str, Any]]
Judge = Callable[[Spec, Recorder, Mapping[str, Any]], Judged]
"""What became of each stream."""


class CellError(Exception):
    """A cell's process ended without a result."""


@dataclass(slots=True)
class Bench:
    """One model's folder, where its dictionaries and the compile cache are."""

    folder: Path
    case: str
    runner: str
    model: Path = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model = make_model(self.case, self.folder / "model")
        self._share_what_vllm_knows()

    def watch(self, point: HookPoint, *, seed: int = 0, name: str = "") -> Watch:
        """A dictionary on ``point``. ``name``: its folder, replaced if it is there."""
        folder = self.folder / (name or f"{point}-{seed}")
        if name:
            for old in (folder, folder.with_name(folder.name + "-source")):
                shutil.rmtree(old, ignore_errors=True)
        if not folder.exists():
            make_bundle(point, self.model, folder, seed=seed)
        reading = TINY[self.case].reading(point)
        source = folder.with_name(folder.name + "-source")
        return Watch(bundle=str(folder), source=str(source), module=reading.module, side=reading.side)

    def run(self, mode: str, watch: Sequence[Watch], *, judge: Judge | None = None, **changes: Any) -> dict[str, Any]:
        """One engine: what the cell says, what became of the compiled artifact, and each stream beside its oracle."""
        spec = Spec(model=str(self.model), mode=mode, watch=tuple(watch), **changes)
        if not watch:
            return self._process(spec)
        socket = self.folder / "s"
        recorder = Recorder(socket)
        try:
            found = self._process(replace(spec, socket=str(socket)))
        finally:
            recorder.stop()
        return {**found, "streams": (judge or compared)(spec, recorder, found), "refused": recorder.refused}

    def _process(self, spec: Spec) -> dict[str, Any]:
        files = {name: self.folder / f"cell.{name}" for name in ("spec", "json", "log")}
        files["json"].unlink(missing_ok=True)
        files["spec"].write_text(json.dumps(asdict(spec)))
        command = [sys.executable, "-m", "benchmarks.cell", str(files["spec"]), str(files["json"])]
        with files["log"].open("wb") as log:
            try:
                subprocess.run(
                    command, cwd=form.ROOT, env=self._environment(), stdout=log, stderr=log, timeout=CELL_S, check=False
                )
            except subprocess.TimeoutExpired as error:
                raise CellError(str(error)) from error
        text = files["log"].read_text(errors="replace")
        if not files["json"].exists():
            lines = text.splitlines()
            refused = [line for line in lines[:-15] if "SelfTestFailed:" in line]  # of a rank, far above the end
            raise CellError("\n".join([*refused[-1:], *lines[-15:]]))
        return {**json.loads(files["json"].read_text()), "artifact": _artifact(text)}

    def _share_what_vllm_knows(self) -> None:
        """Of its models' classes: it starts a process to learn it. The compile cache beside it is the bench's own."""
        known = Path(os.environ.get("VLLM_CACHE_ROOT", "~/.cache/vllm")).expanduser() / "modelinfos"
        known.mkdir(parents=True, exist_ok=True)
        (self.folder / "cache").mkdir(exist_ok=True)
        with contextlib.suppress(FileExistsError):
            (self.folder / "cache" / "modelinfos").symlink_to(known)

    def _environment(self) -> dict[str, str]:
        own = {"VLLM_CACHE_ROOT": str(self.folder / "cache"), "PYTHONPATH": form.IMPORTS, **ENVIRONMENT}
        if self.runner == "v2":
            own |= interpreted.environment(self.folder / "triton")
        return {**os.environ, **own}


def _artifact(log: str) -> str:
    if "Directly load AOT compilation" in log:
        return "loaded"
    return "compiled" if "saved AOT compiled function" in log else "none"


def compared(spec: Spec, recorder: Recorder, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each stream beside its oracle."""
    answers = {name: Answer(name, prompt, found["tokens"][name]) for name, prompt in found["prompts"].items()}
    streams = []
    for number, watch in enumerate(spec.watch, start=1):
        heard = recorder.streams.get(number)
        if heard is None:
            streams.append({"hook_point": "", "blind": "no stream"})
        else:
            streams.append(_stream(Path(spec.model), watch, heard, answers))
    return streams


def _stream(model: Path, watch: Watch, heard: Heard, answers: Mapping[str, Answer]) -> dict[str, Any]:
    oracle = Oracle(model, Path(watch.source), Reading(watch.module, watch.side), attention="eager")
    sheet = json.loads((Path(watch.bundle) / "dictionary.json").read_text())
    named = {_engine_id(heard, name): answer for name, answer in answers.items()}
    comparison = Comparison(oracle, heard, latents=sheet["encoder"]["latents"], exclusions=sheet["tokens"])
    outcome = comparison.compare(named)
    return {
        "hook_point": heard.opening.hook_point,
        "blind": heard.final.blind if heard.final else "it never ended",
        "rows": outcome.rows,
        "compared": outcome.tally.compared,
        "mismatched": outcome.tally.mismatched + outcome.excluded_wrong,
        "in_grey_band": outcome.tally.in_grey_band,
        "worst": outcome.tally.worst,
        "duplicates": outcome.duplicates,
        "missing": outcome.missing,
        "unknown": outcome.unknown,
        "fed_expected": sum(len(answer.prompt) + len(answer.tokens) - 1 for answer in answers.values()),
        "books": asdict(heard.final) if heard.final else None,
    }


def _engine_id(heard: Heard, request_id: str) -> str:
    """The engine's own id of a request: vLLM adds a suffix to the caller's."""
    return next((name for name, _ in heard.seen if name.partition("-")[0] == request_id), request_id)
