"""What a request to change a tap becomes, and what is refused before an engine hears of it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import grpc
import pytest

from saewatch.core import limits
from saewatch.core.catalogue import Catalogue
from saewatch.edge.pb import tap_pb2
from saewatch.edge.rpc import changes
from saewatch.edge.rpc.refusals import Refusal
from saewatch.monitor.tables import KnownDictionary, StreamIdentity
from tests import fakes

Code = grpc.StatusCode
OLD, NEW = fakes.dictionary(), replace(fakes.dictionary(seed=1), folder="/bundles/new")
KNOWN = {one.weights_digest: one for one in (OLD, NEW)}


def identity(known: KnownDictionary = OLD, *, heard_of: bool = True, **changes: Any) -> StreamIdentity:
    opening = fakes.stream_open(known, **changes)
    return StreamIdentity(number=1, opening=opening, dictionary=known if heard_of else None)


STREAMS = {"a": [identity(engine="a")], "b": [identity(NEW, engine="b")]}


def watch_list(*ids: str, **fields: Any) -> tap_pb2.SetWatchListRequest:
    return tap_pb2.SetWatchListRequest(**{"weights_digest": OLD.weights_digest, "feature_ids": ids, **fields})


def loading(**fields: Any) -> tap_pb2.LoadDictionaryRequest:
    asked = {"replaces_digest": OLD.weights_digest, "weights_digest": NEW.weights_digest}
    return tap_pb2.LoadDictionaryRequest(**{**asked, **fields})


def refused(read: Any, request: Any, streams: changes.Streams = STREAMS, known: changes.Known = KNOWN) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(request, streams, known)
    return caught.value


def test_on_and_off_are_for_every_engine_or_one() -> None:
    change = changes.switch(tap_pb2.SetWatchingRequest(on=True), STREAMS, KNOWN)
    assert (change.engines, change.verb, change.arguments) == (["a", "b"], "on", {})
    change = changes.switch(tap_pb2.SetWatchingRequest(on=False, engine="b"), STREAMS, KNOWN)
    assert (change.engines, change.verb) == (["b"], "off")


def test_an_empty_request_switches_nothing_off() -> None:
    refusal = refused(changes.switch, tap_pb2.SetWatchingRequest())
    assert (refusal.code, str(refusal)) == (Code.INVALID_ARGUMENT, "on: found nothing, expected true or false")


def test_an_engine_that_is_not_there() -> None:
    asked = tap_pb2.SetWatchingRequest(on=True, engine="c")
    assert refused(changes.switch, asked).code is Code.NOT_FOUND
    assert refused(changes.switch, asked, {}).code is Code.UNAVAILABLE


def test_a_watch_list_is_for_the_engines_that_have_the_dictionary() -> None:
    change = changes.watch(watch_list("threat.p1", "animals.g1", "threat.p1"), STREAMS, KNOWN)
    assert (change.engines, change.verb) == (["a"], "watch")
    assert change.arguments == {
        "weights": OLD.weights_digest,
        "hook_point": "",
        "watch": '["animals.g1","threat.p1"]',
    }, "in one order, so that equal requests share an answer"
    back = changes.watch(watch_list(hook_point="resid_post.3"), STREAMS, KNOWN)
    assert (back.arguments["hook_point"], back.arguments["watch"]) == ("resid_post.3", "")


@pytest.mark.parametrize(
    ("fields", "field", "found"),
    [
        ({"weights_digest": "sha256:9"}, "weights_digest", "sha256:9"),
        ({"weights_digest": ""}, "weights_digest", "nothing"),
        ({"engine": "b"}, "weights_digest", OLD.weights_digest),
        ({"hook_point": "resid_post.9"}, "weights_digest", f"{OLD.weights_digest} at resid_post.9"),
    ],
)
def test_a_dictionary_that_no_stream_has(fields: dict[str, str], field: str, found: str) -> None:
    refusal = refused(changes.watch, watch_list(**fields))
    assert (refusal.code, refusal.error.subject, refusal.error.found) == (Code.NOT_FOUND, field, found)
    there = STREAMS[fields.get("engine") or "a"][0].opening.weights_digest
    assert f"{there} at resid_post.3" in str(refusal), "with those that are there"


def test_no_stream_at_all() -> None:
    assert "there is none" in str(refused(changes.watch, watch_list(), {"a": []}))


def test_a_dictionary_at_two_hook_points_of_one_engine() -> None:
    two = {"a": [identity(), identity(hook_point="resid_post.5", stream=2)]}
    refusal = refused(changes.watch, watch_list(), two)
    assert refusal.error.subject == "hook_point"
    assert "resid_post.3, resid_post.5" in str(refusal)
    assert changes.watch(watch_list(hook_point="resid_post.5"), two, KNOWN).engines == ["a"]


def test_unknown_features_are_named_with_the_nearest() -> None:
    refusal = refused(changes.watch, watch_list("threat.l7", "animals.g1", "zzz"))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.error.found == "'threat.l7', 'zzz'"
    assert refusal.error.hint == "The nearest that there are: threat.l1."
    assert "ListFeatures" in refused(changes.watch, watch_list("zzz")).error.hint
    assert str(refused(changes.watch, watch_list(*(f"z{number}" for number in range(9)))).error.found).endswith(" …")


def test_features_of_a_dictionary_that_is_not_known_here() -> None:
    streams = {"a": [identity(heard_of=False)]}
    assert "`dictionaries`" in refused(changes.watch, watch_list("threat.l1"), streams, {}).error.hint
    assert changes.watch(watch_list(), streams, {}).arguments["watch"] == "", "back to what it was can be asked for"


def test_a_list_of_ids_fits_a_record() -> None:
    ids = [f"a_feature_with_quite_a_long_name_{number}.l1" for number in range(1, 120)]
    known = fakes.dictionary([fakes.feature(one, latents=(3,)) for one in sorted(ids)])
    streams = {"a": [identity(known)]}
    request = watch_list(*ids, weights_digest=known.weights_digest)
    refusal = refused(changes.watch, request, streams, {known.weights_digest: known})
    assert refusal.error.found == f"119 ids of {len(json.dumps(ids)) - 118} bytes"
    del request.feature_ids[80:]
    assert changes.watch(request, streams, {known.weights_digest: known}).verb == "watch"


def test_more_slots_than_a_watch_set_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_SLOTS", 3)
    assert "found 4 rows, expected at most 3" in str(refused(changes.load, loading()))
    refusal = refused(changes.watch, watch_list("animals.g1", "threat.l1", "threat.p1"))
    assert "found 4 rows, expected at most 3" in str(refusal)


def test_a_load_has_the_folder_that_this_sidecar_has_or_the_one_that_is_given() -> None:
    change = changes.load(loading(), STREAMS, KNOWN)
    assert (change.engines, change.verb) == (["a"], "load")
    assert change.arguments == {
        "replace": OLD.weights_digest,
        "hook_point": "",
        "path": "/bundles/new",
        "weights": NEW.weights_digest,
    }
    assert changes.load(loading(path="/other"), STREAMS, KNOWN).arguments["path"] == "/other"


@pytest.mark.parametrize("path", ["new", "/a\0b", "/" + "a" * limits.TEXT_BYTES])
def test_a_path_that_no_engine_could_open(path: str) -> None:
    assert refused(changes.load, loading(path=path)).error.subject == "path"


def test_a_dictionary_without_a_folder_needs_a_path() -> None:
    known = {**KNOWN, NEW.weights_digest: replace(NEW, folder="")}
    assert "path: found nothing" in str(refused(changes.load, loading(), STREAMS, known))


def test_a_dictionary_that_is_not_known_here_is_not_loaded() -> None:
    refusal = refused(changes.load, loading(), STREAMS, {OLD.weights_digest: OLD})
    assert (refusal.code, refusal.error.subject) == (Code.NOT_FOUND, "weights_digest")
    assert "Nobody could read its firings" in refusal.error.hint
    assert "`dictionaries`" in refusal.error.hint


def test_the_same_dictionary_is_no_other_one() -> None:
    refusal = refused(changes.load, loading(weights_digest=OLD.weights_digest))
    assert (refusal.code, refusal.error.subject) == (Code.INVALID_ARGUMENT, "weights_digest")


@pytest.mark.parametrize("changed", ["hook_point", "d_in"])
def test_a_dictionary_of_another_hook_point_or_size(changed: str) -> None:
    sheet = NEW.manifest
    other = {
        "hook_point": replace(sheet, hook_point="resid_post.4"),
        "d_in": replace(sheet, encoder=replace(sheet.encoder, d_in=16)),
    }[changed]
    known = {**KNOWN, NEW.weights_digest: replace(NEW, manifest=other)}
    refusal = refused(changes.load, loading(), STREAMS, known)
    assert refusal.code is Code.FAILED_PRECONDITION
    said = {"hook_point": "found resid_post.4, expected resid_post.3", "d_in": "found 16, expected 8"}[changed]
    assert str(refusal).startswith(f"dictionary.{changed}: {said}. ")


def test_in_the_place_of_a_dictionary_that_is_not_known_here() -> None:
    """Its hook point is known all the same: the stream says it."""
    streams = {"a": [identity(heard_of=False)]}
    assert changes.load(loading(), streams, {NEW.weights_digest: NEW}).engines == ["a"]
    streams = {"a": [identity(heard_of=False, hook_point="resid_post.9")]}
    assert "resid_post.9" in str(refused(changes.load, loading(), streams, {NEW.weights_digest: NEW}))


def test_a_long_id_does_not_make_a_long_refusal() -> None:
    features = tuple(fakes.feature(f"f{number}.l1", latents=(1,)) for number in range(500))
    known = replace(OLD, catalogue=Catalogue(weights=OLD.weights_digest, features=features))
    refusal = refused(changes.watch, watch_list("f4" * 10_000), STREAMS, {OLD.weights_digest: known})
    assert len(str(refusal)) < 400
