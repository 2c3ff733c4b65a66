"""What a limit promises of false alarms, and how many benign requests it takes to promise it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from saewatch.core.errors import ConfigError
from saewatch.dictionary.binomial import at_most


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """With confidence ``1 - delta`` the false-alarm rate of a limit is at most ``alpha``.

    ``family``: of so many limits together; each is chosen at ``delta / family``, by Bonferroni's inequality.
    """

    alpha: float
    delta: float
    family: int = 1

    def __post_init__(self) -> None:
        for name in ("alpha", "delta"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(name, found=getattr(self, name), expected="a share between 0 and 1")

    def rank(self, n: int) -> int:
        """The j of the limit, which is the j-th largest of ``n`` benign scores; 0: they are too few.

        A limit at the j-th largest has a false-alarm rate distributed Beta(j, n + 1 - j), smaller where scores are
        tied. Its ``1 - delta`` point is at most alpha iff at most ``j - 1`` of n hits have a chance of at most delta
        under alpha: the largest such j, which is Clopper-Pearson inverted, and what Learn-then-Test (Angelopoulos et
        al. 2021) gives with binomial p-values and fixed-sequence testing from strict to loose.
        """
        most = n if self.delta > 0.4 else min(n, math.ceil(self.alpha * n) + 1)  # the median is near alpha * n
        return int(np.searchsorted(at_most(most, n, self.alpha), self.delta / self.family, side="right"))

    def supported(self, n: int) -> float:
        """The smallest alpha that ``n`` benign scores support, at ``j = 1``: ``(1 - alpha)^n <= delta``."""
        return float(-math.expm1(math.log(self.delta / self.family) / n)) if n else 1.0

    @property
    def needed(self) -> int:
        """The fewest benign scores that alpha can be promised with."""
        return math.ceil(math.log(self.delta / self.family) / math.log1p(-self.alpha))
