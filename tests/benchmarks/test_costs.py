from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.blocks import ARMS, PARTS, SEEN, TAPPED, Block, Load
from benchmarks.costs import Beside, Rounds, accounted, facts_of, faults, goals, rows_of

LOAD = Load(model="m", bundle="b", socket="s", prompts=((1, 2, 3), (4, 5)), tokens=4, rounds=3)
STEPS = (0.2, 0.1, 0.1, 0.1)
FED = 3 + 2 + 2 * 3
HEARD = Beside(rows=54, told=54, refused={}, blind="", sidecar_cpu=0.02, others_cpu=0.1)


def block(arm: str, **changes: Any) -> Block:
    seen = arm in SEEN
    sound = Block(
        arm=arm,
        steps=STEPS,
        mismatched=0,
        calls=len(STEPS) if arm in TAPPED else 0,
        fed=FED if seen else 0,
        encoded=FED - 2 if seen else 0,
        reused=0,
        missed={"excluded": 2} if seen else {},
        firings=27 if seen else 0,
        spent=dict.fromkeys(PARTS, 0.001 if seen else 0.0),
    )
    return replace(sound, **changes)


def sound() -> list[dict[str, Block]]:
    return [{arm: block(arm) for arm in ARMS} for _ in range(3)]


def with_block(arm: str, **changes: Any) -> Rounds:
    rounds = sound()
    rounds[1][arm] = block(arm, **changes)
    return rounds


def test_a_block_feeds_prompts_and_answers_without_their_last_token() -> None:
    assert LOAD.fed == FED


def test_a_sound_run_has_no_faults() -> None:
    assert not list(faults(LOAD, sound(), HEARD))


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        pytest.param(with_block("watching", mismatched=1), "1 answers differ", id="tokens"),
        pytest.param(with_block("bare", calls=1), "called 1 times", id="a sink in the bare graph"),
        pytest.param(with_block("off", calls=0), "called 0 times", id="no sink in the tapped graph"),
        pytest.param(with_block("watching", encoded=FED - 3), "fed 11", id="books"),
        pytest.param(with_block("watching", fed=FED - 1, encoded=FED - 3), "not 11", id="fed"),
        pytest.param(with_block("off", fed=1, encoded=1), "not 0", id="off, and seen"),
    ],
)
def test_a_fault_of_a_block_is_told(rounds: Rounds, says: str) -> None:
    (found,) = faults(LOAD, rounds, HEARD)
    assert found.startswith("round 1, ")
    assert says in found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"blind": "fault"}, "blind: fault"),
        ({"refused": {"bad_frames": 2}}, "refused {'bad_frames': 2}"),
        ({"rows": 53}, "heard 53 rows"),
    ],
)
def test_a_fault_of_the_sidecar_is_told(changes: dict[str, Any], says: str) -> None:
    (found,) = faults(LOAD, sound(), replace(HEARD, **changes))
    assert says in found


def test_a_lost_token_is_told_and_is_no_fault() -> None:
    rounds = with_block("watching", encoded=FED - 3, missed={"excluded": 2, "no_slot": 1})
    assert not list(faults(LOAD, rounds, HEARD))
    facts = facts_of(LOAD, rounds, HEARD)
    assert facts["blocks_with_loss"] == 1
    assert facts["coverage_without_excluded"] == pytest.approx(26 / 27)
    assert {row["arm"]: row["lost"] for row in rows_of(LOAD, rounds)} == {**dict.fromkeys(ARMS, 0), "watching": 1}


def test_excluded_tokens_are_no_loss() -> None:
    facts = facts_of(LOAD, sound(), HEARD)
    assert (facts["coverage_without_excluded"], facts["blocks_with_loss"]) == (1.0, 0)


def test_what_is_replayed_was_seen_too() -> None:
    shared = replace(LOAD, shared=2)
    rounds = [
        {arm: block(arm, encoded=FED - 6, reused=4) if arm in SEEN else one for arm, one in found.items()}
        for found in sound()
    ]
    assert not list(faults(shared, rounds, HEARD))
    facts = facts_of(shared, rounds, HEARD)
    assert (facts["coverage_without_excluded"], facts["reused_share"]) == (1.0, 4 / FED)
    assert facts["firings_per_token"] == facts_of(LOAD, sound(), HEARD)["firings_per_token"]
    told = list(faults(shared, sound(), HEARD))
    assert len(told) == 3 * len(SEEN)
    assert told[0].endswith("watching: nothing was replayed of 2 tokens that each prompt begins with")


def test_long_prompts_have_no_time_between_two_tokens() -> None:
    facts = facts_of(replace(LOAD, tokens=1), sound(), HEARD)
    assert not [name for name in facts if name.startswith("inter_token")]
    row = rows_of(replace(LOAD, tokens=1), sound())[0]
    assert row["steps"] == 3 * len(STEPS)
    assert "inter_token_ms_p50" not in row


def test_accounted_is_the_sum_of_its_parts_over_the_seconds_of_the_steps() -> None:
    spent = {"sink": 0.001, "snapshot": 0.002, "encode": 0.003, "host": 0.004, "ship": 0.005}
    rounds = [{**one, "watching": block("watching", spent=spent)} for one in sound()]
    facts = accounted(rounds, "watching")
    assert facts["accounted"] == pytest.approx(0.015 / 0.5)
    assert facts["accounted_ship"] == pytest.approx(0.005 / 0.5)
    assert sum(facts[f"accounted_{part}"] for part in PARTS) == pytest.approx(facts["accounted"])


def test_each_ratio_is_of_its_two_arms() -> None:
    times = {"bare": 1.0, "again": 0.99, "off": 1.01, "watching": 1.03, "all": 1.5}
    rounds = [{arm: block(arm, steps=[factor * step for step in STEPS]) for arm, factor in times.items()}] * 3
    facts = facts_of(LOAD, rounds, HEARD)
    assert facts["ratio_median"] == facts["ratio_upper95"] == pytest.approx(1.03)
    assert facts["ratio_after_sink_median"] == pytest.approx(1.03 / 1.01)
    assert facts["ratio_sink_median"] == pytest.approx(1.01)
    assert facts["ratio_all_median"] == pytest.approx(1.5)
    assert facts["ratio_same_median"] == pytest.approx(0.99)
    assert facts["inter_token_p50_ratio"] == facts["inter_token_p99_ratio"] == pytest.approx(1.03)


def test_the_prompts_step_is_not_between_two_tokens() -> None:
    rounds = [{**one, "bare": block("bare", steps=(9.0, 0.1, 0.1, 0.1))} for one in sound()]
    row = next(row for row in rows_of(LOAD, rounds) if row["arm"] == "bare")
    assert row["inter_token_ms_p99"] == pytest.approx(100.0)
    assert row["seconds"] == pytest.approx([9.3] * 3)


def test_goals_are_judged_and_not_run_without_the_larger_model() -> None:
    assert {goal["met"] for goal in goals({}).values()} == {"not run"}
    judged = goals({"accounted": 0.007, "ratio_upper95": 1.031})
    assert (judged["S1"]["met"], judged["S2"]["met"]) == ("accept", "no")
