"""What should fire, by programs that are not ours: transformers' hidden states through SAELens' own encode.

Imported by the parity benchmark and by the end-to-end tests only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sae_lens
import torch
import transformers
from safetensors.torch import load_file

BAND = 1e-5
"""Width of the grey band, and tolerance of values, over the row's largest pre-activation."""

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Expected:
    """One request's rows: dense values (0: does not fire) and distance to the threshold, ``[rows, units]``."""

    value: F32
    margin: F32
    largest: F32  # [rows]
    norm: F32  # [rows]


@dataclass(frozen=True, slots=True)
class Reading:
    """Where a hook point is in transformers' classes: a module's output, or its first input."""

    module: str
    side: str = "output"


class Oracle:
    """A model and its dictionary, by their own libraries. Units: latents, then directions."""

    def __init__(
        self,
        model: Path,
        source: Path,
        reading: Reading,
        *,
        dtype: torch.dtype = torch.float32,
        attention: str = "sdpa",  # "eager" where torch's own leaves something out, as Gemma 2's soft cap
    ) -> None:
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=dtype, attn_implementation=attention
        ).eval()
        self._sae = sae_lens.SAE.load_from_disk(str(source), device="cpu").float()
        probes = source / "probes.safetensors"
        self._probes = load_file(probes) if probes.exists() else None
        self._rows: list[torch.Tensor] = []
        module = self._model.get_submodule(reading.module)
        if reading.side == "output":
            module.register_forward_hook(
                lambda _module, _inputs, output: self._rows.append(output[0] if isinstance(output, tuple) else output)
            )
        else:
            module.register_forward_pre_hook(
                lambda _module, inputs, named: self._rows.append(inputs[0] if inputs else named["hidden_states"]),
                with_kwargs=True,
            )

    @torch.inference_mode()
    def hidden(self, tokens: Sequence[int]) -> torch.Tensor:
        """What the hook point holds for one request, ``[len(tokens), d_in]`` float32."""
        self._rows.clear()
        self._model(input_ids=torch.tensor([list(tokens)]), use_cache=False)
        return self._rows[-1].reshape(len(tokens), -1).float()

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int]) -> F32:
        """What the model says of the token after these, ``[vocabulary]``."""
        found: F32 = self._model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1].float().numpy()
        return found

    @torch.inference_mode()
    def expected(self, tokens: Sequence[int]) -> Expected:
        """What fires on one request's ``tokens``."""
        x = self.hidden(tokens)
        latents = self._sae.encode(x)
        threshold = getattr(self._sae, "threshold", torch.zeros(latents.shape[1]))
        centred = x - self._sae.b_dec if self._sae.cfg.apply_b_dec_to_input else x
        before = centred @ self._sae.W_enc + self._sae.b_enc
        value, margin = [latents], [(before - threshold).abs()]
        if self._probes is not None:
            score = x @ self._probes["w"].T + self._probes["b"]
            value.append(score.clamp_min(0))
            margin.append(score.abs())
        return Expected(
            value=torch.cat(value, 1).numpy(),
            margin=torch.cat(margin, 1).numpy(),
            largest=before.abs().amax(1).numpy(),
            norm=torch.linalg.vector_norm(x, dim=1).numpy(),
        )


@dataclass(slots=True)
class Tally:
    """A comparison, added up over requests. ``band``: as `BAND`, wider where an engine computes in half precision."""

    band: float = BAND
    compared: int = 0
    mismatched: int = 0
    in_grey_band: int = 0
    worst: float = 0.0  # difference of values, over the row's largest pre-activation

    def add(self, found: F32, expected: Expected, floor: F32, units: npt.NDArray[np.int64]) -> None:
        """``found [rows, units]`` (0: not received) against the watched units of the oracle."""
        value, margin = expected.value[:, units], expected.margin[:, units]
        band = self.band * expected.largest[:, None]
        fires = value > floor
        grey = (margin <= band) | (np.abs(value - floor) <= band)
        got = found > 0
        differ = got != fires
        off = np.abs(np.where(got & fires, found - value, 0.0)) / expected.largest[:, None]
        self.compared += int((got | fires).sum())
        self.mismatched += int((differ & ~grey).sum()) + int((off > self.band).sum())
        self.in_grey_band += int((differ & grey).sum())
        self.worst = max(self.worst, float(off.max(initial=0.0)))
