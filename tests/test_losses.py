"""The losses against brute-force loops and closed forms."""

import math

import pytest
import torch

from keymyna_lib.losses import InfoNCE, SogCLR, top1


def views(batch=6, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, dim, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2)
    )


def cosine(a, b):
    return (a @ b / a.norm() / b.norm()).item()


@pytest.mark.parametrize("tracks", [[0, 1, 2, 3, 4, 5], [0, 1, 1, 3, 0, 5]])
def test_infonce_against_loops(tracks):
    a, b = views()
    total = 0.0
    for x, y in ((a, b), (b, a)):
        for i in range(6):
            others = [j for j in range(6) if j == i or tracks[j] != tracks[i]]
            scores = [math.exp(cosine(x[i], y[j]) / 0.1) for j in others]
            total -= math.log(scores[others.index(i)] / sum(scores))
    assert InfoNCE(0.1)(a, b, torch.tensor(tracks)).item() == pytest.approx(total / 12, rel=1e-9)


def test_infonce_of_identical_rows_is_log_batch():
    ones = torch.ones(8, 4)
    assert InfoNCE(0.2)(ones, ones, torch.arange(8)).item() == pytest.approx(math.log(8), rel=1e-6)


@pytest.mark.parametrize("tracks", [[0, 1, 2, 3, 4, 5], [0, 1, 1, 3, 0, 5]])
def test_sogclr_state_and_gradient_against_loops(tracks):
    """Two steps: the moving average of each anchor, and the gradient of sum of weights times similarities."""
    tau, gamma, eps = 0.5, 0.9, 1e-8
    loss = SogCLR(6, tau, gamma, eps)
    state = {}
    for step in range(2):
        a, b = views(seed=step)
        value = loss(a, b, torch.tensor(tracks))
        value.backward()
        a2, b2 = (v.detach().clone().requires_grad_() for v in (a, b))
        rows = {0: a2 / a2.norm(dim=1, keepdim=True), 1: b2 / b2.norm(dim=1, keepdim=True)}
        expected, fresh = 0.0, {}
        for view in (0, 1):
            for i in range(6):
                positive = rows[0][i] @ rows[1][i]
                pairs = [
                    rows[view][i] @ rows[other][j] - positive
                    for other in (0, 1)
                    for j in range(6)
                    if tracks[j] != tracks[i]
                ]
                terms = [math.exp(p.item() / tau) / len(pairs) for p in pairs]
                old = state.get((view, tracks[i]))
                u = sum(terms) if old is None else (1 - gamma) * old + gamma * sum(terms)
                fresh[view, tracks[i]] = u
                expected = expected + sum(w / (u + eps) * p for w, p in zip(terms, pairs)) / 12
        state |= fresh
        expected.backward()
        assert value.item() == pytest.approx(expected.item(), rel=1e-4)
        torch.testing.assert_close(a.grad, a2.grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(b.grad, b2.grad, rtol=1e-4, atol=1e-6)
        if len(set(tracks)) == 6:
            for (view, track), u in state.items():
                assert loss.u[view, track].item() == pytest.approx(u, rel=1e-4)


def test_sogclr_first_step_has_the_gradient_of_its_objective():
    """With fresh state the estimator is exact: the gradient of mean tau log(eps + batch mean)."""
    tau = 0.3
    a, b = views()
    SogCLR(6, tau)(a, b, torch.arange(6)).backward()
    a2, b2 = (v.detach().clone().requires_grad_() for v in (a, b))
    x, y = (v / v.norm(dim=1, keepdim=True) for v in (a2, b2))
    other = ~torch.eye(6, dtype=torch.bool).repeat(1, 2)
    positive = (x * y).sum(1, keepdim=True)
    objective = (
        sum(
            tau * (((v @ torch.cat([x, y]).T - positive) / tau).exp() * other).sum(1).div(10).log().mean()
            for v in (x, y)
        )
        / 2
    )
    objective.backward()
    torch.testing.assert_close(a.grad, a2.grad, rtol=1e-4, atol=1e-6)


def test_top1():
    rows = torch.eye(4)
    assert top1(rows, rows, torch.arange(4)) == 1.0
    assert top1(rows, rows.roll(1, 0), torch.arange(4)) == 0.0
    assert top1(rows, rows.roll(1, 0), torch.zeros(4)) == 1.0  # all rows of one track
