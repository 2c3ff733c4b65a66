"""Hook points: named tensors of a decoder block, ``<point>.<layer>``, and how others spell them.

The residual stream is the sum that a block passes on. ``resid_post.i`` is what block ``i`` (from 0) hands to block
``i + 1``: ``hidden_states[i + 1]`` of transformers, except after the last block, where that list holds the output of
the final norm. Spellings: TransformerLens' ``blocks.i.hook_*``; modules of a transformers model, whose *output* is
meant unless the table says input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from saewatch.core.errors import HookPointError


@dataclass(frozen=True, slots=True)
class Point:
    """One row of the table."""

    transformer_lens: str  # empty: it has none
    hugging_face: str
    says: str


POINTS: Mapping[str, Point] = {
    "resid_pre": Point("hook_resid_pre", "model.layers.{}.input", "the residual stream that block i receives"),
    "resid_mid": Point("hook_resid_mid", "model.layers.{}.resid_mid", "after attention was added, before the MLP"),
    "resid_post": Point("hook_resid_post", "model.layers.{}", "the residual stream that block i passes on"),
    "mlp_in": Point("", "model.layers.{}.mlp.input", "what the MLP reads, normalised, after the norm's weights"),
    "mlp_out": Point("hook_mlp_out", "model.layers.{}.mlp", "what the MLP adds to the residual stream"),
    "attn_out": Point("hook_attn_out", "model.layers.{}.self_attn", "what attention adds to the residual stream"),
}

_OURS = re.compile(r"(?P<point>[a-z_]+)\.(?P<layer>0|[1-9][0-9]{0,3})")
_LAYER = r"(0|[1-9][0-9]{0,3})"


@dataclass(frozen=True, slots=True, order=True)
class HookPoint:
    """A point of one layer; ``str()`` gives our spelling."""

    point: str
    layer: int

    def __str__(self) -> str:
        return f"{self.point}.{self.layer}"

    @property
    def transformer_lens(self) -> str:
        """TransformerLens' spelling; empty where it has no such point."""
        name = POINTS[self.point].transformer_lens
        return f"blocks.{self.layer}.{name}" if name else ""

    @property
    def hugging_face(self) -> str:
        """The module of a transformers model, Llama's names."""
        return POINTS[self.point].hugging_face.format(self.layer)


def parse(text: str) -> HookPoint:
    """A hook point in our spelling, TransformerLens' or transformers'. Raises `HookPointError`."""
    match = _OURS.fullmatch(text)
    if match and match["point"] in POINTS:
        return HookPoint(match["point"], int(match["layer"]))
    for name, row in POINTS.items():
        for spelling in (f"blocks.{{}}.{row.transformer_lens}", row.hugging_face):
            other = re.fullmatch(_pattern(spelling), text)
            if other:
                return HookPoint(name, int(other[1]))
    hint = "For the residual stream after block 14 write resid_post.14."
    if text.endswith("ln2.hook_normalized"):
        hint = (
            "That is before the norm's weights. If the dictionary was trained on what the MLP reads, write mlp_in.14."
        )
    expected = f"<point>.<layer> with a point of {', '.join(POINTS)}"
    raise HookPointError("hook point", found=f"{text!r:.80}", expected=expected, hint=hint)


def _pattern(template: str) -> str:
    return re.escape(template).replace(re.escape("{}"), _LAYER)
