"""Logistic regression: a loss that nothing nearby is below of."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as entropy

from saewatch.dictionary import logistic

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_fit_is_where_the_gradient_vanishes_and_classes_weigh_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(300, 4, generator=draw)
    target = (z[:, :1] + 0.5 * torch.randn(300, 1, generator=draw) > 1.2).float()
    weight = logistic.balanced(target == 1, target == 0)
    assert weight.sum().item() == pytest.approx(1)
    assert weight[target == 1].sum().item() == pytest.approx(0.5)
    w, b = logistic.fit(z, target, weight, l2=1e-2)
    w, b = w.requires_grad_(), b.requires_grad_()
    (entropy(z @ w.T + b, target, weight=weight, reduction="sum") + 1e-2 * w.pow(2).sum()).backward()
    assert w.grad is not None
    assert float(w.grad.abs().max()) < 1e-3
    assert int(w.abs().argmax()) == 0
