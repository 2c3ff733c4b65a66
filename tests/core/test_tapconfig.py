"""The tap's configuration: what is wrong is refused by its key, with what was found and what was expected."""

from __future__ import annotations

import contextlib
import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saewatch.core import limits
from saewatch.core.errors import ConfigError
from saewatch.core.tapconfig import SECTION, DictionaryUse, TapConfig, additional_config, read

LEAST: dict[str, Any] = {"socket": "/run/saewatch.sock", "dictionaries": [{"path": "/dictionaries/demo"}]}
PATH = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)

CONFIGS = st.builds(
    TapConfig,
    socket=PATH,
    dictionaries=st.lists(
        st.builds(
            DictionaryUse,
            path=PATH,
            watch=st.lists(st.text(), max_size=3).map(tuple),
            role=st.sampled_from(["stable", "shadow"]),
            mode=st.sampled_from(["exact", "thresholded"]),
            census=st.floats(0.0, 1.0),
            screen=st.sampled_from(["stored", "int8"]),
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    instance=st.text(),
    on_failure=st.sampled_from(["stop", "serve"]),
    slots=st.integers(1, 64),
    firings_per_token=st.integers(1, limits.WATCH_SLOTS),
    device_budget_mib=st.integers(1, 2**20),
    placement=st.sampled_from(["side", "graph"]),
    queue_bytes=st.integers(limits.FRAME_BYTES, 2**32),
    reuse_bytes=st.integers(0, limits.REUSE_BYTES_MAX),
)


@given(CONFIGS)
def test_what_the_engine_is_told_is_what_it_reads(config: TapConfig) -> None:
    assert read(json.loads(additional_config(config))[SECTION]) == config


def test_defaults() -> None:
    config = read(LEAST)
    assert config == TapConfig(socket="/run/saewatch.sock", dictionaries=(DictionaryUse(path="/dictionaries/demo"),))
    assert config.on_failure == "stop"
    assert config.dictionaries[0].watch == ()


def test_the_option_is_one_line_of_json_under_our_section() -> None:
    text = additional_config(read(LEAST))
    assert list(json.loads(text)) == [SECTION]
    assert "\n" not in text


def test_the_option_tells_every_field() -> None:
    told = json.loads(additional_config(read(LEAST)))[SECTION]
    assert set(told) == {item.name for item in fields(TapConfig)}
    assert set(told["dictionaries"][0]) == {item.name for item in fields(DictionaryUse)}


def top(**changes: Any) -> dict[str, Any]:
    return LEAST | changes


def use(**changes: Any) -> dict[str, Any]:
    return LEAST | {"dictionaries": [{"path": "/a"}, {"path": "/b"} | changes]}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in LEAST.items() if name != key}


KEY = "saewatch.dictionaries[1]"
REFUSED: list[tuple[Any, str, str, str]] = [
    (None, "saewatch", "nothing", "a mapping"),
    ([], "saewatch", "[] (list)", "a mapping"),
    ("on", "saewatch", "'on' (str)", "a mapping"),
    (top(sockt="x"), "saewatch.sockt", "an unknown key", "one of socket, dictionaries"),
    (top(**{"": 1}), "saewatch.", "an unknown key", "one of socket, dictionaries"),
    (use(watched=[]), f"{KEY}.watched", "an unknown key", "one of path, watch, role, mode, census, screen"),
    (without("socket"), "saewatch.socket", "nothing", "a path"),
    (top(socket=""), "saewatch.socket", "'' (str)", "a path"),
    (top(socket="a\0b"), "saewatch.socket", r"'a\x00b' (str)", "a path"),
    (top(socket="\ud800"), "saewatch.socket", r"'\ud800' (str)", "a path"),
    (top(socket=7), "saewatch.socket", "7 (int)", "a value of type str"),
    (top(socket=None), "saewatch.socket", "nothing", "a value of type str"),
    (top(socket="/" + "x" * 107), "saewatch.socket", "108 bytes", "at most 107"),
    (top(socket="/" + "é" * 54), "saewatch.socket", "109 bytes", "at most 107"),
    (without("dictionaries"), "saewatch.dictionaries", "nothing", "at least one dictionary"),
    (top(dictionaries=[]), "saewatch.dictionaries", "[] (list)", "at least one dictionary"),
    (top(dictionaries={}), "saewatch.dictionaries", "{} (dict)", "at least one dictionary"),
    (top(dictionaries="/a"), "saewatch.dictionaries", "'/a' (str)", "at least one dictionary"),
    (top(dictionaries=["/a"]), "saewatch.dictionaries[0]", "'/a' (str)", "a mapping"),
    (top(dictionaries=[None]), "saewatch.dictionaries[0]", "nothing", "a mapping"),
    (top(dictionaries=[{}]), "saewatch.dictionaries[0].path", "nothing", "a path"),
    (use(path=""), f"{KEY}.path", "'' (str)", "a path"),
    (use(path="\0"), f"{KEY}.path", r"'\x00' (str)", "a path"),
    (use(path=1), f"{KEY}.path", "1 (int)", "a value of type str"),
    (use(watch="abc"), f"{KEY}.watch", "'abc' (str)", "a list of feature ids"),
    (use(watch=[1]), f"{KEY}.watch", "[1] (list)", "a list of feature ids"),
    (use(watch=None), f"{KEY}.watch", "nothing", "a list of feature ids"),
    (use(role="candidate"), f"{KEY}.role", "'candidate'", "one of stable, shadow"),
    (use(role=1), f"{KEY}.role", "1 (int)", "a value of type str"),
    (use(mode="fast"), f"{KEY}.mode", "'fast'", "one of exact, thresholded"),
    (use(screen="int4"), f"{KEY}.screen", "'int4'", "one of stored, int8"),
    (use(census=1.5), f"{KEY}.census", "1.5", "a share from 0 to 1"),
    (use(census=-0.1), f"{KEY}.census", "-0.1", "a share from 0 to 1"),
    (use(census=float("nan")), f"{KEY}.census", "nan", "a share from 0 to 1"),
    (use(census=True), f"{KEY}.census", "True (bool)", "a value of type float"),
    (use(census="0.5"), f"{KEY}.census", "'0.5' (str)", "a value of type float"),
    (top(instance=3), "saewatch.instance", "3 (int)", "a value of type str"),
    (top(on_failure="shrug"), "saewatch.on_failure", "'shrug'", "one of stop, serve"),
    (top(on_failure=False), "saewatch.on_failure", "False (bool)", "a value of type str"),
    (top(slots=0), "saewatch.slots", "0", "1 to 64"),
    (top(slots=65), "saewatch.slots", "65", "1 to 64"),
    (top(slots=True), "saewatch.slots", "True (bool)", "a value of type int"),
    (top(slots=3.0), "saewatch.slots", "3.0 (float)", "a value of type int"),
    (top(slots="3"), "saewatch.slots", "'3' (str)", "a value of type int"),
    (top(firings_per_token=0), "saewatch.firings_per_token", "0", "1 to 65536"),
    (top(firings_per_token=65_537), "saewatch.firings_per_token", "65537", "1 to 65536"),
    (top(placement="beside"), "saewatch.placement", "'beside'", "one of side, graph"),
    (top(device_budget_mib=0), "saewatch.device_budget_mib", "0", "1 to 1048576"),
    (top(queue_bytes=limits.FRAME_BYTES - 1), "saewatch.queue_bytes", "131071", "131072 to 4294967296"),
    (top(queue_bytes=2**32 + 1), "saewatch.queue_bytes", "4294967297", "131072 to 4294967296"),
    (top(reuse_bytes=-1), "saewatch.reuse_bytes", "-1", "0 to 1099511627776"),
    (top(reuse_bytes=2**40 + 1), "saewatch.reuse_bytes", "1099511627777", "0 to 1099511627776"),
    (top(graph_version=1), "saewatch.graph_version", "an unknown key", "one of socket, dictionaries"),
]


@pytest.mark.parametrize(
    ("section", "key", "found", "expected"), REFUSED, ids=[f"{index}-{row[1]}" for index, row in enumerate(REFUSED)]
)
def test_a_refusal_names_the_key_what_was_found_and_what_was_expected(
    section: Any, key: str, found: str, expected: str
) -> None:
    read(LEAST)
    with pytest.raises(ConfigError) as caught:
        read(section)
    assert caught.value.subject == key
    assert str(caught.value.found) == found
    assert expected in str(caught.value.expected)


def test_a_long_value_is_cut_in_the_refusal() -> None:
    for section in (top(dictionaries="x" * 100_000), top(slots="9" * 100_000), top(role="x", **{"y" * 9: 1})):
        with pytest.raises(ConfigError) as caught:
            read(section)
        assert len(str(caught.value)) < 400


def test_a_socket_of_107_bytes_and_a_whole_share_are_taken() -> None:
    assert len(read(top(socket="/" + "x" * 106)).socket) == 107
    assert read(use(census=1)).dictionaries[1].census == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
ANYTHING = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
NAMES = st.sampled_from([item.name for item in fields(TapConfig)]) | st.text(max_size=5)
USES = st.dictionaries(st.sampled_from([item.name for item in fields(DictionaryUse)]), ANYTHING)


@given(st.dictionaries(NAMES, ANYTHING, max_size=3), st.lists(USES, max_size=2))
def test_anything_is_read_or_refused(section: dict[str, Any], uses: list[dict[str, Any]]) -> None:
    for value in (section, LEAST | section, LEAST | {"dictionaries": [{"path": "/a"} | item for item in uses]}):
        with contextlib.suppress(ConfigError):
            assert read(value).dictionaries
