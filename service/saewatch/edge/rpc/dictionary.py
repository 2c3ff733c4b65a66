"""`DictionaryService`: the dictionaries that this sidecar was configured with. Pages by AIP-158."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from saewatch.core import limits
from saewatch.edge.access import Principal
from saewatch.edge.pb import dictionary_pb2
from saewatch.edge.rpc import messages
from saewatch.edge.rpc.calls import Streaming, Unary
from saewatch.edge.rpc.refusals import invalid, missing
from saewatch.monitor.tables import KnownDictionary

PAGE_SIZE = 50
T = TypeVar("T")


class DictionaryService:
    """Serves what was loaded at start."""

    SERVICE = "saewatch.v1.DictionaryService"

    def __init__(self, dictionaries: Mapping[str, KnownDictionary]) -> None:
        self._dictionaries = dictionaries

    def methods(self) -> Mapping[str, Unary | Streaming]:
        """Its methods by name."""
        return {
            "ListDictionaries": Unary(dictionary_pb2.ListDictionariesRequest, self.list_dictionaries),
            "GetDictionary": Unary(dictionary_pb2.GetDictionaryRequest, self.get_dictionary),
            "ListFeatures": Unary(dictionary_pb2.ListFeaturesRequest, self.list_features),
        }

    async def list_dictionaries(
        self, request: dictionary_pb2.ListDictionariesRequest, _: Principal
    ) -> dictionary_pb2.ListDictionariesResponse:
        """A page of dictionaries."""
        ordered = [self._dictionaries[digest] for digest in sorted(self._dictionaries)]
        page, following = _page(ordered, lambda one: one.weights_digest, request.page_size, request.page_token)
        return dictionary_pb2.ListDictionariesResponse(dictionaries=map(_dictionary, page), next_page_token=following)

    async def get_dictionary(
        self, request: dictionary_pb2.GetDictionaryRequest, _: Principal
    ) -> dictionary_pb2.GetDictionaryResponse:
        """One dictionary."""
        return dictionary_pb2.GetDictionaryResponse(dictionary=_dictionary(self._find(request.weights_digest)))

    async def list_features(
        self, request: dictionary_pb2.ListFeaturesRequest, _: Principal
    ) -> dictionary_pb2.ListFeaturesResponse:
        """A page of a dictionary's features."""
        features = [
            one
            for one in self._find(request.weights_digest).catalogue.features
            if request.category in {"", one.category}
        ]
        page, following = _page(features, lambda one: one.id, request.page_size, request.page_token)
        return dictionary_pb2.ListFeaturesResponse(features=map(messages.feature, page), next_page_token=following)

    def _find(self, digest: str) -> KnownDictionary:
        known = self._dictionaries.get(digest)
        if known is None:
            hint = "ListDictionaries has those that are configured here."
            raise missing("weights_digest", found=digest[:128] or "nothing", expected="a known digest", hint=hint)
        return known


def _page(items: Sequence[T], name: Callable[[T], str], size: int, token: str) -> tuple[Sequence[T], str]:
    """The items after ``token``, which is the name of the last one before; and the next token."""
    if size < 0:
        raise invalid("page_size", found=size, expected="0 or more")
    names = [name(item) for item in items]
    if token and token not in names:
        raise invalid("page_token", found=repr(token[:128]), expected="a next_page_token of the same list")
    first = names.index(token) + 1 if token else 0
    last = first + min(size or PAGE_SIZE, limits.PAGE_ITEMS)
    return items[first:last], names[last - 1] if last < len(items) else ""


def _dictionary(known: KnownDictionary) -> dictionary_pb2.Dictionary:
    encoder = known.manifest.encoder
    return dictionary_pb2.Dictionary(
        weights_digest=known.weights_digest,
        catalogue_digest=known.catalogue_digest,
        bundle_digest=known.bundle_digest,
        kind=known.manifest.kind,
        hook_point=known.manifest.hook_point,
        activation=encoder.activation,
        latents=encoder.latents,
        directions=encoder.directions,
        d_in=encoder.d_in,
        modes=encoder.modes,
        features=len(known.catalogue.features),
        model_id=known.model_id,
    )
