"""Codebooks: straight-through, k-means, revival, and nothing learned outside training."""

from __future__ import annotations

import math

import pytest
import torch

from latentvla_core.latent.evaluation import histogram, perplexity
from latentvla_core.latent.quantizer import QuantizerConfig, build_quantizer

torch.set_num_threads(1)
KINDS = ("ema", "gradient", "fsq")


def quantizer(kind="ema", standardise=False, **changes):
    torch.manual_seed(0)
    return build_quantizer(
        QuantizerConfig(kind=kind, code_dim=4, standardise=standardise, **changes), 4
    ).train()


def outputs(quantizer, batch=64, seed=1):
    return torch.randn(
        batch, 4, quantizer.config.dim, generator=torch.Generator().manual_seed(seed)
    )


def snapshot(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_the_gradient_passes_straight_through(kind):
    q = quantizer(kind, commitment=0.0)
    z = outputs(q).requires_grad_()
    weights = torch.randn_like(z)
    (q(z).values * weights).sum().backward()
    torch.testing.assert_close(z.grad, weights)


def test_the_gradient_passes_the_rounding_of_fsq():
    """What is before it, a bound that rises everywhere, keeps its own gradient: smaller, of the
    same sign.
    """
    q = quantizer("fsq", commitment=0.0)
    z = outputs(q).requires_grad_()
    weights = torch.randn_like(z)
    (q(z).values * weights).sum().backward()
    assert (z.grad * weights > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_the_codes_vectors(kind):
    q = quantizer(kind)
    made = q(outputs(q))
    torch.testing.assert_close(made.values, q.lookup(made.codes))
    assert made.codes.shape == (64, 4)
    assert made.codes.dtype == torch.int64
    assert torch.equal(q.eval().nearest(outputs(q)), made.codes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_code_is_its_own_nearest(kind):
    q = quantizer(kind).eval()
    vectors = q.lookup(torch.arange(16))
    z = torch.atanh(vectors.clamp(-0.99, 0.99)) if kind == "fsq" else vectors
    assert q.nearest(z).tolist() == list(range(16))


def test_ema_without_memory_is_one_k_means_step():
    q = quantizer(decay=0.0, revive_every=0)
    made = q(outputs(q))
    q.learn(made)
    z, won = made.z.flatten(0, 1), made.codes.flatten()
    for k in won.unique():
        torch.testing.assert_close(q.codebook[k], z[won == k].mean(0))


def test_ema_with_memory_is_the_running_mean():
    q = quantizer(decay=0.9, revive_every=0)
    made = q(outputs(q))
    before = q.codebook.clone()  # each code starts with the uniform share of 1 output
    q.learn(made)
    k = int(made.codes.flatten()[0])
    won = made.z[made.codes == k]
    expected = (0.9 * before[k] + 0.1 * won.sum(0)) / (0.9 + 0.1 * len(won))
    torch.testing.assert_close(q.codebook[k], expected)


def nearest_distance(codes, z):
    return (codes[:, None] - z.flatten(0, 1)[None]).norm(dim=-1).min(dim=1).values


def test_codes_begin_as_encoder_outputs_that_differ():
    q = quantizer()
    z = outputs(q)
    q(z)
    assert nearest_distance(q.codebook, z).max() == 0
    assert torch.pdist(q.codebook).min() > 0.1


def test_fewer_outputs_than_codes_still_give_distinct_codes():
    q = quantizer()
    q(outputs(q)[:2])
    assert torch.pdist(q.codebook).min() > 0


@pytest.mark.parametrize("kind", ["ema", "gradient"])
def test_a_killed_code_is_revived_from_current_outputs(kind):
    q = quantizer(kind, revive_every=5, decay=0.5)
    z = outputs(q)
    for _ in range(4):
        assert q.learn(q(z)) == 0
    with torch.no_grad():
        q.codebook[3] = 1e3  # nothing is ever near it
        q.counts[3] = 0.0
    assert 3 not in q(z).codes
    assert q.learn(q(z)) >= 1
    assert nearest_distance(q.codebook[3:4], z).max() == 0
    assert 3 in q(z).codes


def test_a_codebook_of_one_living_code_recovers_all_sixteen():
    q = quantizer(revive_every=5, decay=0.9)
    q(outputs(q))
    with torch.no_grad():
        q.codebook[1:] += 1e3
    assert q(outputs(q)).codes.unique().tolist() == [0]
    for step in range(100):
        q.learn(q(outputs(q, seed=step)))
    used = histogram(q(outputs(q, seed=999, batch=512)).codes, 16)
    assert int((used > 0.002).sum()) == 16
    assert perplexity(used) > 10


def test_codes_follow_outputs_that_drift_away():
    q = quantizer(revive_every=20, decay=0.9)
    for step in range(200):
        q.learn(q(outputs(q, seed=step) + 0.05 * step))
    used = histogram(q(outputs(q, seed=999, batch=512) + 10.0).codes, 16)
    assert perplexity(used) > 6


def test_standardising_frees_the_codebook_from_telling_positions_apart():
    offsets = 20 * torch.randn(4, 4, generator=torch.Generator().manual_seed(2))
    numbers = {}
    for standardise in (False, True):
        q = quantizer(standardise=standardise, decay=0.9)
        for step in range(100):
            q.learn(q(0.01 * outputs(q, seed=step) + offsets))
        codes = q.eval().nearest(0.01 * outputs(q, seed=999, batch=512) + offsets)
        numbers[standardise] = perplexity(histogram(codes[:, 0], 16))
    assert numbers[False] < 6 < 10 < numbers[True]


@pytest.mark.parametrize("kind", KINDS)
def test_training_sees_the_codes_that_labels_will_be(kind):
    """Most of z nearly constant, one in sixty far away: by the values of a batch alone, both would
    look widely spread.
    """
    q = quantizer(kind, standardise=True, statistics="running")
    for step in range(60):
        z = 0.01 * outputs(q, seed=step)
        if step % 2:
            z[0] += 5.0
        made = q(z)
        assert torch.equal(made.codes, q.nearest(z))
        q.learn(made)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_the_gradient_is_that_of_the_batch(statistics):
    """Neither a shift nor a larger spread of all of z gains anything, so z neither drifts nor
    shrinks.
    """
    q = quantizer(standardise=True, statistics=statistics)
    z = outputs(q).requires_grad_()
    weights = torch.randn(z.shape, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((q.standardise(z, training=True) * weights).sum(), z)
    assert gradient.sum(0).abs().max() < 1e-4
    assert (gradient * (z - z.mean(0))).sum(0).abs().max() < 1e-3


def test_codes_of_a_sample_are_the_same_alone_and_in_a_batch():
    q = quantizer(standardise=True)
    for step in range(20):
        q.learn(q(outputs(q, seed=step)))
    z = outputs(q)
    alone = torch.cat([q.nearest(z[i : i + 1]) for i in range(len(z))])
    assert torch.equal(q.nearest(z), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_learns_nothing(kind):
    q = quantizer(kind, standardise=True).eval()
    before = snapshot(q)
    q(outputs(q))
    q.nearest(outputs(q))
    assert all(torch.equal(before[name], tensor) for name, tensor in q.state_dict().items())


def test_gradient_mode_starts_as_univla_and_has_both_losses():
    q = quantizer("gradient", commitment=0.25)
    assert q.codebook.abs().max() <= 1 / 16
    z = outputs(q).requires_grad_()
    made = q(z)
    error = (z - q.codebook[made.codes]).square().mean()
    torch.testing.assert_close(made.loss, 1.25 * error)
    made.loss.backward()
    expected = 0.25 * 2 * (z - q.codebook[made.codes]).detach() / z.numel()
    torch.testing.assert_close(z.grad, expected)
    assert q.codebook.grad.abs().sum() > 0


def test_fsq_uses_its_whole_grid_and_never_has_a_loss():
    q = quantizer("fsq", levels=(4, 4))
    made = q(outputs(q, batch=512))
    assert len(made.codes.unique()) == 16
    assert float(made.loss) == 0
    assert q.codebook.abs().max() == 1
    assert len(q.codebook.unique(dim=0)) == 16


def test_quantisers_stay_exact_under_bf16_autocast():
    q = quantizer()
    z = outputs(q)
    q(z)
    expected = q.eval().nearest(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(q(z).codes, expected)
        assert q(z).values.dtype == torch.float32


def test_perplexity_counts_equally_used_codes():
    assert perplexity(histogram(torch.arange(16), 16)) == pytest.approx(16)
    assert perplexity(histogram(torch.zeros(9), 16)) == pytest.approx(1)
    assert perplexity(histogram(torch.tensor([0, 0, 1, 1]), 16)) == pytest.approx(2)
    p = [0.5, 0.25, 0.25]
    entropy = -sum(x * math.log(x) for x in p)
    assert perplexity(histogram(torch.tensor([0, 0, 1, 2]), 16)) == pytest.approx(math.exp(entropy))


def test_config_rules_name_value_and_remedy():
    with pytest.raises(ValueError, match="codebook_size is 1"):
        QuantizerConfig(codebook_size=1)
    with pytest.raises(ValueError, match=r"levels \(4, 5\) make 20 codes"):
        QuantizerConfig(kind="fsq", levels=(4, 5))
    with pytest.raises(ValueError, match="decay is 1"):
        QuantizerConfig(decay=1.0)
