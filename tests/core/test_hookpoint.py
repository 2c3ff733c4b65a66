"""Hook points: every spelling is read, and no other."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core.errors import HookPointError
from saewatch.core.hookpoint import POINTS, HookPoint, parse

LAYER = st.integers(0, 9999)
POINT = st.sampled_from(sorted(POINTS))


@given(POINT, LAYER)
def test_every_spelling_is_read_back(point: str, layer: int) -> None:
    hook = HookPoint(point, layer)
    assert parse(str(hook)) == parse(hook.transformer_lens or str(hook)) == parse(hook.hugging_face) == hook


def test_what_transformer_lens_has_before_the_norms_weights_is_refused_with_a_hint() -> None:
    assert HookPoint("mlp_in", 2).transformer_lens == ""
    with pytest.raises(HookPointError, match=r"before the norm's weights.*write mlp_in"):
        parse("blocks.2.ln2.hook_normalized")


@pytest.mark.parametrize(
    ("ours", "transformer_lens", "hugging_face"),
    [
        ("resid_pre.0", "blocks.0.hook_resid_pre", "model.layers.0.input"),
        ("resid_mid.3", "blocks.3.hook_resid_mid", "model.layers.3.resid_mid"),
        ("resid_post.14", "blocks.14.hook_resid_post", "model.layers.14"),
        ("mlp_in.2", "", "model.layers.2.mlp.input"),
        ("mlp_out.31", "blocks.31.hook_mlp_out", "model.layers.31.mlp"),
        ("attn_out.9", "blocks.9.hook_attn_out", "model.layers.9.self_attn"),
    ],
)
def test_the_table(ours: str, transformer_lens: str, hugging_face: str) -> None:
    hook = parse(ours)
    assert (str(hook), hook.transformer_lens, hook.hugging_face) == (ours, transformer_lens, hugging_face)
    assert parse(transformer_lens or ours) == parse(hugging_face) == hook


def test_the_table_is_complete_and_no_two_points_share_a_spelling() -> None:
    hooks = [HookPoint(point, 7) for point in POINTS]
    assert list(POINTS) == ["resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_out", "attn_out"]
    spellings = [text for hook in hooks for text in (str(hook), hook.transformer_lens, hook.hugging_face)]
    assert len(set(spellings)) == len(spellings)
    assert all(row.says for row in POINTS.values())


def test_hook_points_sort_by_point_and_then_by_layer() -> None:
    assert sorted(map(parse, ["resid_post.10", "mlp_out.3", "resid_post.9"])) == [
        HookPoint("mlp_out", 3),
        HookPoint("resid_post", 9),
        HookPoint("resid_post", 10),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resid_post",
        "resid_post.",
        "resid_post.-1",
        "resid_post.014",
        "resid_post.1.5",
        "resid_post.10000",
        "resid_post.\N{ARABIC-INDIC DIGIT ONE}",
        "resid_post.14 ",
        " resid_post.14",
        "resid_post.14\n",
        "Resid_post.14",
        "14.resid_post",
        "hook_resid_post.14",
        "blocks.14.resid_post",
        "blocks.014.hook_resid_post",
        "blocks.14.hook_resid_post.x",
        "blocksx14xhook_resid_post",
        "model.layers.14.mlp.output",
        "model.layers.x",
        "model.layers.14.",
        "modelxlayersx14",
        "transformer.h.14",
        "{}",
        "model.layers.{}",
    ],
)
def test_other_spellings_are_refused_with_a_hint(text: str) -> None:
    with pytest.raises(HookPointError) as caught:
        parse(text)
    assert caught.value.found == repr(text)
    assert all(point in str(caught.value) for point in POINTS)
    assert caught.value.hint == "For the residual stream after block 14 write resid_post.14."


@st.composite
def misspelt(draw: st.DrawFn) -> str:
    """A spelling of a hook point with something put in or left out."""
    hook = HookPoint(draw(POINT), draw(LAYER))
    text = draw(st.sampled_from([str(hook), hook.transformer_lens, hook.hugging_face]))
    start = draw(st.sampled_from([0, len(text)]) | st.integers(0, len(text)))
    return (
        text[:start] + draw(st.sampled_from([" ", "\n", ".", "0", "-", "x"])) + text[start + draw(st.integers(0, 2)) :]
    )


@given(st.text() | misspelt())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(HookPointError):
        hook = parse(text)
        assert text in {str(hook), hook.transformer_lens, hook.hugging_face}


def test_a_long_text_is_cut_in_the_refusal() -> None:
    with pytest.raises(HookPointError) as caught:
        parse("x" * 100_000)
    assert len(str(caught.value)) < 400
