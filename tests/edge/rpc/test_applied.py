"""What bringing a bundle takes in each engine; tests/cli/dictionary/test_apply.py has the whole way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc
import pytest

from saewatch.core.manifest import EncoderSheet, Manifest
from saewatch.edge.pb import common_pb2, tap_pb2
from saewatch.edge.rpc.applied import How, application
from saewatch.edge.rpc.refusals import Refusal
from saewatch.edge.shelf import Shelf
from saewatch.monitor.tables import KnownDictionary, StreamIdentity
from tests import fakes

ONE = replace(fakes.dictionary(), bundle_digest="b1", folder="/b1")
BETTER = replace(
    fakes.dictionary([replace(one, label="better") for one in fakes.FEATURES]), bundle_digest="b2", folder="/b2"
)
FEWER = replace(fakes.dictionary(fakes.FEATURES[:1]), bundle_digest="b3", folder="/b3")
OTHER = replace(fakes.dictionary(seed=1), bundle_digest="b4", folder="/b4")


def stream(known: KnownDictionary | None, of: KnownDictionary = ONE, **opening: object) -> StreamIdentity:
    return StreamIdentity(number=1, opening=fakes.stream_open(of, **opening), dictionary=known)


def asked(new: KnownDictionary, **fields: object) -> tap_pb2.ApplyBundleRequest:
    given: dict[str, Any] = {"bundle_digest": new.bundle_digest, "role": common_pb2.ROLE_STABLE, **fields}
    return tap_pb2.ApplyBundleRequest(**given)


def plan(new: KnownDictionary, *streams: StreamIdentity, **fields: object) -> dict[str, How]:
    shelf = Shelf({new.weights_digest: new})
    found = application(asked(new, **fields), {"engine-0": streams}, shelf)
    return {step.engine: step.how for step in found.steps}


@pytest.mark.parametrize(
    ("before", "new", "how"),
    [
        (ONE, OTHER, How.LOADED),
        (ONE, BETTER, How.RELABELLED),
        (ONE, FEWER, How.LOADED),
        (ONE, ONE, How.ALREADY),
        (replace(ONE, folder=""), replace(ONE, folder=""), How.ALREADY),  # of a recording: nobody opens a folder
        (None, ONE, How.RELABELLED),  # of weights that nobody could read until now
    ],
)
def test_what_it_takes(before: KnownDictionary | None, new: KnownDictionary, how: How) -> None:
    assert plan(new, stream(before)) == {"engine-0": how}


def test_the_stream_of_the_role_is_meant_also_where_both_have_the_same_weights() -> None:
    both = [stream(ONE), stream(ONE, role="shadow")]
    shelf = Shelf({OTHER.weights_digest: OTHER})
    found = application(asked(OTHER, role=common_pb2.ROLE_SHADOW), {"engine-0": both}, shelf)
    (step,) = found.steps
    assert step.change is not None
    assert (step.change.arguments["role"], step.change.arguments["replace"]) == ("shadow", ONE.weights_digest)
    assert step.change.arguments["path"] == "/b4"


def test_an_engine_without_such_a_stream_is_left_out() -> None:
    streams = {"a": [stream(ONE)], "b": [stream(ONE, hook_point="resid_post.9")], "c": []}
    found = application(asked(OTHER), streams, Shelf({OTHER.weights_digest: OTHER}))
    assert [step.engine for step in found.steps] == ["a"]


def wide() -> KnownDictionary:
    encoder = EncoderSheet(activation="relu", latents=64, directions=4, d_in=16, d_out=16)
    sheet = fakes.dictionary(seed=2)
    manifest = Manifest(kind="sae", hook_point="resid_post.3", encoder=encoder, tensors=sheet.manifest.tensors)
    return replace(sheet, manifest=manifest, bundle_digest="b5", folder="/b5")


@pytest.mark.parametrize(
    ("new", "streams", "fields", "code", "said"),
    [
        (OTHER, [stream(ONE)], {"role": 0}, grpc.StatusCode.INVALID_ARGUMENT, "stable or shadow"),
        (OTHER, [stream(ONE)], {"role": common_pb2.ROLE_SHADOW}, grpc.StatusCode.NOT_FOUND, "--shadow"),
        (OTHER, [stream(ONE, hook_point="resid_post.9")], {}, grpc.StatusCode.NOT_FOUND, "resid_post.9 (stable)"),
        (OTHER, [stream(ONE), stream(BETTER)], {}, grpc.StatusCode.INVALID_ARGUMENT, "--replaces"),
        (OTHER, [stream(ONE)], {"bundle_digest": "b9"}, grpc.StatusCode.NOT_FOUND, "`store`"),
        (OTHER, [stream(ONE)], {"path": "relative"}, grpc.StatusCode.INVALID_ARGUMENT, "absolute"),
        (replace(OTHER, folder=""), [stream(ONE)], {}, grpc.StatusCode.INVALID_ARGUMENT, "has no folder of it"),
        (OTHER, [stream(ONE)], {"engine": "nobody"}, grpc.StatusCode.NOT_FOUND, "'nobody'"),
        (wide(), [stream(ONE)], {}, grpc.StatusCode.FAILED_PRECONDITION, "dictionary.d_in: found 16"),
    ],
)
def test_what_is_refused_before_any_engine_hears_of_it(
    new: KnownDictionary, streams: list[StreamIdentity], fields: dict[str, object], code: grpc.StatusCode, said: str
) -> None:
    with pytest.raises(Refusal) as caught:
        plan(new, *streams, **fields)
    assert caught.value.code is code
    assert said in str(caught.value.error)
