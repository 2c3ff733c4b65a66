"""Rates over seconds."""

from __future__ import annotations

from saewatch.monitor.window import SECONDS, Window

SECOND = 1_000_000_000


def test_means_over_whole_seconds() -> None:
    window = Window()
    for second in range(20):
        window.add(second * SECOND, tokens=100, firings=500, lag_ns=2_000_000)
        window.add(second * SECOND + 5, tokens=100, firings=500, lag_ns=4_000_000)
    rates = window.rates(20 * SECOND)
    assert (rates.tokens_per_second, rates.firings_per_second) == (200.0, 1000.0)
    assert abs(rates.lag_seconds - 0.003) < 1e-9


def test_silence_counts() -> None:
    window = Window()
    window.add(0, tokens=100, firings=0, lag_ns=0)
    assert window.rates(5 * SECOND).tokens_per_second == 10.0
    assert window.rates(11 * SECOND).tokens_per_second == 0.0


def test_a_bucket_is_used_again_after_its_minute() -> None:
    window = Window()
    window.add(0, tokens=7, firings=7, lag_ns=0)
    window.add(SECONDS * SECOND, tokens=20, firings=0, lag_ns=-5)
    rates = window.rates((SECONDS + 1) * SECOND)
    assert (rates.tokens_per_second, rates.firings_per_second, rates.lag_seconds) == (2.0, 0.0, 0.0)
