"""What a dictionary's own library says: the oracles that our encoding is compared with. None is needed to serve.

Each is a row of ``ORACLES`` and is imported when it is asked, by name: no library is a dependency of another's
dictionaries. All run in float64 on the stored weights, so that the answers are the same on every processor once they
are rounded.

One whose files are pickles is asked in a process of its own, where torch's restricted reader is forced: it builds
tensors and plain values and calls nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saewatch.core import limits
from saewatch.core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """A library: its format's name, how pip and Python call it, what it loads, and how it encodes rows."""

    format: str
    package: str
    module: str
    files: tuple[str, ...]
    """In the folder of a dictionary."""
    library: Callable[[Path, Tensor], Tensor]
    """(folder of a dictionary, rows ``[n, d_in]``) -> values ``[n, latents]``, dense, float64."""
    pickles: bool = False

    @property
    def name(self) -> str:
        """Such as ``sae-lens 6.54.12``."""
        return f"{self.package} {importlib.metadata.version(self.package)}"

    @property
    def installed(self) -> bool:
        """Whether the library is there."""
        return importlib.util.find_spec(self.module) is not None

    def check(self) -> None:
        """ConfigError with what to do, where the library is not there."""
        if not self.installed:
            hint = f"Install it beside saewatch: pip install {self.package}."
            raise ConfigError(self.package, found="not installed", expected="it, to compare with", hint=hint)

    def encode(self, folder: Path, x: Tensor) -> Tensor:
        """Values ``[n, latents]`` float64 for rows ``x [n, d_in]``.

        Raises:
            ConfigError: the library is not installed, or does not read what is in ``folder``.
        """
        self.check()
        expected = f"a dictionary that {self.format} reads"
        if self.pickles:
            return self._apart(folder, x, expected=expected)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some print while they are imported
                return self.library(folder, x)
        except Exception as error:  # whatever a library makes of files that are not its own
            found = f"{type(error).__name__}: {error!s:.300}"
            raise ConfigError(str(folder), found=found, expected=expected) from error

    def _apart(self, folder: Path, x: Tensor, *, expected: str) -> Tensor:
        """What the library answers in a process of its own. ConfigError with its last line when it does not."""
        with tempfile.TemporaryDirectory(prefix="saewatch-") as at:
            asked, answered = Path(at, "x.npy"), Path(at, "values.npy")
            np.save(asked, x.numpy(), allow_pickle=False)
            command = [sys.executable, "-m", __name__, self.format, str(folder.absolute()), str(asked), str(answered)]
            code, said = _run(command)
            if code or not answered.is_file():
                found = said.strip().rpartition("\n")[2] or f"exit {code}"
                raise ConfigError(str(folder), found=found, expected=expected)
            return torch.from_numpy(np.load(answered, allow_pickle=False))


def _run(command: Sequence[str]) -> tuple[int, str]:
    """Exit code and what was said."""
    offline = {"HF_HUB_OFFLINE": "1", "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(  # noqa: S603 - Python, a module of ours and paths
            command,
            env=os.environ | offline,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=limits.ORACLE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"no answer for {limits.ORACLE_S} s"
    return done.returncode, done.stderr[-limits.TEXT_BYTES :].decode(errors="replace")


def _imported(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries' own dependencies
        return importlib.import_module(name)


def _saelens(folder: Path, x: Tensor) -> Tensor:
    """``SAE.encode`` of SAELens."""
    sae = _imported("sae_lens.saes.sae").SAE.load_from_disk(folder, device="cpu", dtype="float64")
    with torch.no_grad():
        values: Tensor = sae.encode(x.double())
    return values


def _sparsify(folder: Path, x: Tensor) -> Tensor:
    """``SparseCoder.encode`` of sparsify: the k largest, spread out."""
    coder = _imported("sparsify").SparseCoder.load_from_disk(folder, device="cpu").double()
    with torch.no_grad():
        found = coder.encode(x.double())
    return torch.zeros(len(x), coder.num_latents, dtype=torch.float64).scatter(1, found.top_indices, found.top_acts)


_CLASSES: Mapping[str, str] = {
    "AutoEncoder": "dictionary",
    "AutoEncoderNew": "dictionary",
    "GatedAutoEncoder": "dictionary",
    "JumpReluAutoEncoder": "dictionary",
    "AutoEncoderTopK": "trainers.top_k",
    "BatchTopKSAE": "trainers.batch_top_k",
    "MatryoshkaBatchTopKSAE": "trainers.matryoshka_batch_top_k",
}
"""Classes that dictionary_learning 0.1.0 loads (``utils.load_dictionary``), and the module of each."""


def _dictionary_learning(folder: Path, x: Tensor) -> Tensor:
    """``encode`` of the class that ``config.json`` names, loaded as ``load_dictionary`` of dictionary_learning does.

    That function is not called: its module also imports what reads corpora. The package asks for nnsight when it is
    imported and uses it to collect activations only, so an empty module stands in where it is not installed.
    """
    trainer = json.loads((folder / "config.json").read_bytes())["trainer"]
    name = trainer["dict_class"]
    if name not in _CLASSES:
        raise ConfigError(f"{folder}: dict_class", found=f"{name!r:.80}", expected=f"one of {', '.join(_CLASSES)}")
    if "nnsight" not in sys.modules and importlib.util.find_spec("nnsight") is None:
        sys.modules["nnsight"] = types.ModuleType("nnsight")
        sys.modules["nnsight"].LanguageModel = object  # type: ignore[attr-defined]  # a module takes any attribute
    cls = getattr(_imported(f"dictionary_learning.{_CLASSES[name]}"), name)
    k = {"k": trainer["k"]} if _CLASSES[name] != "dictionary" else {}
    coder = cls.from_pretrained(str(folder / "ae.pt"), device="cpu", **k).double()
    with torch.no_grad():
        values: Tensor = coder.encode(x.double())
    return values


SAELENS = Oracle(
    format="saelens",
    package="sae-lens",
    module="sae_lens",
    files=("cfg.json", "sae_weights.safetensors"),
    library=_saelens,
)
_SPARSIFY = Oracle(
    format="sparsify",
    package="eai-sparsify",
    module="sparsify",
    files=("cfg.json", "sae.safetensors"),
    library=_sparsify,
)
_DICTIONARY_LEARNING = Oracle(
    format="dictionary_learning",
    package="dictionary-learning",
    module="dictionary_learning",
    files=("config.json", "ae.pt"),
    library=_dictionary_learning,
    pickles=True,
)
ORACLES: Mapping[str, Oracle] = {one.format: one for one in (SAELENS, _SPARSIFY, _DICTIONARY_LEARNING)}
"""By the name of their format."""


def main() -> None:
    """The process of a library's own: what goes wrong here is its last line."""
    parser = argparse.ArgumentParser()
    for name in ("oracle", "folder", "asked", "answered"):
        parser.add_argument(name)
    told = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):
        x = torch.from_numpy(np.load(told.asked, allow_pickle=False))
        values = ORACLES[told.oracle].library(Path(told.folder), x)
    np.save(told.answered, values.numpy(), allow_pickle=False)


if __name__ == "__main__":
    main()
