"""What the rows of `bench_drift` come to: facts, what was wrong, and goals."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import form

BUDGET_OF_RUN = 2
"""False alarms that ten null weeks may have: 0.33 in 30 days are 0.8 of them, and chance may double it."""
LARGE = 1e9
"""Stands for what was never found: no goal is met by it."""
DELAYS = {
    "D4 prevalence x1.5 @1e-3": (75_000, 25_000),
    "D4 prevalence x2 @1e-3": (20_000, 8_000),
    "D4 prevalence x5 @1e-3": (2_200, 1_200),
    "D4 prevalence x2 @1e-4": (125_000, 40_000),
    "D4 prevalence x5 @1e-4": (11_000, 4_000),
    "D4 prevalence x5 @1e-5": (65_000, 28_000),
    "D5 prevalence x0 @1e-3": (5_500, 2_200),
    "D5 prevalence x0 @1e-4": (50_000, 16_000),
    "D5 prevalence x0 @1e-5": (400_000, 140_000),
    "D5 prevalence x0.5 @1e-3": (28_000, 10_000),
    "D6 intensity x2 @1e-3": (75_000, 20_000),
    "D6 intensity x5 @1e-4": (75_000, 28_000),
    "D7 activation x1.35 @1e-3": (9_000, 5_000),
    "D7 activation x2 @1e-4": (35_000, 15_000),
    "D7 activation sd x1.5 @1e-3": (15_000, 7_000),
}
"""Median requests before an alarm: accept, target."""
CELLS = ("exact", "silence", "costs", "weeks", "pairs", "null", "drift", "short", "dial", "cold", "peers")
Rows = Mapping[str, Mapping[str, Any]]


def facts(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Flat numbers of what was run."""
    by_cell = {row["cell"]: row for row in rows}
    found: dict[str, float] = {}
    for cell in ("null", "short", "pairs", "dial", "cold", "silence", "costs", "exact"):
        row = by_cell.get(cell, {}).items()
        found |= {key: value for key, value in row if isinstance(value, int | float) and key != "seconds"}
    if "null" in by_cell:
        low, high = by_cell["null"]["false_alarms_interval"]
        found |= {"budget": BUDGET_OF_RUN, "false_alarms_low": low, "false_alarms_high": high}
    for one in by_cell.get("peers", {}).get("table", ()):
        found[f"peer_{re.sub('[^a-z0-9]+', '_', one['method'].lower()).strip('_')}_week"] = one["false_alarms_week"]
    for one in by_cell.get("drift", {}).get("table", ()):
        name = one["effect"].replace(" ", "_").replace("@", "").replace(".", "_").replace("-", "_")
        found |= {f"{name}_found": one["found"], f"{name}_median_requests": one["median_requests"]}
    for one in by_cell.get("pairs", {}).get("table", ()):
        name = f"pair_in_{100 * one['share']:.0f}_percent"
        found |= {f"{name}_found": one["found"], f"{name}_median_requests": one["median_requests"]}
    return found


def correctness(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """What has to hold exactly."""
    row = next((row for row in rows if row["cell"] == "exact"), None)
    if row is None:
        return {"compared": 0, "mismatched": 0}
    over = int(row["bet_mean_max"] > 1.0 + 1e-9)
    return {"compared": row["merges"] + row["bets"], "mismatched": row["merges_wrong"] + over}


def goals(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Judged; `not run` where the cell was not."""
    by_cell: Rows = {row["cell"]: row for row in rows}
    return {
        **_null(by_cell),
        **_delays(by_cell),
        **_short(by_cell),
        **_pairs(by_cell),
        **_costs(by_cell),
        **_peers(by_cell),
        **_rest(by_cell),
    }


def _null(rows: Rows) -> dict[str, dict[str, Any]]:
    row, dial = rows.get("null", {}), rows.get("dial", {})
    at = [dial.get(f"alarms_30_days_at_{budget:g}") for budget in (0.33, 1.0, 3.0)]
    over = (
        None
        if not dial
        else max(value / (3 * b) for value, b in zip(at, (0.33, 1.0, 3.0), strict=True) if value is not None)
    )
    says = "false feature alarms in ten null weeks, looking after every block"
    return {
        "D1": form.goal(says, row.get("false_alarms"), "alarms", accept=BUDGET_OF_RUN, target=0),
        "D1b": form.goal(
            "of them of ordinary features", row.get("false_alarms_ordinary"), "alarms", accept=0, target=0
        ),
        "D2": form.goal("features suspected there", row.get("suspects"), "features", accept=4, target=1),
        "D3": form.goal("alarms in 30 days over 3 b, worst of b = 0.33, 1, 3", over, "share", accept=1.0, target=0.34),
    }


def _delays(rows: Rows) -> dict[str, dict[str, Any]]:
    table = {one["effect"]: one for one in rows.get("drift", {}).get("table", ())}
    found = {}
    for name, (accept, target) in DELAYS.items():
        one = table.get(name.partition(" ")[2])
        median = None if one is None else one["median_requests"] if one["median_requests"] >= 0 else LARGE
        found[name] = form.goal("median delay", median, "requests", accept=accept, target=target)
    wanted = [one["found"] for effect, one in table.items() if any(name.endswith(effect) for name in DELAYS)]
    missed = 1.0 - min(wanted) if wanted else None
    found["D8"] = form.goal("share not found, worst of these cells", missed, "share", accept=0.30, target=0.05)
    return found


def _short(rows: Rows) -> dict[str, dict[str, Any]]:
    row = rows.get("short", {})
    days = {
        key: None if not row else LARGE if row[key] < 0 else row[key]
        for key in ("surge_traffic_blocks", "dense_any_blocks")
    }
    overall = rows.get("null", {}).get("overall_alarms")
    return {
        "D10": form.goal(
            "features alarmed in a topic's surge", row.get("surge_features_alarmed"), "features", accept=3, target=0
        ),
        "D10b": form.goal("traffic alarms in it", days["surge_traffic_blocks"], "blocks", accept=432, target=144),
        "D11": form.goal("dense drift is seen by a statistic", days["dense_any_blocks"], "blocks", accept=30, target=6),
        "D11b": form.goal("false alarms of the whole, ten null weeks", overall, "alarms", accept=2, target=0),
    }


def _pairs(rows: Rows) -> dict[str, dict[str, Any]]:
    row = rows.get("pairs", {})
    median = next((one["median_requests"] for one in row.get("table", ()) if one["share"] == 0.02), None)
    delay = LARGE if median is not None and median < 0 else median
    says = "false buckets of pairs in ten null weeks, with sessions and seasons"
    return {
        "D20": form.goal("a new pair in 2 % of requests is named", delay, "requests", accept=12_000, target=5_000),
        "D20b": form.goal(says, row.get("pair_false_buckets"), "buckets", accept=2, target=0),
    }


def _costs(rows: Rows) -> dict[str, dict[str, Any]]:
    row, exact = rows.get("costs", {}), rows.get("exact", {})
    mean = exact.get("bet_mean_max")
    return {
        "D12": form.goal("state of a feature", row.get("bytes_per_feature"), "B", accept=192, target=128),
        "D13": form.goal("a request of 300 tokens", row.get("us_per_request"), "us", accept=60, target=15),
        "D13b": form.goal("1,000 tokens of firings", row.get("us_per_1000_tokens"), "us", accept=330, target=50),
        "D14": form.goal("a block of 100,000 features", row.get("step_ms"), "ms", accept=80, target=15),
        "D15": form.goal(
            "partitions that are not the whole", exact.get("merges_wrong"), "of 1,000", accept=0, target=0
        ),
        "D16": form.goal("mean of a bet at the edge and inside", mean, "", accept=1 + 1e-9, target=1 + 1e-9),
    }


def _peers(rows: Rows) -> dict[str, dict[str, Any]]:
    """Who finds a doubling as soon as three days alarms so much more often."""
    table = rows.get("peers", {}).get("table", ())
    ours = max((one["false_alarms_week"] for one in table if one["method"].startswith("ours")), default=0.1)
    able = [one for one in table if not one["method"].startswith("ours") and _able(one)]
    fewest = min((one["false_alarms_week"] for one in able), default=None)
    share = None if fewest is None else 100 * max(ours, 0.1) / max(fewest, 1e-9)
    says = "100 x our false alarms over the fewest of any that finds x2 @1e-3 in 3 days"
    return {"D9": form.goal(says, share, "ratio", accept=1.0, target=1.0)}


def _rest(rows: Rows) -> dict[str, dict[str, Any]]:
    """Cold starts, silence, and what all of it took."""
    cold, silent = rows.get("cold", {}), rows.get("silence", {}).get("silent")
    ordinary = None if not cold else cold["cold_1_ordinary"] + cold["cold_2_ordinary"]
    says = "false features a week of a baseline of"
    told = "told in ten null weeks, two weeks' baseline"
    return {
        "D21": form.goal(f"{says} two weeks", cold.get("cold_2_false_week"), "features", accept=1.5, target=0.3),
        "D21b": form.goal(f"{says} one week", cold.get("cold_1_false_week"), "features", accept=9, target=2),
        "D21c": form.goal("of them ordinary", ordinary, "features", accept=0, target=0),
        "D21d": form.goal(told, cold.get("cold_2_told"), "features", accept=6, target=1),
        "D22": form.goal("cases in which nothing is judged and nothing said", silent, "cases", accept=0, target=0),
        "D23": whole(rows),
    }


def whole(rows: Rows) -> dict[str, Any]:
    """How long all of it takes, the weeks' simulation among it: not known where a cell's seconds are not."""
    seconds = [rows.get(cell, {}).get("seconds") for cell in CELLS]
    known = [one for one in seconds if one is not None]
    minutes = sum(known) / 60.0 if len(known) == len(seconds) else None
    why = "" if minutes is not None else "a cell does not say its seconds, or weeks were made that were not booked"
    return form.goal("the whole benchmark", minutes, "min", accept=45, target=15, why=why)


def _able(one: Mapping[str, Any]) -> bool:
    found = one["found"]["prevalence x2 @1e-3"]
    return bool(found["found"] >= 0.5 and 0 <= found["median_requests"] <= 3 * 36_000)
