"""The taps of a fake sidecar: self-tests, and what is changed in them, with the refusals of a real one."""

from __future__ import annotations

from collections.abc import Collection
from typing import NoReturn

import grpc

from saewatch.client.fake.made import ENGINE
from saewatch.client.fake.refusal import Refusal, invalid
from saewatch.client.fake.state import State
from saewatch.core.errors import SaewatchError
from saewatch.edge.pb import common_pb2, tap_pb2


class Taps:
    """One engine, which does what it is asked for at once."""

    def __init__(self, state: State) -> None:
        self._state = state

    def run_self_test(
        self, request: tap_pb2.RunSelfTestRequest, context: grpc.ServicerContext
    ) -> tap_pb2.RunSelfTestResponse:
        """All is well, unless the tap is blind."""
        state = self._state
        _check_engine(request.engine, context)
        good, failed = tap_pb2.CHECK_STATE_GOOD, tap_pb2.CHECK_STATE_FAILED
        check = tap_pb2.Check(name="tap", state=failed if state.blind else good)
        stream = state.made.stream(state.of.stream)
        test = tap_pb2.SelfTest(engine=ENGINE, stream=stream, good=not state.blind, checks=[check])
        return tap_pb2.RunSelfTestResponse(self_tests=[test])

    def set_watching(
        self, request: tap_pb2.SetWatchingRequest, context: grpc.ServicerContext
    ) -> tap_pb2.SetWatchingResponse:
        """Off: it is blind, and what it is fed is missed."""
        if not request.HasField("on"):
            invalid("on", found="nothing", expected="true or false").abort(context)
        _check_engine(request.engine, context)
        self._state.switch(on=request.on)
        return tap_pb2.SetWatchingResponse(changes=[tap_pb2.Change(engine=ENGINE, good=True)])

    def set_watch_list(
        self, request: tap_pb2.SetWatchListRequest, context: grpc.ServicerContext
    ) -> tap_pb2.SetWatchListResponse:
        """Another table from the next batch on."""
        made = self._state.made
        _check_engine(request.engine, context)
        if request.weights_digest != made.weights:
            _missing("weights_digest", request.weights_digest, [made.weights], context)
        unknown = [name for name in request.feature_ids if name not in made.features]
        if unknown:
            expected = f"one of {', '.join(made.features)}"
            invalid("feature_ids", found=", ".join(map(repr, unknown)), expected=expected).abort(context)
        self._state.rewatch(request.feature_ids)
        return tap_pb2.SetWatchListResponse(changes=[self._change()])

    def load_dictionary(
        self, request: tap_pb2.LoadDictionaryRequest, context: grpc.ServicerContext
    ) -> tap_pb2.LoadDictionaryResponse:
        """Another stream in the place of this one."""
        state = self._state
        _check_engine(request.engine, context)
        if request.replaces_digest != state.made.weights:
            _missing("replaces_digest", request.replaces_digest, [state.made.weights], context)
        new = state.dictionaries.get(request.weights_digest)
        if new is None:
            _missing("weights_digest", request.weights_digest, state.dictionaries, context)
        if new.weights == state.made.weights:
            found = "the dictionary that is to be replaced"
            invalid("weights_digest", found=found, expected="another one").abort(context)
        state.swap(new)
        change = self._change()
        change.opened.CopyFrom(new.stream(state.of.stream))
        return tap_pb2.LoadDictionaryResponse(changes=[change])

    def apply_bundle(
        self, request: tap_pb2.ApplyBundleRequest, context: grpc.ServicerContext
    ) -> tap_pb2.ApplyBundleResponse:
        """As `load_dictionary`, for a bundle: here each has the digest of its weights. It has no shadow."""
        state = self._state
        _check_engine(request.engine, context)
        if request.role != common_pb2.ROLE_STABLE:
            _missing("role", common_pb2.Role.Name(request.role), ["ROLE_STABLE"], context)
        new = state.dictionaries.get(request.bundle_digest)
        if new is None:
            _missing("bundle_digest", request.bundle_digest, state.dictionaries, context)
        already = new.weights == state.made.weights
        if not already and not request.validate_only:
            state.swap(new)
        change = self._change()
        change.weights_digest = new.weights
        change.applied = tap_pb2.APPLIED_ALREADY if already else tap_pb2.APPLIED_LOADED
        return tap_pb2.ApplyBundleResponse(changes=[change])

    def _change(self) -> tap_pb2.Change:
        made = self._state.made
        return tap_pb2.Change(
            engine=ENGINE,
            good=True,
            weights_digest=made.weights,
            watch_digest=made.watch_digest,
            slots=made.slot_count,
        )


def _check_engine(name: str, context: grpc.ServicerContext) -> None:
    if name not in {"", ENGINE}:
        _missing("engine", name, [ENGINE], context)


def _missing(what: str, found: str, known: Collection[str], context: grpc.ServicerContext) -> NoReturn:
    error = SaewatchError(what, found=repr(found), expected=f"one of {', '.join(map(repr, known))}")
    Refusal(grpc.StatusCode.NOT_FOUND, error).abort(context)
