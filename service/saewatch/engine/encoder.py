"""The watched encoder: the rows that are watched, gathered on the device, and what a step's rows fire among them.

All buffers are sized once, for the largest step and the largest watch set. Rows of the buffer that no slot uses have
the limit ``inf`` and never fire. While steps are encoded an encoder stays as it is: a running tap that is to watch
something else gets another one (`control`), and the steps that are on their way keep theirs.

Rows that the data sheet excludes (first tokens, special tokens, outlying norms) and rows that are not finite emit
nothing, and the slab marks them. They are masked: a scale of 0 would not do, because a latent with a positive bias
fires on a row of zeros.

On the CPU what follows the product is numpy's, on views of the same buffers: a step of a few tokens is some thirty
calls, each with cold caches after a forward pass, and numpy's cost a third of torch's.

Probe heads are computed beside the product, and their values put in its place (`heads`): limits, floors, exclusions and
the slab know no difference. Their tensors are made when rows are chosen, and freed with the encoder.

Latents that decide alone need only the watched rows. Where latents compete (TopK in its exact mode) the winners come
from the whole dictionary, block by block, and the watched among them are picked out: the value that won is the value
that is sent, so a winner cannot be lost to the last bit of a second product.

On a GPU, latents that decide alone are encoded by the kernels of `engine/kernels`, which read the same buffers, and
then ``W`` is held in the type that the dictionary stores. `group` is what they take, so that one launch serves several
encoders; `encode` launches for this one alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from saewatch.core import limits
from saewatch.core.catalogue import WatchList
from saewatch.core.errors import MisfitError
from saewatch.core.footprint import ROWS, WIDTH
from saewatch.core.manifest import EncoderSheet, InputNorm
from saewatch.engine import kernels
from saewatch.engine.dictionary_file import Dictionary
from saewatch.engine.encode import Folded, normalise, products, raise_limits
from saewatch.engine.heads import Heads, finite, projection
from saewatch.engine.kernels.group import Group, Work
from saewatch.engine.slab import Scored, Slab, pack_fixed, pack_quick
from saewatch.engine.whole import Given, Whole, check_room

if TYPE_CHECKING:
    from saewatch.engine.kernels.inside import Inside
    from saewatch.engine.kernels.launch import Launch

_PAD = torch.iinfo(torch.int64).max  # no token id
_FINITE = torch.finfo(torch.float32).max


class Encoder:
    """Encodes steps of at most ``rows_max`` rows against one dictionary's watched rows.

    Two threads may encode at once where latents decide alone; nobody may while another dictionary is loaded.
    """

    def __init__(
        self,
        *,
        rows_max: int,
        d_in: int,
        slots_max: int,
        mode: str = "exact",
        whole: Whole | None = None,
        device: torch.device | str = "cpu",
        fixed: bool | None = None,
        fused: bool | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """``fixed``: pack without data-dependent shapes; None: wherever the device is not the CPU.

        ``fused``: with the kernels, where they can; None: on a GPU. ``dtype``: of ``W`` where they do.
        """
        self.rows_max, self.d_in, self.slots_max, self.mode, self.whole = rows_max, d_in, slots_max, mode, whole
        self.device = torch.device(device)
        self.fixed = self.device.type != "cpu" if fixed is None else fixed
        wanted = self.device.type != "cpu" and kernels.available() if fused is None else fused
        self.fused = wanted and d_in % WIDTH == 0
        self._xp: Any = torch if self.fixed else np
        self.dictionary: Dictionary | None = None
        self.watch_list = WatchList(rows=(), floors=())
        self._W = torch.zeros(slots_max, d_in, dtype=dtype if self.fused else torch.float32, device=device)
        self._lim = torch.full((slots_max,), torch.inf, device=device)
        self._s = torch.ones(slots_max, device=device)
        self._c = torch.zeros(slots_max, device=device)
        self._used = (self._W, *map(self._own, (self._lim, self._s, self._c)))
        self._floor = torch.zeros(slots_max, device=device)
        self._heads = Heads()
        self._projection: Tensor | None = None
        self._competing = 0  # slots, the first ones, whose latents do
        self._slot_of = torch.zeros(len(whole.W) + 1 if whole else 0, dtype=torch.int64, device=device)
        self._special = torch.full((limits.SPECIAL_TOKENS + 1,), _PAD, dtype=torch.int64, device=device)
        self._specials = torch.zeros(1, dtype=torch.int64, device=device)
        self._first = torch.zeros(1, dtype=torch.int64, device=device)
        self._max_norm = torch.full((1,), _FINITE, device=device)

    def load(self, dictionary: Dictionary, watch: WatchList) -> None:
        """Copies a dictionary and what is watched of it into the buffers. MisfitError when it does not fit them."""
        self._check(dictionary, watch)  # before anything is copied: a refused dictionary leaves the old one in force
        if self.whole is not None:
            self.whole.load(dictionary, self.mode)
        self._take(dictionary)
        self.watch(watch)

    def watch(self, watch: WatchList) -> None:
        """Watches other rows of the same dictionary. MisfitError when there are more than slots, or no such row."""
        dictionary = self._loaded
        sheet = dictionary.manifest.encoder
        self._check_watch(watch, sheet)
        count, rows = len(watch.rows), np.asarray(watch.rows, dtype=np.int64)
        floor = np.asarray(watch.floors, dtype=np.float32)
        folded = dictionary.folded(self.mode)
        chosen = raise_limits(Folded(lim=folded.lim[rows], s=folded.s[rows], c=folded.c[rows]), floor)
        self._lim.fill_(torch.inf)
        for buffer, column in ((self._lim, chosen.lim), (self._s, chosen.s), (self._c, chosen.c), (self._floor, floor)):
            buffer[:count].copy_(torch.from_numpy(column))
        self._W[:count].copy_(dictionary.W[torch.from_numpy(rows)])
        competes = self.whole is not None and self.whole.k is not None
        self._competing = competing = int(np.searchsorted(rows, sheet.latents)) if competes else 0
        columns = {row: slot - competing for slot, row in enumerate(watch.rows)}
        self._heads = Heads(dictionary.heads, columns, self.device)
        self._slot_of.fill_(competing)  # a column that `_winners` leaves out
        self._slot_of[torch.from_numpy(rows[:competing]).to(self.device)] = torch.arange(competing, device=self.device)
        self.watch_list = watch
        used = slice(competing, None if self.fixed and not competes else count)
        self._used = (self._W[used], *(self._own(column[used]) for column in (self._lim, self._s, self._c)))

    def rewatched(self, watch: WatchList) -> Encoder:
        """One that watches other rows of the same dictionary, and shares the whole of it. This one stays as it is."""
        other = Encoder(
            rows_max=self.rows_max,
            d_in=self.d_in,
            slots_max=len(watch.rows),
            mode=self.mode,
            whole=self.whole,
            device=self.device,
            fixed=self.fixed,
            fused=self.fused,
            dtype=self._W.dtype,
        )
        other._take(self._loaded)
        other.watch(watch)
        return other

    def encode(self, x: Tensor, *, positions: Tensor, token_ids: Tensor, slab: Slab) -> Slab:
        """Packs what the watched rows fire on a step into ``slab``.

        Args:
            x: the hook point's rows, ``[T, d_in]`` bf16 or float32, on the encoder's device.
            positions: of each row in its request, ``[T]`` integers.
            token_ids: what was fed in each row, ``[T]`` integers.
            slab: buffers on the same device, emptied first.
        """
        if self.launched:
            return self._launch(x, positions=positions, token_ids=token_ids, slab=slab)
        slab.start(len(x))
        pack = pack_fixed if self.fixed else pack_quick
        excluded = self._own(slab.excluded)
        for first in range(0, len(x), ROWS):
            part = slice(first, min(first + ROWS, len(x)))
            whole = len(x) <= ROWS  # a slice is an operator more
            rows = x.float() if whole else x[part].float()
            taken = self._taken(rows, *(ids if whole else ids[part] for ids in (positions, token_ids)))
            excluded[part] = ~taken
            pack(slab, self._score(rows, taken, x.dtype), first)
            if self._projection is not None and slab.pooled.shape[1]:
                slab.pooled[part] = finite(torch.mm(rows, self._projection.t()))
        return slab

    @property
    def launched(self) -> bool:
        """Whether the kernels encode: they are to, latents decide alone, and nothing is computed beside the product."""
        return self.fused and not self.headed and (self.whole is None or self.whole.k is None)

    def group(self, x: Tensor, slab: Slab) -> Group:
        """What the kernels take to encode rows of the buffer ``x [rows, d_in]`` into ``slab``."""
        return Group(
            x=x,
            W=self._W,
            lim=self._lim,
            s=self._s,
            c=self._c,
            first=self._first,
            special=self._special,
            specials=self._specials,
            max_norm=self._max_norm,
            norm=self._norm,
            slab=slab,
        )

    def follow(self, other: Encoder) -> None:
        """Copies what ``other`` watches into the buffers here, which a captured graph reads. Enqueued; nothing waits.

        `check_follows` says whether they hold it. What is told of this encoder itself stays as it was.
        """
        self._lim.fill_(torch.inf)
        for into, found in zip(self._read(), other._read(), strict=True):
            into[: len(found)].copy_(found, non_blocking=True)

    def check_follows(self, other: Encoder) -> None:
        """MisfitError where the buffers here do not hold what ``other`` watches."""
        hint = "The model's graph reads these buffers; start the engine with what is to be watched."
        found, expected = other.slots_max, f"at most {self.slots_max}"
        if found > self.slots_max:
            raise MisfitError("watch", found=f"{found} slots", expected=expected, hint=hint)
        for name, there, here in (
            ("type", other._W.dtype, self._W.dtype),
            ("input_norm", other._norm, self._norm),
            ("kernels", other.launched, self.launched),
        ):
            if there != here:
                raise MisfitError(f"dictionary.{name}", found=there, expected=here, hint=hint)

    def _read(self) -> tuple[Tensor, ...]:
        """All that the kernels read."""
        rules = (self._special, self._specials, self._first, self._max_norm)
        return (self._W, self._lim, self._s, self._c, *rules)

    def compile(self, dtype: torch.dtype) -> None:
        """Compiles the kernels for rows of this type, so that no step waits for it."""
        if self.launched:
            slab = Slab(rows_max=1, firings_max=1, device=self.device)
            x = torch.zeros(1, self.d_in, dtype=dtype, device=self.device)
            launch_of([self.group(x, slab)], Work(self.device)).compile()
        if self.whole is not None and not kernels.interpreted():
            self.whole.compile(dtype)

    def _launch(self, x: Tensor, *, positions: Tensor, token_ids: Tensor, slab: Slab) -> Slab:
        one = launch_of([self.group(x.contiguous(), slab)], Work(self.device))
        one.run(len(x), positions.to(torch.int64).contiguous(), token_ids.to(torch.int64).contiguous())
        return slab

    @property
    def headed(self) -> bool:
        """Whether some values come from beside the product with ``W``."""
        return bool(self._heads) or self._projection is not None

    def excluded(self, x: Tensor, positions: Tensor, token_ids: Tensor) -> Tensor:
        """Rows that the data sheet excludes or that are not finite, ``[T]`` bool. ``x [T, d_in]`` float32."""
        return torch.as_tensor(~self._taken(x, positions, token_ids))

    def _take(self, dictionary: Dictionary) -> None:
        """``dictionary`` and its exclusions are in force; `watch` says which rows."""
        rules = dictionary.manifest.exclusions
        self._special.fill_(_PAD)
        self._special[: len(rules.special)] = torch.tensor(rules.special, dtype=torch.int64, device=self.device)
        self._specials.fill_(len(rules.special))
        self._first.fill_(rules.exclude_first)
        self._max_norm.fill_(_FINITE if rules.max_norm is None else min(rules.max_norm, _FINITE))
        self._projection = projection(dictionary.pooled, self.device)
        self.dictionary = dictionary

    def _own(self, tensor: Tensor) -> Any:
        """``tensor`` as what follows the product reads it: an array on the CPU, where both are one memory."""
        return tensor if self.fixed else tensor.numpy()

    def _taken(self, x: Tensor, positions: Tensor, token_ids: Tensor) -> Any:
        """Rows that are not excluded, ``[T]`` bool."""
        norm, position = self._own(torch.linalg.vector_norm(x, dim=1)), self._own(positions)
        ids, special = self._own(token_ids.to(torch.int64)), self._own(self._special)
        taken = (norm <= self._own(self._max_norm)) & (
            position >= self._own(self._first)
        )  # of NaN, no comparison holds
        if self._norm.kind == "constant_norm_rescale":
            taken &= norm != 0
        taken &= special[self._xp.searchsorted(special, ids)] != ids  # the last special one is nobody's
        return taken

    @property
    def slots(self) -> int:
        """Slots in use."""
        return len(self.watch_list.rows)

    @property
    def _loaded(self) -> Dictionary:
        assert self.dictionary is not None, "load a dictionary first"
        return self.dictionary

    @property
    def _norm(self) -> InputNorm:
        return self._loaded.manifest.encoder.input_norm

    def _score(self, x: Tensor, taken: Any, dtype: torch.dtype) -> Scored:
        """Rows ``x [T, d_in]`` float32, which came as ``dtype``, against the watched slots."""
        prepared, r = normalise(x, self._norm)
        if self.whole is None or not self._competing:
            return self._scored_alone(x, prepared, r, taken)
        exact = torch.float32 if self._norm.kind == "layer_norm" else dtype
        top = self.whole.top(prepared, r, Given(kept=torch.as_tensor(taken), dtype=exact))
        if top.lost is not None:
            taken = taken & ~top.lost
        values = self._own(self._winners(top.index, top.value))
        fires = (values > self._own(self._floor)[: self._competing]) & taken[:, None]
        if self._competing < self.slots:  # directions beside them
            one = self._scored_alone(x, prepared, r, taken)
            fires = self._xp.concatenate((fires, one.fires), axis=1)
            values = self._xp.concatenate((values, one.s * one.u + one.c), axis=1)
        return Scored(fires, values, lost=top.lost)

    def _scored_alone(self, x: Tensor, prepared: Tensor, r: Tensor | None, taken: Any) -> Scored:
        """The rows against what does not compete."""
        W, lim, s, c = self._used
        product = products(prepared, r, W)
        self._heads.into(product, x)
        u = self._own(product)
        return Scored((u > lim) & taken[:, None], u, s, c)

    def _winners(self, index: Tensor, values: Tensor) -> Tensor:
        """Each row's k winners ``[T, k]`` at the slots that watch them, ``[T, S]``; elsewhere 0."""
        dense = torch.zeros(len(index), self._competing + 1, device=self.device)  # the last takes what is not watched
        return dense.scatter_(1, self._slot_of[index], values)[:, :-1]

    def _check(self, dictionary: Dictionary, watch: WatchList) -> None:
        check_room("encoder", dictionary.W[:0], self._W)
        dictionary.folded(self.mode)
        sheet, before = dictionary.manifest.encoder, self.dictionary
        self._check_watch(watch, sheet)
        if self.whole is not None:
            self.whole.check(dictionary)
        if self.mode == "exact" and sheet.k is not None and self.whole is None:
            hint = "Give the encoder the whole dictionary, or watch in the thresholded mode."
            raise MisfitError("mode", found="exact", expected="the whole dictionary where latents compete", hint=hint)
        if before is not None:
            found, expected = _shape(sheet), _shape(before.manifest.encoder)
            if found != expected:
                hint = "A captured graph holds these; restart the engine with this dictionary."
                raise MisfitError("dictionary.encoder", found=found, expected=expected, hint=hint)

    def _check_watch(self, watch: WatchList, sheet: EncoderSheet) -> None:
        if len(watch.rows) > self.slots_max:
            hint = "The buffers are sized at start; raise the number of slots and restart the engine."
            raise MisfitError("watch", found=f"{len(watch.rows)} rows", expected=f"at most {self.slots_max}", hint=hint)
        _check_rows(watch.rows, watch.floors, sheet.rows)


def inside_of(groups: Sequence[Group]) -> Inside:
    """The same for the model's graph."""
    from saewatch.engine.kernels.inside import Inside

    return Inside(groups)


def launch_of(groups: Sequence[Group], work: Work) -> Launch:
    """The kernels for ``groups``; to be called where an encoder is ``launched``."""
    from saewatch.engine.kernels.launch import Launch

    return Launch(groups, work)


def _check_rows(rows: Sequence[int], floors: Sequence[float], bound: int) -> None:
    if any(left >= right for left, right in itertools.pairwise(rows)):
        raise MisfitError("watch.rows", found="repeated or unordered", expected="ascending")
    if rows and not (rows[0] >= 0 and rows[-1] < bound):
        raise MisfitError("watch.rows", found=f"{rows[0]} to {rows[-1]}", expected=f"rows 0 to {bound - 1}")
    if not all(0.0 <= floor < float("inf") for floor in floors):
        raise MisfitError("watch.floors", found=min(floors), expected="finite floors of 0 or more")


def _shape(sheet: EncoderSheet) -> tuple[str, float | None, int | None]:
    return sheet.input_norm.kind, sheet.input_norm.eps, sheet.k
