"""Checkers of the rules that keep the code in shape. Each yields one line for each place that breaks its rule.

tests/test_tidy.py runs them over the repository, and each one over a bad sample, so that it is known to bite.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path

FUNCTION_LINES = 70
FILE_LINES = 400
REASON_LETTERS = 6

MIDDLE = frozenset({"monitor", "dictionary", "audit"})
ROOMS: Mapping[str, frozenset[str]] = {
    "core": frozenset(),
    "engine": frozenset({"core"}),
    "dictionary": frozenset(
        {
            *("core", "engine.encode", "engine.dictionary_file", "engine.heads", "engine.modelfacts"),
            *("engine.sparse", "engine.whole"),
        }
    ),
    "monitor": frozenset({"core"}),
    "audit": frozenset({"core"}),
    "edge": MIDDLE | {"core"},
    "config": MIDDLE | {"core"},
    "logs": frozenset({"core"}),
    "client": frozenset({"core", "edge.pb"}),
    "score": frozenset({"core", "engine", "monitor"}),
    "app": MIDDLE | {"core", "config", "edge", "logs"},
    "cli": MIDDLE | {"core", "config", "edge", "logs", "client", "score", "app"},
    "__main__": frozenset({"cli"}),
}
"""Which rooms a room may import; each may import itself. An entry with a dot is one module of another room."""

FOREIGN: Mapping[str, frozenset[str]] = {
    "core": frozenset({"numpy"}),
    "engine": frozenset({"numpy", "torch", "safetensors"}),
    "engine.kernels": frozenset({"numpy", "torch", "triton"}),
    "engine.vllm": frozenset({"numpy", "torch", "vllm"}),
    "client": frozenset({"numpy", "grpc", "google"}),
    "client.testing": frozenset({"pytest"}),
    "score": frozenset({"numpy", "pandas", "safetensors", "torch", "transformers"}),
}
"""What a room or module may import that is neither ours nor the standard library's; rooms not named are free."""

IMPURE = frozenset({"asyncio", "datetime", "multiprocessing", "select", "socket", "subprocess", "threading", "time"})
PURE_ROOMS = frozenset({"core", "monitor"})


@dataclass(frozen=True)
class Source:
    """One Python file. ``module`` is its name inside saewatch (``engine.tap``), or empty outside of it."""

    path: str
    text: str
    module: str = ""

    @cached_property
    def tree(self) -> ast.Module:
        """The file's syntax tree."""
        return ast.parse(self.text, self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything in that tree: every rule looks at it."""
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> list[tuple[int, str]]:
        """The file's comments with their lines."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]

    @property
    def room(self) -> str:
        """The room that the file is in."""
        return self.module.split(".", maxsplit=1)[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Every import wherever it stands: line, and full dotted name of what is imported. ruff bans relative ones."""
        for node in self.nodes:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)

    def at(self, line: int, what: str) -> str:
        """One finding."""
        return f"{self.path}:{line}: {what}"


def read(root: Path, path: Path) -> Source:
    """Reads a file and names its module."""
    inside = path.relative_to(root / "service" / "saewatch") if path.is_relative_to(root / "service") else None
    module = ".".join(inside.with_suffix("").parts).removesuffix("__init__").rstrip(".") if inside else ""
    return Source(str(path.relative_to(root)), path.read_text(), module)


# --- who imports whom -----------------------------------------------------------------------------------------------
def upward_imports(source: Source) -> Iterator[str]:
    """Imports of ours that do not point down."""
    if not source.module:
        return
    allowed = ROOMS.get(source.room)
    if allowed is None:
        yield source.at(1, f"room {source.room!r} is not in the design")
        return
    for line, name in source.imports():
        target = name.removeprefix("saewatch.")
        if target == name or target.startswith("__version__"):
            continue
        if not any(target == room or target.startswith(f"{room}.") for room in allowed | {source.room}):
            yield source.at(line, f"{source.module} may not import {target}")


def foreign_imports(source: Source) -> Iterator[str]:
    """Third parties that a room does not live with; ``vllm`` and ``triton`` each belong to one place."""
    if not source.module:
        return
    places = [place for place in FOREIGN if source.module == place or source.module.startswith(f"{place}.")]
    allowed = FOREIGN[max(places, key=len)] if places else None
    for line, name in source.imports():
        top = name.split(".")[0]
        if top in sys.stdlib_module_names or top in {"saewatch", "__future__"}:
            continue
        if top not in allowed if allowed is not None else top in {"vllm", "triton"}:
            yield source.at(line, f"{source.module} may not import {top}")


def impure_imports(source: Source) -> Iterator[str]:
    """Clocks, sockets and threads in the rooms that are pure."""
    if source.room in PURE_ROOMS:
        for line, name in source.imports():
            if name.split(".")[0] in IMPURE:
                yield source.at(line, f"{source.room}/ is pure: no clock, socket or thread, so no {name}")


def hidden_imports(source: Source, allowed: Mapping[str, str]) -> Iterator[str]:
    """Imports inside functions, but for those listed as ``path: imported name``."""
    if not any(isinstance(node, ast.Import | ast.ImportFrom) and node.col_offset for node in source.nodes):
        return  # all stand at the left edge
    for function in functions(source):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                first = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
                if f"{source.path}: {first}" not in allowed:
                    yield source.at(node.lineno, f"import of {first} inside {function.name}()")


def cycles(sources: Iterable[Source]) -> Iterator[str]:
    """Loops in the graph of our modules."""
    known = {source.module: source for source in sources if source.module}
    graph = {
        module: sorted({hit for _, name in source.imports() if (hit := resolved(name, known)) and hit != module})
        for module, source in known.items()
    }
    done: set[str] = set()
    for start in graph:
        yield from loops_from(start, graph, [], done)


def resolved(name: str, known: Mapping[str, Source]) -> str:
    """The module of ours that an imported name belongs to: ``core.records`` for ``saewatch.core.records.Beat``."""
    target = name.removeprefix("saewatch.") if name.startswith("saewatch.") else ""
    return next((module for module in (target, target.rpartition(".")[0]) if module and module in known), "")


def loops_from(module: str, graph: Mapping[str, list[str]], path: list[str], done: set[str]) -> Iterator[str]:
    """Depth first from one module; each loop is told once."""
    if module in path:
        yield " -> ".join([*path[path.index(module) :], module])
    elif module not in done:
        for target in graph[module]:
            yield from loops_from(target, graph, [*path, module], done)
        done.add(module)


# --- shape ----------------------------------------------------------------------------------------------------------
def functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    for node in source.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def long_functions(source: Source) -> Iterator[str]:
    """Functions that do not fit a screen."""
    for function in functions(source):
        lines = (function.end_lineno or 0) - function.lineno + 1
        if lines > FUNCTION_LINES:
            yield source.at(function.lineno, f"{function.name}() has {lines} lines, at most {FUNCTION_LINES}")


def long_files(source: Source) -> Iterator[str]:
    """Files that tell more than one story."""
    lines = source.text.count("\n")
    if lines > FILE_LINES:
        yield source.at(1, f"{lines} lines, at most {FILE_LINES}")


EMPTY_WORDS = frozenset({"manager", "helper", "helpers", "util", "utils", "base", "common", "misc"})


def empty_names(source: Source) -> Iterator[str]:
    """Classes, functions and files named after nothing."""
    stem = Path(source.path).stem
    if stem.lower() in EMPTY_WORDS:
        yield source.at(1, f"a file named {stem} says nothing")
    for node in source.nodes:
        if isinstance(node, ast.ClassDef):
            words = {word.lower() for word in re.findall(r"[A-Z][a-z0-9]*|[a-z0-9]+", node.name)}
            if words & EMPTY_WORDS:
                yield source.at(node.lineno, f"class {node.name}: name it after what it is")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            words = set(node.name.lower().strip("_").split("_"))
            if node.name.lstrip("_").startswith(("handle_", "process_")) or words & (EMPTY_WORDS - {"base", "common"}):
                yield source.at(node.lineno, f"{node.name}(): name it after what it does")


def broad_excepts(source: Source) -> Iterator[str]:
    """``except Exception`` (or wider) without a reason on the same line."""
    for node in source.nodes:
        if isinstance(node, ast.ExceptHandler):
            names = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            broad = any(name is None or ast.unparse(name) in {"Exception", "BaseException"} for name in names)
            if broad and not any(reason_of(comment) for line, comment in source.comments if line == node.lineno):
                yield source.at(node.lineno, "a broad except without its reason on the same line")


def unexplained_exceptions(source: Source) -> Iterator[str]:
    """noqa, type: ignore and no cover without a reason, or noqa and type: ignore without a code."""
    if not re.search("noqa|type: ignore|no cover", source.text):
        return  # most files have none, and to find comments takes as long as all other rules together
    for line, comment in source.comments:
        if re.search(r"#\s*(noqa|ruff: noqa)\b(?!:\s*[A-Z]+\d+)|#\s*type: ignore(?!\[)", comment):
            yield source.at(line, f"which rule? {comment}")
        elif re.search(EXCEPTION, comment) and not reason_of(comment):
            yield source.at(line, f"an exception carries its reason: {comment}")


EXCEPTION = r"#\s*(?:ruff:\s*)?noqa:\s*[A-Z]+\d+(?:[,\s]+[A-Z]+\d+)*|#\s*type: ignore\[[\w,\s-]+\]|#\s*pragma: no cover"


def reason_of(comment: str) -> str:
    """What a comment says besides the exceptions that it makes, if it says enough to be a reason."""
    said = re.sub(r"^[\s#:;,.-]+", "", re.sub(EXCEPTION, "", comment)).strip()
    return said if len(said) >= REASON_LETTERS else ""


def missing_docstrings(source: Source) -> Iterator[str]:
    """Public classes, functions and methods that do not say what they are; overrides and overloads may be silent."""
    if not ast.get_docstring(source.tree):
        yield source.at(1, "a file begins by saying what it is")
    for node in public(source.tree):
        if not ast.get_docstring(node):
            yield source.at(node.lineno, f"{node.name} has no docstring")


def public(
    scope: ast.Module | ast.ClassDef,
) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """What a file or class offers."""
    silent = {"override", "overload", "setter"}
    for node in scope.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            if not {ast.unparse(name).split(".")[-1] for name in node.decorator_list} & silent:
                yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node)


# --- tests and words ------------------------------------------------------------------------------------------------
def untested(sources: Iterable[Source], tests: frozenset[str], exempt: Mapping[str, str]) -> Iterator[str]:
    """Files without ``tests/X/test_Y.py``, and exemptions that are no longer needed."""
    modules = {source.module for source in sources if source.module and not source.path.endswith("__init__.py")}
    for module in sorted(modules):
        room, _, name = module.rpartition(".")
        test = "/".join(["tests", *room.split("."), f"test_{name}.py"]).replace("//", "/")
        if test not in tests and module not in exempt:
            yield f"{module}: no {test}"
        elif test in tests and module in exempt:
            yield f"{module}: has {test}, so it needs no exemption"
    yield from (f"{module}: exempt, but there is no such module" for module in sorted(exempt.keys() - modules))


FOREIGN_WORDS = """
31d12310 a4aa2ac2 c899567e 0dc11026 e680c440 1ba4e379 00a7dc5a 03e390c8 789e46d7 3d01f360 eb7e11c7 8cf10d1b
fbb8037d 9495278a 70bb4000 9da5f32d 317d2d52
"""
"""Words that mean something only on the machines where this was written, and hosts of package registries: the first
eight hexadecimal digits of their SHA-256, so that this file does not hold them either."""

MACHINE_PATH = re.compile(r"(?<![\w.}~\-])/(?:home|root|Users|work|tmp/\w)/[\w.\-]+")


def foreign_words(path: str, text: str) -> Iterator[str]:
    """Paths of one machine, and words and hosts that do not belong here."""
    for number, line in enumerate(text.splitlines(), 1):
        for found in MACHINE_PATH.findall(line):
            yield f"{path}:{number}: path of one machine: {found}"
        for word in re.findall(r"[\w.\-]*\w", line):
            if _is_foreign(word.lower()):
                yield f"{path}:{number}: does not belong here: {word}"


@cache
def _is_foreign(word: str) -> bool:
    return sha256(word.encode()).hexdigest()[:8] in FOREIGN_WORDS.split()
