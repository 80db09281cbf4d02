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


class Restated:
    """The published algorithm in loops over anchors and negatives, float64, u as it is; the surrogate's gradient."""

    def __init__(self, n_tracks, tau, gamma):
        self.u, self.tau, self.gamma = [0.0] * n_tracks, tau, gamma

    def __call__(self, first, second, tracks):
        first, second = (v / v.norm(dim=1, keepdim=True) for v in (first, second))
        gamma = self.gamma if any(self.u[track] for track in tracks) else 1.0
        total, found = 0.0, {track: [] for track in tracks}
        for anchors, others in ((first, second), (second, first)):
            for i, track in enumerate(tracks):
                pairs = [anchors[i] @ rows[j] for rows in (anchors, others) for j, t in enumerate(tracks) if t != track]
                terms = [math.exp(p.item() / self.tau) for p in pairs]
                u = (1 - gamma) * self.u[track] + gamma * sum(terms) / len(terms)
                found[track].append(u)
                weighted = sum(term / u * p for term, p in zip(terms, pairs)) / len(terms)
                total = total + (weighted - anchors[i] @ others[i]) / len(tracks)
        for track, values in found.items():
            self.u[track] = sum(values) / len(values)
        return total


# The first two batches are of new tracks, the others of seen ones and, here and there, a new one or one twice.
VISITS = [[0, 1, 2, 3], [6, 5, 4, 7], [2, 5, 0, 6], [8, 3, 2, 0], [7, 1, 1, 4], [2, 3, 9, 2], [0, 8, 2, 3]]


def moving(step, n=4, seed=0, dtype=torch.float64):
    """Two views' projections that drift apart from step to step, float64 by default."""
    generator = torch.Generator().manual_seed(100 * seed + step)
    common = torch.randn(n, 5, generator=generator, dtype=dtype)
    return [
        (common + (0.3 + 0.2 * step) * torch.randn(n, 5, generator=generator, dtype=dtype)).requires_grad_()
        for _ in range(2)
    ]


@pytest.mark.parametrize("tau", [0.5, 0.1, 0.02])
@pytest.mark.parametrize("gamma", [0.3, 0.9, 1.0])
def test_sogclr_over_several_visits_is_the_published_algorithm(tau, gamma):
    ours, theirs = SogCLR(10, tau, gamma).double(), Restated(10, tau, gamma)
    for step, tracks in enumerate(VISITS):
        found, expected = moving(step), moving(step)
        value, value_expected = ours(*found, torch.tensor(tracks)), theirs(*expected, tracks)
        assert value.item() == pytest.approx(value_expected.item(), rel=1e-9, abs=1e-12)
        value.backward()
        value_expected.backward()
        for view, view_expected in zip(found, expected):
            torch.testing.assert_close(view.grad, view_expected.grad, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(ours.log_u.exp(), torch.tensor(theirs.u, dtype=torch.float64))


@pytest.mark.parametrize("tau, gamma", [(0.5, 0.3), (0.1, 0.9), (0.05, 0.9), (0.02, 0.6)])
def test_sogclr_is_the_loss_that_the_authors_call(tau, gamma, capsys):
    """`GCLoss_v1` of libauc: loss, gradients and moving averages, in float32, over batches without a track twice."""
    contrastive = pytest.importorskip("libauc.losses.contrastive")
    ours, theirs = SogCLR(40, tau, gamma), contrastive.GCLoss_v1(N=40, tau=tau, gamma=gamma, device="cpu")
    order = torch.Generator().manual_seed(1)
    for step in range(8):
        tracks = torch.randperm(40, generator=order)[:12]
        found, expected = (moving(step, 12, seed=1, dtype=torch.float32) for _ in range(2))
        value, value_expected = ours(*found, tracks), theirs(*expected, tracks)
        assert value.item() == pytest.approx(value_expected.item(), rel=1e-5, abs=1e-6)
        value.backward()
        value_expected.backward()
        for view, view_expected in zip(found, expected):
            torch.testing.assert_close(view.grad, view_expected.grad, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(ours.log_u.exp(), theirs.u[:, 0], rtol=2e-5, atol=0)


def test_sogclr_first_step_has_the_gradient_of_its_objective():
    """With fresh state the estimator is exact: the gradient of mean tau log(batch mean) - positive, over both views."""
    tau = 0.3
    a, b = views()
    SogCLR(6, tau).double()(a, b, torch.arange(6)).backward()
    a2, b2 = (v.detach().clone().requires_grad_() for v in (a, b))
    x, y = (v / v.norm(dim=1, keepdim=True) for v in (a2, b2))
    other = ~torch.eye(6, dtype=torch.bool).repeat(1, 2)
    sums = [((v @ torch.cat([x, y]).T / tau).exp() * other).sum(dim=1) for v in (x, y)]
    (sum(tau * (s / 10).log().mean() for s in sums) - 2 * (x * y).sum(dim=1).mean()).backward()
    torch.testing.assert_close(a.grad, a2.grad)


@pytest.mark.parametrize("tau", [0.01, 0.002])
def test_sogclr_is_finite_at_small_temperatures(tau):
    """In float32, where exp(1 / tau) is not; with identical, opposite and equal projections among the rows."""
    single, double = SogCLR(10, tau, 0.9, eps=1e-300), SogCLR(10, tau, 0.9, eps=1e-300).double()
    for step, tracks in enumerate(VISITS):
        rows = [view.detach() for view in moving(step)]
        rows[1][0], rows[0][1], rows[1][2] = rows[0][0], -rows[0][0], rows[1][3]
        grads = []
        for loss, dtype in ((single, torch.float32), (double, torch.float64)):
            given = [view.to(dtype).requires_grad_() for view in rows]
            value = loss(*given, torch.tensor(tracks))
            assert value.isfinite()
            value.backward()
            grads.append(torch.stack([view.grad for view in given]).double())
        assert grads[0].isfinite().all()
        torch.testing.assert_close(*grads, rtol=0, atol=1e-3 * grads[1].abs().max().item())
    assert single.log_u.isfinite().all()


def test_sogclr_divides_by_eps_at_least():
    """Where all negatives are opposite, u is below eps and what pushes them away fades."""
    row = torch.tensor([[1.0, 0.0], [-1.0, 1e-3]], dtype=torch.float64)
    expected = math.exp(-1 / 0.02) / 1e-8
    loss = SogCLR(2, 0.02).double()(row, row, torch.arange(2)).item()
    assert loss == pytest.approx(-2 - 2 * expected, abs=1e-12)


def test_sogclr_of_a_single_track_has_no_negatives():
    loss = SogCLR(3)
    a, b = (torch.eye(2).requires_grad_() for _ in range(2))
    assert loss(a, b, torch.tensor([1, 1])).item() == -2
    assert loss.log_u.isneginf().all()


def test_top1():
    rows = torch.eye(4)
    assert top1(rows, rows, torch.arange(4)) == 1.0
    assert top1(rows, rows.roll(1, 0), torch.arange(4)) == 0.0
    assert top1(rows, rows.roll(1, 0), torch.zeros(4)) == 1.0  # all rows of one track
