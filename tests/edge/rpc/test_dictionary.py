"""DictionaryService: pages."""

from __future__ import annotations

import grpc
import pytest

from saewatch.edge.pb import common_pb2, dictionary_pb2
from tests import fakes
from tests.edge.rpc.served import serving


async def test_pages_hold_every_dictionary_once() -> None:
    known = [fakes.dictionary(seed=seed) for seed in range(5)]
    async with serving(known=known) as served:
        found, token, pages = [], "", 0
        while pages == 0 or token:
            request = dictionary_pb2.ListDictionariesRequest(page_size=2, page_token=token)
            answer = await served.dictionaries.ListDictionaries(request)
            found += [one.weights_digest for one in answer.dictionaries]
            token, pages = answer.next_page_token, pages + 1
        assert (found, pages) == (sorted(one.weights_digest for one in known), 3)


async def test_a_dictionary() -> None:
    async with serving() as served:
        digest = served.dictionary.weights_digest
        answer = await served.dictionaries.GetDictionary(dictionary_pb2.GetDictionaryRequest(weights_digest=digest))
        one = answer.dictionary
        assert (one.kind, one.hook_point, one.activation) == ("sae", "resid_post.3", "jumprelu")
        assert (one.latents, one.directions, one.d_in, one.features) == (64, 4, 8, 3)


async def test_features_by_category() -> None:
    async with serving() as served:
        digest = served.dictionary.weights_digest
        request = dictionary_pb2.ListFeaturesRequest(weights_digest=digest, category="vcr")
        answer = await served.dictionaries.ListFeatures(request)
        assert [one.id for one in answer.features] == ["threat.l1", "threat.p1"]
        assert answer.next_page_token == ""
        latent, direction = answer.features
        assert (list(latent.latents), latent.HasField("direction")) == ([3], False)
        assert (list(direction.latents), direction.direction, direction.HasField("direction")) == ([], 0, True)
        assert latent.severity == common_pb2.SEVERITY_LOW


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (dictionary_pb2.ListFeaturesRequest(weights_digest="sha256:0"), grpc.StatusCode.NOT_FOUND),
        (dictionary_pb2.ListFeaturesRequest(), grpc.StatusCode.NOT_FOUND),
        (dictionary_pb2.ListFeaturesRequest(page_size=-1), grpc.StatusCode.INVALID_ARGUMENT),
        (dictionary_pb2.ListFeaturesRequest(page_token="x"), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_makes_no_sense(request_: dictionary_pb2.ListFeaturesRequest, code: grpc.StatusCode) -> None:
    async with serving() as served:
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            request_.weights_digest = served.dictionary.weights_digest
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.dictionaries.ListFeatures(request_)
        assert caught.value.code() is code
