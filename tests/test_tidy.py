"""Holds the code to the shape that docs/architecture.md and CONTRIBUTING.md describe: one test a rule.

Every rule is also run over a bad sample, in ``test_rule_bites``: a rule that cannot fail is no rule.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests import tidy
from tests.tidy import Source

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "service/saewatch/edge/pb/"

MODEL_LOADS_LATE = "the file also runs where only python3 is, and says there what is missing"
LAZY_IMPORTS = {
    "benchmarks/interpreted/driver.py: triton.runtime": "Triton loads this module while it loads itself",
    "deploy/demo/model.py: gguf": MODEL_LOADS_LATE,
    "deploy/demo/model.py: torch": MODEL_LOADS_LATE,
    "deploy/demo/model.py: safetensors.torch": MODEL_LOADS_LATE,
    "service/saewatch/dictionary/folder.py: saewatch.engine.dictionary_file": "torch: most verbs need none",
    "service/saewatch/dictionary/signatures.py: saewatch.dictionary": "keys need an extra, and only signed stores do",
    "service/saewatch/engine/encoder.py: saewatch.engine.kernels.launch": "Triton: not there without a GPU",
    "service/saewatch/engine/encoder.py: saewatch.engine.kernels.inside": "Triton: not there without a GPU",
    "service/saewatch/engine/whole.py: saewatch.engine.kernels.dictionary": "Triton: not there without a GPU",
    "service/saewatch/engine/whole.py: saewatch.engine.kernels.screen": "Triton: not there without a GPU",
    "service/saewatch/cli/prompts.py: saewatch": "an extra of its own, and seconds to load: --help needs neither",
}
"""``path: imported name`` to the reason why the import waits inside a function."""

NO_TEST_OF_ITS_OWN = {
    "__main__": "one line, which calls the command line",
    "monitor.events": "dataclasses without behaviour, made and read in every test of the monitor",
}
"""Module to the reason why no file tests it by name."""

NOT_PURE = {"saewatch.engine.vllm"}
"""Modules of engine/ that the import test leaves out: this one imports vLLM, which brings what it likes."""

NOT_IN_THE_ENGINE = ("grpc", "google.protobuf", "pydantic", "redis", "prometheus_client")


def tracked() -> list[str]:
    """Paths of all files that are, or are about to be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(name for name in set(names) if (ROOT / name).is_file())


@pytest.fixture(scope="module")
def sources() -> list[Source]:
    """All Python files but the generated ones."""
    names = [name for name in tracked() if name.endswith(".py") and not name.startswith(GENERATED)]
    return [tidy.read(ROOT, ROOT / name) for name in names]


@pytest.fixture(scope="module")
def ours(sources: list[Source]) -> list[Source]:
    """The files of the package."""
    return [source for source in sources if source.path.startswith("service/")]


def none(findings: Iterable[str]) -> None:
    """Fails with all findings, one a line."""
    lines = sorted(findings)
    assert not lines, "\n" + "\n".join(lines)


def over(rule: Callable[[Source], Iterator[str]], sources: list[Source]) -> list[str]:
    """What a rule finds in all files."""
    return [finding for source in sources for finding in rule(source)]


def test_imports_point_down(ours: list[Source]) -> None:
    none(over(tidy.upward_imports, ours))


def test_rooms_live_with_their_third_parties_only(ours: list[Source]) -> None:
    none(over(tidy.foreign_imports, ours))


def test_the_middle_has_no_clock_socket_or_thread(ours: list[Source]) -> None:
    none(over(tidy.impure_imports, ours))


def test_no_import_hides_in_a_function(sources: list[Source]) -> None:
    none(finding for source in sources for finding in tidy.hidden_imports(source, LAZY_IMPORTS))


def test_no_cycles(ours: list[Source]) -> None:
    none(tidy.cycles(ours))


def test_functions_fit_a_screen(sources: list[Source]) -> None:
    none(over(tidy.long_functions, sources))


def test_files_tell_one_story(sources: list[Source]) -> None:
    none(over(tidy.long_files, sources))


def test_names_say_something(sources: list[Source]) -> None:
    none(over(tidy.empty_names, sources))


def test_broad_excepts_carry_their_reason(sources: list[Source]) -> None:
    none(over(tidy.broad_excepts, sources))


def test_exceptions_from_rules_carry_their_reason(sources: list[Source]) -> None:
    none(over(tidy.unexplained_exceptions, sources))


def test_public_things_are_described(ours: list[Source]) -> None:
    none(over(tidy.missing_docstrings, ours))


def test_every_file_has_its_test(ours: list[Source]) -> None:
    none(tidy.untested(ours, frozenset(tracked()), NO_TEST_OF_ITS_OWN))


def test_nothing_of_one_machine_in_the_repository() -> None:
    found: list[str] = []
    for name in tracked():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data[:8192]:  # text, as git sees it
            found += tidy.foreign_words(name, data.decode(errors="replace"))
    none(found)


def test_engine_brings_no_grpc_or_protobuf_into_the_engines_process(ours: list[Source]) -> None:
    modules = {f"saewatch.{source.module}" for source in ours if source.room == "engine"} - NOT_PURE
    lines = [*[f"import {name}" for name in sorted(modules)], "import sys", f"wanted = {NOT_IN_THE_ENGINE!r}"]
    lines.append("print(*[name for name in sys.modules if name in wanted])")
    run = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.split()) == (0, []), run.stdout + run.stderr


LONG = "def f():\n" + "    x = 1\n" * 70


def in_room(module: str, text: str) -> Source:
    """A file of the package."""
    return Source(f"service/saewatch/{module.replace('.', '/')}.py", text, module)


def loop() -> list[Source]:
    """Three files that import one another in a ring."""
    texts = {"core.a": "from saewatch.core.b import x", "core.b": "from saewatch.core import c", "core.c": ""}
    return [in_room(name, text or "import saewatch.core.a") for name, text in texts.items()]


BAD: list[tuple[str, Iterable[str]]] = [
    ("core may not import engine", tidy.upward_imports(in_room("core.x", "from saewatch.engine.tap import Tap"))),
    ("siblings", tidy.upward_imports(in_room("monitor.x", "import saewatch.dictionary.store"))),
    ("engine imports core only", tidy.upward_imports(in_room("engine.x", "from saewatch.edge import pb"))),
    ("one module of engine", tidy.upward_imports(in_room("dictionary.x", "from saewatch.engine import tap"))),
    ("nothing imports app", tidy.upward_imports(in_room("edge.x", "from saewatch import app"))),
    ("client", tidy.upward_imports(in_room("client.x", "from saewatch.edge.rpc import Server"))),
    ("unknown room", tidy.upward_imports(in_room("helpers.x", ""))),
    ("core: numpy only", tidy.foreign_imports(in_room("core.x", "import torch"))),
    ("vllm in one file", tidy.foreign_imports(in_room("engine.tap", "from vllm.config import VllmConfig"))),
    ("vllm anywhere else", tidy.foreign_imports(in_room("edge.x", "import vllm"))),
    ("no transformers in engine", tidy.foreign_imports(in_room("engine.hf", "import transformers"))),
    ("triton in kernels", tidy.foreign_imports(in_room("engine.encode", "import triton.language as tl"))),
    ("clock", tidy.impure_imports(in_room("monitor.window", "from time import monotonic_ns"))),
    ("thread", tidy.impure_imports(in_room("core.wire", "import threading"))),
    ("hidden", tidy.hidden_imports(Source("a.py", "def f():\n    if x:\n        import json"), {"b.py: json": "why"})),
    ("hidden from", tidy.hidden_imports(Source("a.py", "class A:\n def f(self):\n  from json import loads"), {})),
    ("ring", tidy.cycles(loop())),
    ("long function", tidy.long_functions(Source("a.py", LONG))),
    ("long file", tidy.long_files(Source("a.py", "\n" * 401))),
    ("class name", tidy.empty_names(Source("a.py", "class StreamManager: ..."))),
    ("class name in front", tidy.empty_names(Source("a.py", "class BaseSink: ..."))),
    ("function name", tidy.empty_names(Source("a.py", "async def _handle_frame(): ..."))),
    ("method name", tidy.empty_names(Source("a.py", "class A:\n    def process_batch(self): ..."))),
    ("file name", tidy.empty_names(Source("core/utils.py", ""))),
    ("broad", tidy.broad_excepts(Source("a.py", "try: f()\nexcept Exception:\n    pass  # the reason is too late"))),
    ("broad, bare", tidy.broad_excepts(Source("a.py", "try: f()\nexcept:\n    pass"))),
    ("broad, in a tuple", tidy.broad_excepts(Source("a.py", "try: f()\nexcept (OSError, Exception):  # why?\n pass"))),
    ("broad, code only", tidy.broad_excepts(Source("a.py", "try: f()\nexcept Exception:  # noqa: BLE001\n    pass"))),
    ("noqa", tidy.unexplained_exceptions(Source("a.py", "x = 1  # noqa: E501"))),
    ("noqa without a code", tidy.unexplained_exceptions(Source("a.py", "x = 1  # noqa - it has a good reason"))),
    ("type: ignore", tidy.unexplained_exceptions(Source("a.py", "x = 1  # type: ignore[misc]"))),
    ("type: ignore without a code", tidy.unexplained_exceptions(Source("a.py", "x = 1  # type: ignore  # a reason"))),
    ("two at once", tidy.unexplained_exceptions(Source("a.py", "x = 1  # type: ignore[misc]  # noqa: A001, B001"))),
    ("no docstring", tidy.missing_docstrings(Source("a.py", '"""A file."""\ndef f(): ...'))),
    ("no docstring, method", tidy.missing_docstrings(Source("a.py", '"""A."""\nclass A:\n "A"\n def f(self): ...'))),
    ("no docstring, file", tidy.missing_docstrings(Source("a.py", "x = 1"))),
    ("no test", tidy.untested([in_room("core.wire", "")], frozenset({"tests/test_wire.py"}), {})),
    ("stale exemption", tidy.untested([in_room("core.w", "")], frozenset({"tests/core/test_w.py"}), {"core.w": "?"})),
    ("exempt ghost", tidy.untested([], frozenset(), {"core.gone": "why"})),
    ("path of a machine", tidy.foreign_words("a.md", "see /" + "home/ada/notes")),
    ("host of a registry", tidy.foreign_words("a.md", "https://" + "pypi" + ".org/simple")),
]


@pytest.mark.parametrize("findings", [pytest.param(found, id=name) for name, found in BAD])
def test_rule_bites(findings: Iterable[str]) -> None:
    assert len(list(findings)) == 1


GOOD: list[tuple[str, Iterable[str]]] = [
    ("down", tidy.upward_imports(in_room("edge.pipeline", "from saewatch.monitor.window import Window"))),
    ("own room", tidy.upward_imports(in_room("engine.tap", "from saewatch.engine import slab"))),
    ("the version", tidy.upward_imports(in_room("core.x", "from saewatch import __version__"))),
    ("the fold", tidy.upward_imports(in_room("dictionary.evaluate", "from saewatch.engine.encode import encode"))),
    ("the stubs", tidy.upward_imports(in_room("client.stream", "from saewatch.edge import pb"))),
    ("score", tidy.upward_imports(in_room("score.x", "from saewatch.engine.hf import HfTap"))),
    ("vllm in its file", tidy.foreign_imports(in_room("engine.vllm", "import vllm"))),
    ("triton in kernels", tidy.foreign_imports(in_room("engine.kernels.relu", "import triton"))),
    ("lazy with a reason", tidy.hidden_imports(Source("a.py", "def f():\n    import json"), {"a.py: json": "why"})),
    ("no ring", tidy.cycles(loop()[:2])),
    ("baseline", tidy.empty_names(Source("baseline.py", "class Baseline: ...\ndef base_url(): ..."))),
    ("broad, explained", tidy.broad_excepts(Source("a.py", "try: f()\nexcept Exception:  # a whole task\n  pass"))),
    (
        "noqa with a reason",
        tidy.unexplained_exceptions(Source("a.py", "x = 1  # noqa: BLE001 - the task is counted and goes on")),
    ),
    (
        "ignore with a reason",
        tidy.unexplained_exceptions(Source("a.py", "x = 1  # type: ignore[misc]  # vLLM's worker is untyped")),
    ),
    ("private", tidy.missing_docstrings(Source("a.py", '"""A file."""\ndef _f(): ...'))),
    ("tested", tidy.untested([in_room("cli", "")], frozenset({"tests/test_cli.py"}), {})),
    ("a path in a container", tidy.foreign_words("a.md", "/run/saewatch/tap.sock and ~/work/notes")),
]


@pytest.mark.parametrize("findings", [pytest.param(found, id=name) for name, found in GOOD])
def test_rule_lets_good_code_by(findings: Iterable[str]) -> None:
    assert list(findings) == []
