"""Chances of what was seen, by columns: normal, Student's t, fair and negative binomial; and q-values of many tests.

Student's t and the binomials are regularised incomplete beta functions: DLMF 8.17.22 gives the continued fraction,
evaluated with Lentz's method; tests compare them with scipy, which the product does not need for this.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from saewatch.core.batch import F64

I64 = npt.NDArray[np.int64]
Z95 = 1.959963984540054
"""Of the normal distribution, 97.5 % lie below it."""
_STEPS = 20_000  # of the continued fraction: it takes about the root of its larger parameter
_TINY = 1e-300
_LOG_GAMMA = np.frompyfunc(math.lgamma, 1, 1)
_ERFC = np.frompyfunc(math.erfc, 1, 1)


def normal(z: F64) -> F64:
    """Chances of a normal deviate at least as far from 0, ``[K]``; NaN where z is."""
    return np.asarray(_ERFC(np.abs(z) / math.sqrt(2.0)), np.float64)


def student(t: F64, freedom: F64) -> F64:
    """Chances of Student's t at least as far from 0, ``[K]``, with ``freedom`` above 0; NaN where t is."""
    x = np.where(np.isfinite(t), freedom / (freedom + np.square(t)), 1.0)
    found = _beta_share(freedom / 2.0, np.full(len(t), 0.5), np.where(np.isinf(t), 0.0, x))
    return np.where(np.isnan(t), np.nan, found)


def student_bound(freedom: F64) -> F64:
    """Of Student's t, 97.5 % lie below it: Abramowitz and Stegun 26.7.5, to 1e-3 from 9 degrees of freedom on."""
    z = Z95
    terms = (
        (z**3 + z) / 4.0,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96.0,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0,
    )
    return np.asarray(z + sum(term / freedom**power for power, term in enumerate(terms, start=1)))


def fair(left: I64, right: I64) -> F64:
    """Exact two-sided chances that ``left + right`` fair coins fall at least as unevenly, ``[K]``: McNemar's test."""
    n, k = left + right, np.minimum(left, right)
    more = np.maximum(n - k, 1).astype(np.float64)
    below = _beta_share(more, k + 1.0, np.full(len(n), 0.5))  # P(X <= k) = I_0.5(n - k, k + 1)
    return np.where(n == 0, 1.0, np.minimum(2.0 * below, 1.0))


def more_counted(count: I64, before: I64, runs: int) -> F64:
    """Chances that one more run counts at least ``count``, ``[K]``; ``runs`` of the same counted ``before`` in all.

    With Jeffreys' prior of a Poisson rate the next count is negative binomial (Gelman et al., BDA, 2.6).
    """
    shape = np.asarray(before + 0.5, np.float64)
    found = _beta_share(np.maximum(count, 1).astype(np.float64), shape, np.full(len(count), 1.0 / (runs + 1.0)))
    return np.where(count > 0, found, 1.0)


def q_values(p: F64) -> F64:
    """Benjamini and Hochberg (1995): the smallest rate of false discoveries at which each is one; NaN stays NaN."""
    found = np.full(len(p), np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    stepped = p[order] * len(order) / np.arange(1, len(order) + 1)
    found[order] = np.minimum(np.minimum.accumulate(stepped[::-1])[::-1], 1.0)
    return found


def _beta_share(a: F64, b: F64, x: F64) -> F64:
    """The regularised incomplete beta function I_x(a, b), ``[K]``."""
    swap = x > (a + 1.0) / (a + b + 2.0)  # the fraction converges fast on the other side
    left, right, at = np.where(swap, b, a), np.where(swap, a, b), np.where(swap, 1.0 - x, x)
    inside = at > 0.0
    found = np.zeros(len(at))
    found[inside] = _fraction(left[inside], right[inside], at[inside])
    return np.where(swap, 1.0 - found, found)


def _fraction(a: F64, b: F64, x: F64) -> F64:
    front = np.asarray(_LOG_GAMMA(a + b) - _LOG_GAMMA(a) - _LOG_GAMMA(b), np.float64)
    front = np.exp(front + a * np.log(x) + b * np.log1p(-x)) / a
    c, d = np.ones(len(x)), _away(1.0 - (a + b) * x / (a + 1.0))
    value = d = 1.0 / d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d, c = 1.0 / _away(1.0 + term * d), _away(1.0 + term / c)
            value = value * c * d
        if (np.abs(c * d - 1.0) < 1e-14).all():
            break
    return np.asarray(front * value)


def _away(value: F64) -> F64:
    return np.where(np.abs(value) < _TINY, _TINY, value)
