"""The program that reads one torch checkpoint: `python -I unpickle.py IN OUT SECONDS SPARE_BYTES`.

It opens IN and two files in the folder OUT, and then gives up the right to open anything more: no file, no socket.
Memory, processor time and the size of what it writes are bounded too. Only then does it unpickle, with torch's reader
for weights, which builds tensors and plain containers and refuses everything else. Tensors go into a safetensors file,
each under the path of keys that leads to it (``encoder.weight``); numbers, text and null into a JSON object.

It imports nothing of ours, so that it can be started from any place.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor

TENSORS = "tensors.safetensors"
SCALARS = "scalars.json"
_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DEPTH, _MEMBERS = 4, 256
_TEXT = 4096


def main(arguments: list[str]) -> int:
    """Reads, and writes what it read; 2 and a line on standard error when it refuses."""
    source, out, seconds, spare = arguments
    torch.set_num_threads(1)
    load_what_is_loaded_late()
    with (
        open(source, "rb") as file,  # noqa: PTH123 - three files, opened before the right to open any is given up
        open(f"{out}/{TENSORS}", "xb") as tensors,  # noqa: PTH123 - the same
        open(f"{out}/{SCALARS}", "xb") as scalars,  # noqa: PTH123 - the same
    ):
        restrict(os.fstat(file.fileno()).st_size, seconds=int(seconds), spare=int(spare))
        try:
            found = dict(flat(torch.load(file, map_location="cpu", weights_only=True)))
            _write(found, tensors, scalars)
        except Exception as error:  # whatever a hostile file makes torch raise: the parent says it to the user
            said = f"{type(error).__name__}: {error!s:.200}".partition("\n")[0]
            print(said, file=sys.stderr)  # noqa: T201 - for the parent
            return 2
    return 0


def load_what_is_loaded_late() -> None:
    """torch imports some modules when it first loads a file; later none can be opened."""
    sample = io.BytesIO()
    torch.save({"x": torch.nn.Parameter(torch.zeros(2))}, sample)
    sample.seek(0)
    torch.load(sample, weights_only=True)["x"].detach().contiguous().view(torch.uint8).numpy().tobytes()


def restrict(size: int, *, seconds: int, spare: int) -> None:
    """Bounds for reading a file of ``size`` bytes; files that are open stay open, and no others can be."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - one small read of the kernel's
        taken = int(file.read().split()[0]) * resource.getpagesize()
    for what, most in (
        (resource.RLIMIT_AS, taken + 2 * size + spare),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, size + spare // 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        resource.setrlimit(what, (most, most))


def flat(value: Any, name: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values of a checkpoint, by the way to them. TypeError or ValueError for anything else."""
    if isinstance(value, Mapping):
        if depth == 0 or len(value) > _MEMBERS:
            raise ValueError(f"{name or 'the checkpoint'} has {len(value)} members, nested too deeply or too many")
        for key, member in value.items():
            yield from flat(member, f"{name}.{key}" if name else str(key), depth - 1)
    elif isinstance(value, Tensor) or value is None or isinstance(value, bool | int | float | str):
        if not name or len(name) > _TEXT or (isinstance(value, str) and len(value) > _TEXT):
            raise ValueError("a name or text that is too long, or no name at all")
        yield name, value
    else:
        raise TypeError(f"{name or 'the checkpoint'} is a {type(value).__name__}")


def _write(found: Mapping[str, Any], tensors: IO[bytes], scalars: IO[bytes]) -> None:
    """Tensors in safetensors' form, one after the other, so that only one is copied at a time."""
    named = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    header, at = {}, 0
    for name, tensor in named.items():
        if tensor.dtype not in _TYPES or tensor.layout != torch.strided:
            raise TypeError(f"{name} holds {tensor.dtype}, {tensor.layout}")
        end = at + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    tensors.write(struct.pack("<Q", len(text)) + text)
    for tensor in named.values():
        if tensor.numel():
            tensors.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    scalars.write(json.dumps({name: value for name, value in found.items() if name not in named}).encode())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
