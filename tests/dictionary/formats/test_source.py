"""What files say, and what a person says."""

from __future__ import annotations

import pytest

from saewatch.core.errors import HookPointError, ManifestError
from saewatch.dictionary.formats.source import out_of, point_of


def test_a_point_is_stated_or_asked_for() -> None:
    assert point_of("blocks.3.hook_resid_post", None) == "resid_post.3"
    assert point_of("", "model.layers.3") == "resid_post.3"
    assert point_of("blocks.3.hook_resid_post", "model.layers.3") == "resid_post.3"
    assert out_of("", "mlp_out.3") == "mlp_out.3"


def test_a_point_that_nobody_says_names_its_option() -> None:
    with pytest.raises(ManifestError, match=r"hook.point: found nothing, expected --hook-point POINT"):
        point_of("", None)
    with pytest.raises(ManifestError, match="expected --hook-out POINT"):
        out_of("", None)


def test_two_points_that_differ_are_refused() -> None:
    with pytest.raises(ManifestError, match=r"found resid_post.4, expected resid_post.3, as its files say"):
        point_of("resid_post.3", "resid_post.4")


def test_a_point_that_is_none() -> None:
    with pytest.raises(HookPointError, match="hook_q"):
        point_of("", "blocks.1.attn.hook_q")
