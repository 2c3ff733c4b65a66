"""A block's digest names the adapter and every token up to its end, and nothing else; whose tokens are known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from saewatch.engine.chain import Chain
from saewatch.engine.ledger import Ledger, NewRequest, Settled, Step

TOKENS = st.lists(st.integers(0, 3), max_size=24)


def digests(tokens: list[int], *, block: int = 4, adapter: str = "") -> list[bytes]:
    chain = Chain(tokens, block=block, adapter=adapter)
    found = [chain.digest(index) for index in range(len(tokens) // block)]
    assert chain.digest(len(tokens) // block) is None, "of a block that is not whole"
    return [digest for digest in found if digest]


@given(left=TOKENS, right=TOKENS)
def test_digests_are_equal_where_everything_before_is(left: list[int], right: list[int]) -> None:
    for index, (one, other) in enumerate(zip(digests(left), digests(right), strict=False), start=1):
        assert (one == other) == (left[: 4 * index] == right[: 4 * index])


def test_a_block_under_another_one_is_another_block() -> None:
    assert len({*digests([1, 2, 3, 4, 1, 2, 3, 4]), *digests([0, 0, 0, 0, 1, 2, 3, 4])}) == 4


def test_an_adapter_has_digests_of_its_own() -> None:
    assert len({digests([1, 2, 3, 4], adapter=adapter)[0] for adapter in ("", "a", "b", "\udcff")}) == 4


@given(tokens=TOKENS, asked=st.lists(st.integers(0, 5), max_size=4), cut=st.integers(0, 24))
def test_the_order_of_asking_and_of_appending_does_not_matter(tokens: list[int], asked: list[int], cut: int) -> None:
    chain = Chain(tokens[:cut], block=4)
    for index in asked:
        chain.digest(index)
    for token in tokens[cut:]:
        chain.append(token)
    assert [chain.digest(index) for index in range(len(tokens) // 4)] == digests(tokens)


def test_what_it_begins_with() -> None:
    chain = Chain([5, 6, 7], block=4)
    assert chain.begins_with([])
    assert chain.begins_with([5, 6, 7])
    assert not chain.begins_with([5, 7])
    assert not chain.begins_with([5, 6, 7, 8])
    chain.append(8)
    assert chain.begins_with([5, 6, 7, 8])


# --- whose tokens are known -------------------------------------------------------------------------------------------
def settle(ledger: Ledger, **facts: object) -> Settled:
    return ledger.settle(Step(number=1, time_ns=1, **facts))  # type: ignore[arg-type]  # a step's own fields


def new(name: str, ids: list[int], prompt_len: int | None = None, computed: int = 0) -> NewRequest:
    length = len(ids) if prompt_len is None else prompt_len
    return NewRequest(engine_id=name, prompt_len=length, computed=computed, prompt_token_ids=ids)


def test_the_ledger_knows_the_tokens_that_were_fed() -> None:
    ledger = Ledger(block=4)
    settle(ledger, new=[new("a", [1, 2, 3])], computed={"a": 3}, emitted={"a": [4, 5]})
    expected = Chain([1, 2, 3, 4], block=4).digest(0)
    assert ledger.chains[1].digest(0) == expected
    settle(ledger, finished=["a"])
    assert ledger.chains == {}


def test_a_prompt_whose_tokens_were_not_told_is_not_known() -> None:
    ledger = Ledger(block=4)
    settle(ledger, new=[new("a", [], 3), new("b", [1, 2], 3)], computed={"a": 3, "b": 3})
    assert ledger.chains == {}


def test_without_blocks_no_tokens_are_kept() -> None:
    ledger = Ledger()
    settle(ledger, new=[new("a", [1, 2, 3])], computed={"a": 3})
    assert ledger.chains == {}


def test_a_request_that_comes_back_with_other_tokens_is_not_known_any_more() -> None:
    ledger = Ledger(block=4)
    settle(ledger, new=[new("a", [1, 2, 3]), new("b", [1, 2, 3])], computed={"a": 3, "b": 3}, emitted={"a": [4]})
    settle(ledger, new=[new("a", [1, 2, 9]), new("b", [1, 2, 3])], computed={"a": 3, "b": 3})
    assert list(ledger.chains) == [2]
    settle(ledger, computed={"a": 4}, emitted={"a": [5]})
