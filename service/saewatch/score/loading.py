"""Models of transformers as they are scored: from a folder or by a name, weights from safetensors only."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers.utils import cached_file, logging

from saewatch.core.errors import ConfigError, UnreachableError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(name: str, *, dtype: str, device: str = "cpu", progress: bool = True) -> tuple[Any, Path]:
    """The model, and the folder that its files were read from.

    Args:
        name: its folder, or a name that transformers knows.
        dtype: a name of ``DTYPES``.
        device: where it is to be.
        progress: show transformers' bars meanwhile.

    Raises:
        UnreachableError: there is no such model, or it cannot be read.
        ConfigError: it is no model that transformers knows; a type or device that there is not.
    """
    if dtype not in DTYPES:
        raise ConfigError("dtype", found=dtype, expected=f"one of {', '.join(DTYPES)}")
    _check_device(device)
    with contextlib.nullcontext() if progress else _without_bars():
        return _load(name, DTYPES[dtype], device)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load(name: str, dtype: torch.dtype, device: str) -> tuple[Any, Path]:
    _check_folder(name)
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        capped = getattr(config, "attn_logit_softcapping", None) is not None  # torch's own attention leaves it out
        chosen = {"attn_implementation": "eager"} if capped else {}
        model = transformers.AutoModelForCausalLM.from_pretrained(
            name, config=config, dtype=dtype, use_safetensors=True, **chosen
        )
        return model.to(device), Path(cached_file(name, "config.json")).parent
    except OSError as error:
        raise UnreachableError(name, found=_first(error), expected=_READABLE, hint=_HINT) from error
    except (ValueError, SafetensorError) as error:
        raise ConfigError(name, found=_first(error), expected=_READABLE, hint=_HINT) from error


_READABLE = "a model that can be read"
_HINT = "Name a folder with config.json and *.safetensors, or a model that transformers can fetch."


def _check_folder(name: str) -> None:
    """Raises `UnreachableError` for what can be no name, and is no model's folder: transformers says other things."""
    folder = Path(name)
    if not folder.exists() and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) and not name.startswith("."):
        return
    file = folder / "config.json"
    try:
        file.open("rb").close()
    except OSError as error:
        raise UnreachableError(str(file), found=error.strerror, expected=_READABLE, hint=_HINT) from error


def _first(error: Exception) -> str:
    """The first line of what was said."""
    return f"{error}".partition("\n")[0][:200]


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("device", found=f"{name}: {error!s:.100}", expected="cpu, or a GPU that is there") from error


def tokenizer_of(name: str) -> tuple[Any, str]:
    """The tokenizer, or None and why not: token ids can be scored without one."""
    try:
        return transformers.AutoTokenizer.from_pretrained(name), ""
    except Exception as error:  # the tokenizers' library raises nothing more special
        return None, f"{error!s:.200}"
