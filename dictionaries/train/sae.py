"""Train a sparse autoencoder on captured activations.

BatchTopK (Bussmann et al. 2024: the kB largest pre-activations of a batch of B tokens survive) with an auxiliary loss
that lets dead latents predict the residual error (Gao et al. 2024). One pre-activation in a hundred survives, so all
that follows the encoder's product is computed on sparse matrices. What is stored is a JumpReLU with one threshold for
all latents, an average of the batches' k-th largest value: then each latent decides alone, and a watched subset is
exact.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own documentation calls it F

THRESHOLD_DECAY = 0.99
THRESHOLD_ROWS = (
    256  # a batch's threshold is the k-th value of its first rows: selecting among all takes a fifth of a step
)
AUX_WEIGHT = 1 / 16


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an autoencoder is trained."""

    width: int
    k: int = 32
    k_start: int = 64
    k_steps: int = 100
    steps: int = 1_200
    batch: int = 2_048
    rate: float = 1.6e-3
    warmup: int = 50
    decay_from: float = 0.7
    dead_after: int = 120_000
    dead_k: int = 128
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """A JumpReLU autoencoder in the activations' own units. The encoder does not subtract `b_dec`."""

    W_enc: Tensor  # [d, n]
    b_enc: Tensor  # [n]
    W_dec: Tensor  # [n, d]
    b_dec: Tensor  # [d]
    threshold: Tensor  # [n]

    def encode(self, x: Tensor) -> Tensor:
        """[T, d] -> [T, n]."""
        pre = x @ self.W_enc + self.b_enc
        return pre * (pre > self.threshold)

    def decode(self, values: Tensor) -> Tensor:
        """[T, n] -> [T, d]."""
        return values @ self.W_dec + self.b_dec


def train(
    x: Tensor, recipe: Recipe, *, start: Autoencoder | None = None, say: bool = True
) -> tuple[Autoencoder, float]:
    """Train on rows `x` [N, d]; return the autoencoder in x's units and the cpu-seconds it took.

    With `start` it is trained on from there; the recipe's width has to be its own.
    """
    started = time.process_time()
    torch.manual_seed(recipe.seed)
    mean = x.mean(0)
    scale = float((x - mean).pow(2).sum(1).mean().sqrt() / x.shape[1] ** 0.5)
    tensors = _random(x.shape[1], recipe.width) if start is None else _unfolded(start, mean, scale)
    weights = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
    state = _Trainer(weights, recipe)
    order = _rows(x.shape[0], recipe)
    for step in range(recipe.steps):
        loss = state.step((x[order[step]] - mean) / scale, step)
        if say and step % 100 == 0:
            print(f"sae: step {step} loss {loss:.4f} {time.process_time() - started:.0f} cpu-s", flush=True)
    return _folded(weights, state.threshold, mean, scale), time.process_time() - started


def _random(d: int, width: int) -> dict[str, Tensor]:
    W_dec = F.normalize(torch.randn(width, d), dim=1)
    return {"W_enc": W_dec.T.clone() * 0.5, "b_enc": torch.zeros(width), "W_dec": W_dec, "b_dec": torch.zeros(d)}


def _rows(count: int, recipe: Recipe) -> Tensor:
    """[steps, batch] row numbers: passes over the data, each in its own order."""
    needed = recipe.steps * recipe.batch
    passes = [torch.randperm(count) for _ in range(-(-needed // count))]
    return torch.cat(passes)[:needed].view(recipe.steps, recipe.batch)


class _Trainer:
    def __init__(self, weights: Mapping[str, Tensor], recipe: Recipe) -> None:
        self.w, self.recipe = weights, recipe
        self.threshold = 0.0
        self.silent = torch.zeros(recipe.width)  # tokens since a latent last fired
        self.adam = torch.optim.Adam(list(weights.values()), lr=recipe.rate, betas=(0.9, 0.99))

    def step(self, x: Tensor, step: int) -> float:
        for group in self.adam.param_groups:
            group["lr"] = self.recipe.rate * self._schedule(step)
        fired = self._fired(x, step)
        self.silent += len(x)
        self.silent[fired.col_indices()] = 0.0
        weights = self.w["W_enc"], self.w["b_enc"], self.w["W_dec"]
        out: Tensor = _Decoded.apply(*weights, x, fired)  # type: ignore[no-untyped-call]  # torch says nothing of it
        error = x - self.w["b_dec"] - out
        loss = error.pow(2).mean()
        (loss + AUX_WEIGHT * self._dead(x, error.detach())).backward()
        self._project()
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.w["W_dec"].copy_(F.normalize(self.w["W_dec"], dim=1))
        return float(loss.detach())

    def _fired(self, x: Tensor, step: int) -> Tensor:
        """The surviving pre-activations [B, n], sparse; the stored threshold follows the batches'."""
        start, end = self.recipe.k_start, self.recipe.k
        k = max(end, round(start - (start - end) * step / self.recipe.k_steps))
        pre = torch.addmm(self.w["b_enc"].detach(), x, self.w["W_enc"].detach())
        sample = pre[:THRESHOLD_ROWS]
        kept = max(0.0, float(sample.flatten().topk(k * len(sample), sorted=False).values.min()))
        self.threshold = kept if step == 0 else THRESHOLD_DECAY * self.threshold + (1 - THRESHOLD_DECAY) * kept
        rows, columns = (pre > kept).nonzero(as_tuple=True)
        starts = F.pad(rows.bincount(minlength=len(x)).cumsum(0), (1, 0))
        values = pre[rows, columns]
        return torch.sparse_csr_tensor(starts, columns.contiguous(), values, pre.shape, check_invariants=False)

    def _schedule(self, step: int) -> float:
        late = (step / self.recipe.steps - self.recipe.decay_from) / (1 - self.recipe.decay_from)
        return min(1.0, (step + 1) / self.recipe.warmup, 1 - max(0.0, late))

    def _dead(self, x: Tensor, error: Tensor) -> Tensor:
        dead = (self.silent > self.recipe.dead_after).nonzero().flatten()
        if not len(dead):
            return torch.zeros(())
        raw = F.relu(x @ self.w["W_enc"][:, dead] + self.w["b_enc"][dead])
        floor = raw.detach().topk(min(self.recipe.dead_k, len(dead)), dim=1).values[:, -1:]
        guess = (raw * (raw >= floor)) @ self.w["W_dec"][dead]
        return (error - guess).pow(2).mean() / error.pow(2).mean().clamp_min(1e-6)

    def _project(self) -> None:
        """Take the part of the decoder's gradient along each row away: rows keep unit length."""
        rows, grad = self.w["W_dec"].detach(), self.w["W_dec"].grad
        assert grad is not None
        grad.sub_((grad * rows).sum(1, keepdim=True) * rows)


class _Decoded(torch.autograd.Function):
    """`fired @ W_dec`, where `fired` holds entries of `x @ W_enc + b_enc`: gradients come from these entries alone."""

    @staticmethod
    def forward(ctx: Any, _W_enc: Tensor, _b_enc: Tensor, W_dec: Tensor, x: Tensor, fired: Tensor) -> Tensor:
        ctx.save_for_backward(W_dec, x, fired)
        return fired @ W_dec

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        W_dec, x, fired = ctx.saved_tensors
        grad = outputs[0].contiguous()
        back = torch.sparse.sampled_addmm(fired, grad, W_dec.T, beta=0.0)  # of the entries of `fired`
        biases = back.col_indices().bincount(weights=back.values(), minlength=len(W_dec))
        return (back.t() @ x).T, biases, fired.t() @ grad, None, None


def _folded(w: Mapping[str, Tensor], threshold: float, mean: Tensor, scale: float) -> Autoencoder:
    """From normalised units, (x - mean) / scale, to x's own: same firings, values times `scale`. Rounded once."""
    W_enc, W_dec = w["W_enc"].detach().double(), w["W_dec"].detach().double()
    b_enc = scale * w["b_enc"].detach().double() - mean.double() @ W_enc
    b_dec = scale * w["b_dec"].detach().double() + mean.double()
    theta = torch.full((W_enc.shape[1],), threshold * scale, dtype=torch.float64)
    return Autoencoder(*(tensor.float().contiguous() for tensor in (W_enc, b_enc, W_dec, b_dec, theta)))


def _unfolded(sae: Autoencoder, mean: Tensor, scale: float) -> dict[str, Tensor]:
    """The other way: weights for rows (x - mean) / scale. The threshold is left out, which training finds anew."""
    W_enc, W_dec, b_enc, b_dec = (tensor.double() for tensor in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec))
    tensors = {
        "W_enc": W_enc,
        "b_enc": (b_enc + mean.double() @ W_enc) / scale,
        "W_dec": F.normalize(W_dec, dim=1),
        "b_dec": (b_dec - mean.double()) / scale,
    }
    return {name: tensor.float().contiguous() for name, tensor in tensors.items()}


def stated(sae: Autoencoder, x: Tensor, *, chunk: int = 4_096) -> dict[str, float]:
    """Figures on held-out rows: FVU over the whole sample, L0 and its standard deviation, dead and dense shares."""
    counts, fired, lost = [], torch.zeros(sae.W_enc.shape[1]), 0.0
    for part in x.split(chunk):
        values = sae.encode(part)
        counts.append((values > 0).sum(1).float())
        fired += (values > 0).sum(0)
        lost += float((part - sae.decode(values)).double().pow(2).sum())
    l0 = torch.cat(counts)
    total = float((x - x.mean(0)).double().pow(2).sum())
    return {
        "fvu": lost / total,
        "l0": float(l0.mean()),
        "sd_l0": float(l0.std()),
        "dead": float((fired == 0).float().mean()),
        "dense": float((fired > 0.1 * len(x)).float().mean()),
        "mean_norm": float(x.norm(dim=1).mean()),
    }


def halved(sae: Autoencoder) -> Autoencoder:
    """The matrices rounded to fp16, as they are stored; biases and thresholds stay float32."""
    return Autoencoder(sae.W_enc.half().float(), sae.b_enc, sae.W_dec.half().float(), sae.b_dec, sae.threshold)
