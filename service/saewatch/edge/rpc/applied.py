"""What bringing a bundle to engines takes in each of them, decided from what their streams have in force.

Same weights, and the same rows and floors to watch: labels alone differ, so that the sidecar takes the new catalogue
and no engine is touched. Anything else is loaded by the engine, between two steps. A bundle that is in force already is
left alone, so that whoever does not know how far a call got may repeat it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from saewatch.core.errors import MisfitError, SaewatchError, UnreachableError
from saewatch.core.records import Role
from saewatch.edge.commands import LOAD
from saewatch.edge.pb import common_pb2, tap_pb2
from saewatch.edge.rpc.changes import Change, Streams, check_fit, check_slots, chosen, folder
from saewatch.edge.rpc.refusals import Refusal, invalid, missing
from saewatch.edge.shelf import Shelf
from saewatch.monitor.tables import KnownDictionary, StreamIdentity

_ROLES: Mapping[int, Role] = {common_pb2.ROLE_STABLE: Role.STABLE, common_pb2.ROLE_SHADOW: Role.SHADOW}


class How(enum.Enum):
    """What it takes."""

    LOADED = tap_pb2.APPLIED_LOADED
    RELABELLED = tap_pb2.APPLIED_RELABELLED
    ALREADY = tap_pb2.APPLIED_ALREADY


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What it takes in one engine: the stream that it is about, and the command for one that has to load."""

    engine: str
    how: How
    stream: StreamIdentity
    change: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A bundle, and what it takes in the engines that have a place for it."""

    known: KnownDictionary
    steps: Sequence[Step]


def application(request: tap_pb2.ApplyBundleRequest, streams: Streams, shelf: Shelf) -> Application:
    """What is asked for, checked as far as the sidecar sees. Raises `Refusal`."""
    role = _ROLES.get(request.role)
    if role is None:
        raise invalid("role", found="none", expected="stable or shadow")
    engines = chosen([*streams], request.engine)
    new = _read(shelf, request.bundle_digest)
    check_slots(new)
    path = request.path or new.folder
    places = {engine: one for engine in engines if (one := _place(streams[engine], new, role)) is not None}
    if not places:
        raise _no_place(new, role, {engine: streams[engine] for engine in engines})
    return Application(known=new, steps=[_step(engine, stream, new, path=path) for engine, stream in places.items()])


def _read(shelf: Shelf, bundle: str) -> KnownDictionary:
    try:
        return shelf.read(bundle)
    except UnreachableError as error:
        raise missing(
            "bundle_digest", found=bundle[:128] or "nothing", expected="a bundle that it can read", hint=str(error)
        ) from error
    except SaewatchError as error:
        raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, error, reason="MANIFEST") from error


def _place(streams: Sequence[StreamIdentity], new: KnownDictionary, role: Role) -> StreamIdentity | None:
    """The engine's stream of that hook point and role. Raises `Refusal` for several."""
    found = [
        one for one in streams if (one.opening.hook_point, one.opening.role) == (new.manifest.hook_point, role.value)
    ]
    if len(found) > 1:
        several = f"{len(found)} {role} streams at {new.manifest.hook_point} in engine {found[0].opening.engine}"
        hint = "Say which one is to go with `saewatch tap load --replaces`, or try again if one has just been replaced."
        raise invalid("role", found=several, expected="one", hint=hint)
    return found[0] if found else None


def _step(engine: str, stream: StreamIdentity, new: KnownDictionary, *, path: str) -> Step:
    check_fit(new, stream)
    before = stream.dictionary
    if stream.opening.weights_digest == new.weights_digest:
        if before is not None and before.bundle_digest == new.bundle_digest:
            return Step(engine=engine, how=How.ALREADY, stream=stream)
        if before is None or _watched(before) == _watched(new):
            return Step(engine=engine, how=How.RELABELLED, stream=stream)
    arguments = {
        "replace": stream.opening.weights_digest,
        "hook_point": stream.opening.hook_point,
        "role": stream.opening.role,
        "path": folder(path),
        "weights": new.weights_digest,
    }
    change = Change(engines=[engine], verb=LOAD, arguments=arguments)
    return Step(engine=engine, how=How.LOADED, stream=stream, change=change)


def _watched(known: KnownDictionary) -> str:
    """What an engine emits that watches all of its features."""
    return known.catalogue.watch_list(known.manifest).digest


def _no_place(new: KnownDictionary, role: Role, streams: Streams) -> Refusal:
    there = sorted({f"{one.opening.hook_point} ({one.opening.role})" for of in streams.values() for one in of})
    found = ", ".join(there[:8]) or "no open stream"
    expected = f"{new.manifest.hook_point} ({role})"
    where = "--shadow" if role is Role.SHADOW else "--dictionary"
    hint = (
        f"The compiled graph holds its hook points: start the engine with a bundle there, `saewatch vllm-args {where}`."
    )
    error = MisfitError("streams", found=found, expected=expected, hint=hint)
    return Refusal(grpc.StatusCode.NOT_FOUND, error, reason="NOT_FOUND")
