"""Probe directions, a format of our own: ``probes.safetensors`` with rows ``w [q, d]`` and biases ``b [q]``, float32.

Direction i's value is ``w[i] . x + b[i]`` on the raw row. They lie beside latents in one folder, or alone.
"""

from __future__ import annotations

from saewatch.dictionary.formats.forms import Opened
from saewatch.dictionary.formats.source import Asked, Source

PROBES = "probes.safetensors"


def recognises(opened: Opened) -> bool:
    """Whether these are probes: a file of our own name is, whatever it holds."""
    return opened.weights == PROBES or set(opened.forms) == {"w", "b"}


def read(opened: Opened, _asked: Asked) -> Source:
    """Probe directions. TensorFileError for other tensors or shapes."""
    width = opened.shape("w") if len(opened.shape("w")) == 2 else (0, 0)
    found = opened.tensors({"w": width, "b": width[:1]})
    opened.sizes("w")
    return Source(
        activation="linear",
        architecture="linear",
        kind="probes",
        W=found["w"].float(),
        vectors={"b_enc": found["b"].float()},
        files=(opened.weights,),
    )
