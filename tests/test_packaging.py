"""What the package says that it needs is what it imports, no more and no less, and what was tested is pinned."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from saewatch.dictionary.oracle import ORACLES
from tests import tidy

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "service" / "saewatch"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

IMPORTED_AS = {
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "google": "protobuf",
    "yaml": "pyyaml",
    "prometheus_client": "prometheus-client",
}
"""Import name to distribution where they differ."""

BY_NAME = {"sae-lens"}
"""Imported by name, and when it is asked: a row of `saewatch.dictionary.oracle.ORACLES`."""

HOSTS = {"vllm", "triton", "pytest"}
"""What a room lives in and never installs: its host brings them."""


def name_of(requirement: str) -> str:
    """``grpcio`` for ``grpcio>=1.71``."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


def declared() -> set[str]:
    """Distributions that pyproject.toml names, in all extras."""
    lists: Mapping[str, list[str]] = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    return {name_of(requirement) for requirements in lists.values() for requirement in requirements}


def imported(sources: Iterable[tidy.Source]) -> set[str]:
    """Distributions that the package imports."""
    tops = {name.split(".")[0] for source in sources for _, name in source.imports()}
    return {IMPORTED_AS.get(top, top) for top in tops - sys.stdlib_module_names - HOSTS - {"saewatch"}}


def test_declared_is_what_is_imported() -> None:
    assert declared() == imported(tidy.read(ROOT, path) for path in PACKAGE.rglob("*.py")) | BY_NAME
    assert {one.package for one in ORACLES.values()} >= BY_NAME


def test_missing_dependency_is_found() -> None:
    source = tidy.Source(
        "a.py", "import json, vllm\nfrom yaml import safe_load\nfrom saewatch.core import wire\nimport rich"
    )
    assert imported([source]) == {"pyyaml", "rich"}


def test_everything_that_is_installed_is_pinned() -> None:
    folder = ROOT / "deploy" / "requirements"
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (folder / "constraints.txt").read_text(), re.MULTILINE))
    wanted = [
        line.split("#")[0].strip()
        for name in ("demo.txt", "test.txt")
        for line in (folder / name).read_text().splitlines()
    ]
    for requirement in filter(None, wanted):
        name, _, version = requirement.partition("==")
        assert pins.get(name.lower()) == (version or pins.get(name.lower())), requirement
        assert name.lower() in pins, requirement
    assert declared() <= pins.keys()


def test_every_dependency_is_defended() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in declared():
        lines = re.findall(rf'^ *"{re.escape(requirement)}[^\n]*$', text, re.MULTILINE | re.IGNORECASE)
        assert lines, requirement
        assert all(re.search(r'",  # .{8}', line) for line in lines), lines
