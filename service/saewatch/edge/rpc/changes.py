"""What a request to change a tap makes of a command, checked before anything is sent.

The engine checks again, and more: its buffers, its memory, the tensors. What the sidecar can see is refused here, since
an engine's thread should not open a bundle whose firings nobody could read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from saewatch.core import limits
from saewatch.core.catalogue import Catalogue
from saewatch.core.errors import ConfigError, MisfitError, UnreachableError
from saewatch.core.spelling import near
from saewatch.edge.commands import LOAD, OFF, ON, WATCH
from saewatch.edge.pb import tap_pb2
from saewatch.edge.rpc.refusals import Refusal, invalid, missing
from saewatch.monitor.blindness import HINTS, NO_ENGINE
from saewatch.monitor.streams import UNKNOWN_DICTIONARY
from saewatch.monitor.tables import KnownDictionary, StreamIdentity

Streams = Mapping[str, Sequence[StreamIdentity]]
"""The open streams of each connected engine."""
Known = Mapping[str, KnownDictionary]
"""By weights digest."""
OF_THE_STORE = "Or promote its bundle in the store, and `saewatch dictionary apply` brings both."
NAMED = 4
"""Unknown ids that a refusal names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A command for some engines."""

    engines: Sequence[str]
    verb: str
    arguments: Mapping[str, str]


def chosen(engines: Sequence[str], name: str) -> Sequence[str]:
    """The engine of that name, or all of them without one. Raises `Refusal` for none."""
    if not engines:
        error = UnreachableError("engine", found="none connected", expected="one at least", hint=HINTS[NO_ENGINE])
        raise Refusal(grpc.StatusCode.UNAVAILABLE, error, reason="UNAVAILABLE")
    if name and name not in engines:
        raise missing("engine", found=repr(name[:128]), expected=f"one of {', '.join(map(repr, engines))}")
    return [name] if name else engines


def switch(request: tap_pb2.SetWatchingRequest, streams: Streams, _: Known) -> Change:
    """On or off. Raises `Refusal`."""
    if not request.HasField("on"):
        raise invalid("on", found="nothing", expected="true or false")
    return Change(engines=chosen([*streams], request.engine), verb=ON if request.on else OFF, arguments={})


def watch(request: tap_pb2.SetWatchListRequest, streams: Streams, known: Known) -> Change:
    """Other features of a dictionary. Raises `Refusal`."""
    engines = _with_stream("weights_digest", request.weights_digest, request, streams)
    ids = sorted(set(request.feature_ids))
    if ids:
        _check_ids(ids, known.get(request.weights_digest))
    arguments = {
        "weights": request.weights_digest,
        "hook_point": request.hook_point,
        "watch": _listed(ids) if ids else "",
    }
    return Change(engines=[*engines], verb=WATCH, arguments=arguments)


def load(request: tap_pb2.LoadDictionaryRequest, streams: Streams, known: Known) -> Change:
    """Another dictionary in the place of one that is in force. Raises `Refusal`."""
    engines = _with_stream("replaces_digest", request.replaces_digest, request, streams)
    new = known.get(request.weights_digest)
    if new is None:
        hint = f"Nobody could read its firings. {HINTS[UNKNOWN_DICTIONARY]} {OF_THE_STORE}"
        found, expected = request.weights_digest[:128] or "nothing", "a dictionary that this sidecar knows"
        raise missing("weights_digest", found=found, expected=expected, hint=hint)
    if request.weights_digest == request.replaces_digest:
        raise invalid("weights_digest", found="the dictionary that is to be replaced", expected="another one")
    for stream in engines.values():
        check_fit(new, stream)
    check_slots(new)
    arguments = {
        "replace": request.replaces_digest,
        "hook_point": request.hook_point,
        "path": folder(request.path or new.folder),
        "weights": request.weights_digest,
    }
    return Change(engines=[*engines], verb=LOAD, arguments=arguments)


def _with_stream(
    field: str,
    digest: str,
    request: tap_pb2.SetWatchListRequest | tap_pb2.LoadDictionaryRequest,
    streams: Streams,
) -> dict[str, StreamIdentity]:
    """The engines that have the dictionary, and its stream. One that has not is left out, unless it alone is meant."""
    engines = chosen([*streams], request.engine)
    found: dict[str, StreamIdentity] = {}
    for engine in engines:
        of_digest = [one for one in streams[engine] if one.opening.weights_digest == digest]
        meant = [one for one in of_digest if request.hook_point in {"", one.opening.hook_point}]
        if len(meant) > 1:
            places = ", ".join(sorted(one.opening.hook_point for one in meant))
            raise invalid("hook_point", found=f"streams at {places} in engine {engine}", expected="one of them")
        if meant:
            found[engine] = meant[0]
    if not found:
        at = f" at {request.hook_point[:64]}" if request.hook_point else ""
        there = sorted({_named(one) for engine in engines for one in streams[engine]})[:8]
        expected = f"one of {', '.join(there)}" if there else "an open stream: there is none"
        raise missing(field, found=f"{digest[:128] or 'nothing'}{at}", expected=expected)
    return found


def _named(stream: StreamIdentity) -> str:
    return f"{stream.opening.weights_digest} at {stream.opening.hook_point}"


def _check_ids(ids: Sequence[str], known: KnownDictionary | None) -> None:
    if known is None:
        found = "features of a dictionary that this sidecar does not know"
        raise invalid("feature_ids", found=found, expected="none", hint=HINTS[UNKNOWN_DICTIONARY])
    there = {one.id for one in known.catalogue.features}
    unknown = [one for one in ids if one not in there]
    if unknown:
        said = ", ".join(repr(one[:64]) for one in unknown[:NAMED]) + (" …" if unknown[NAMED:] else "")
        raise invalid(
            "feature_ids", found=said, expected="ids of its catalogue", hint=_nearest(unknown, known.catalogue)
        )
    check_slots(known, ids)


def _nearest(unknown: Sequence[str], catalogue: Catalogue) -> str:
    ids = [one.id for one in catalogue.features]
    like = [match for one in unknown[:NAMED] for match in near(one, ids)]
    return f"The nearest that there are: {', '.join(dict.fromkeys(like))}." if like else "ListFeatures has them all."


def _listed(ids: Sequence[str]) -> str:
    text = json.dumps(ids, separators=(",", ":"))
    if len(text.encode()) > limits.TEXT_BYTES:
        found, hint = (
            f"{len(ids)} ids of {len(text)} bytes",
            "Watch fewer, or all that the configuration says: none here.",
        )
        raise invalid("feature_ids", found=found, expected=f"at most {limits.TEXT_BYTES} bytes in all", hint=hint)
    return text


def check_slots(known: KnownDictionary, ids: Sequence[str] = ()) -> None:
    """Raises `Refusal` where more is to be watched than a watch set holds."""
    try:
        known.catalogue.watch_list(known.manifest, ids)
    except ConfigError as error:
        raise invalid("slots", found=error.found, expected=error.expected, hint="Watch fewer features.") from error


def check_fit(new: KnownDictionary, stream: StreamIdentity) -> None:
    """Raises `Refusal` where it cannot take that stream's place."""
    pairs = [("hook_point", new.manifest.hook_point, stream.opening.hook_point)]
    if stream.dictionary is not None:
        pairs.append(("d_in", str(new.manifest.encoder.d_in), str(stream.dictionary.manifest.encoder.d_in)))
    for name, found, expected in pairs:
        if found != expected:
            hint = "Only a dictionary of the same hook point and size can take its place while the engine serves."
            error = MisfitError(f"dictionary.{name}", found=found, expected=expected, hint=hint)
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, error, reason="MISFIT")


def folder(text: str) -> str:
    """A path as an engine may be told. Raises `Refusal` for none."""
    if not text.startswith("/") or "\0" in text or len(text.encode()) > limits.TEXT_BYTES:
        expected = f"an absolute path of at most {limits.TEXT_BYTES} bytes"
        hint = "" if text else "This sidecar has no folder of it (a recording's): name the one that the engine sees."
        raise invalid("path", found=repr(text[:128]) if text else "nothing", expected=expected, hint=hint)
    return text
