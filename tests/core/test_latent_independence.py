"""Ego motion is kept out of codes: by correlation of their vectors, and by what motion each code
goes with.
"""

from __future__ import annotations

import pytest
import torch

from latentvla_core.latent.environment.independence import MotionByCode, dependence
from latentvla_core.latent.quantizer import EmaQuantizer, Quantized, QuantizerConfig

torch.set_num_threads(1)


def test_dependence_is_zero_for_strangers_and_one_for_the_motion_itself():
    torch.manual_seed(0)
    motion = torch.randn(4000, 3)
    assert dependence(torch.randn(4000, 8), motion) < 0.01
    torch.testing.assert_close(
        dependence(motion * 5 - 2, motion), torch.tensor(1.0), atol=0.02, rtol=0
    )
    mixed = torch.randn(4000, 1, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(dependence(mixed + motion[:, :1], motion), mixed)
        mixed = (mixed - 300 * gradient).detach().requires_grad_()
    assert dependence(mixed + motion[:, :1], motion) < 0.05  # what depends on motion is unlearned


def test_constant_motion_has_no_dependence_and_no_nan():
    values = torch.randn(8, 5, requires_grad=True)
    dependence(values, torch.ones(8, 3)).backward()
    assert torch.isfinite(values.grad).all()


def between(codes: torch.Tensor, motion: torch.Tensor) -> float:
    """Variance of motion (n, 3) between codes (n, N), summed over motion, mean over positions."""
    parts = []
    for position in codes.unbind(1):
        own = [motion[position == code] for code in position.unique()]
        parts.append(sum(len(m) / len(motion) * m.mean(0).square().sum() for m in own))
    return float(sum(parts) / len(parts))


def quantizer_of(vectors: torch.Tensor) -> EmaQuantizer:
    made = EmaQuantizer(
        QuantizerConfig(codebook_size=len(vectors), code_dim=vectors.shape[1], standardise=False), 1
    )
    made.codebook.copy_(vectors)
    made.started.fill_(True)
    return made


def test_it_sees_a_code_of_its_own_for_fast_drives_that_correlation_does_not():
    """Three codes on a line whose middle one means fast: the vectors are uncorrelated with speed,
    the codes are not.
    """
    quantizer = quantizer_of(torch.tensor([[-10.0], [0.0], [10.0]]))
    codes = torch.arange(3000)[:, None] % 3
    z = quantizer.lookup(codes)
    motion = torch.zeros(3000, 3)
    motion[:, 0] = torch.where(codes[:, 0] == 1, 2.0, -1.0)
    watch = MotionByCode(1, 3, 3)
    made = Quantized(z, codes, torch.zeros(()), z)
    for _ in range(200):
        loss = watch(made, quantizer, motion)
    assert dependence(z.flatten(1), motion) < 1e-6
    assert between(codes, motion) == pytest.approx(2.0)
    assert loss.item() == pytest.approx(2.0, rel=0.05)


def test_its_gradient_mixes_motions_until_no_code_tells_them_apart():
    torch.manual_seed(0)
    quantizer = quantizer_of(torch.randn(8, 2) * 2)
    motion = torch.randn(512, 3)
    z = (
        motion[:, None, :2] * 2 + 0.3 * torch.randn(512, 1, 2)
    ).requires_grad_()  # codes know the motion well
    watch, optimizer = MotionByCode(1, 8, 3), torch.optim.Adam([z], 0.05)
    before = between(quantizer.nearest(z), motion)
    for _ in range(300):
        codes = quantizer.nearest(z)
        loss = watch(Quantized(z, codes, torch.zeros(()), z), quantizer, motion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert before > 1
    assert between(quantizer.nearest(z), motion) < 0.25 * before
    assert len(quantizer.nearest(z).unique()) >= 6  # not by using one code for everything


def test_judging_leaves_the_statistics_alone():
    quantizer = quantizer_of(torch.randn(4, 2))
    watch = MotionByCode(1, 4, 3).eval()
    z = torch.randn(10, 1, 2)
    assert (
        watch(
            Quantized(z, quantizer.nearest(z), torch.zeros(()), z), quantizer, torch.randn(10, 3)
        ).item()
        == 0
    )
    assert watch.counts.sum() == 0
