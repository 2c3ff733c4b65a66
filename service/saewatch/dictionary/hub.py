"""Dictionaries from a hub: `hub:org/name[@revision][/folder or file]`, fetched by the hub's own library.

Nothing is fetched unless that was allowed, and then only what may be a dictionary: JSON and weights, of one folder and
its ``checkpoints``; pickles only where those are allowed too. What was fetched is read like any other folder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from saewatch.core.errors import ConfigError, UnreachableError

PREFIX = "hub:"
_ID = re.compile(
    r"hub:(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?P<revision>[\w.-]{1,128}))?(?P<inside>(?:/[\w.+=-]{1,128}){0,8})",
    re.ASCII,
)
_KINDS = ("*.json", "*.safetensors", "*.npz")
_PICKLES = ("*.pt", "*.pth")


def fetch(text: str, *, pickles: bool = False, download: Callable[..., str] | None = None) -> Path:
    """The local folder or file of what ``text`` names.

    Args:
        text: such as ``hub:google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82``.
        pickles: fetch checkpoints too.
        download: what fetches; else huggingface_hub's ``snapshot_download``.

    Raises:
        ConfigError: it is no such name, or the hub's library is not installed.
        UnreachableError: the hub does not give it.
    """
    match = _ID.fullmatch(text)
    if match is None or ".." in match["inside"].split("/"):
        raise ConfigError(text, found="something else", expected="hub:org/name[@revision][/folder or file]")
    inside = match["inside"].strip("/")
    kinds = _KINDS + (_PICKLES if pickles else ())
    patterns = [f"{inside}/{place}{kind}" for place in ("", "checkpoints/") for kind in kinds] + [inside]
    wanted = {"allow_patterns": patterns} if inside else {"allow_patterns": list(kinds), "ignore_patterns": ["*/*"]}
    try:
        root = (download or _snapshot)(match["repo"], revision=match["revision"], **wanted)
    except (OSError, ValueError, RuntimeError) as error:
        found = f"{error!s:.300}"
        raise UnreachableError(text, found=found, expected="a repository that the hub gives") from error
    path = Path(root) / inside
    if not path.exists():
        raise UnreachableError(text, found="no such folder or file", expected="weights in that repository")
    return path


def _snapshot(repo: str, **wanted: Any) -> str:
    try:
        library: Any = importlib.import_module("huggingface_hub")
    except ImportError as error:
        hint = "Install it, or fetch the files by other means and name their folder."
        raise ConfigError("huggingface_hub", found="not installed", expected="the hub's library", hint=hint) from error
    return str(library.snapshot_download(repo, **wanted))
