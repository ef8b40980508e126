"""Training the two stages one after the other. Stage 1 is frozen before stage 2 begins; a hash
proves it stayed so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.environment.agents import MIRRORED, SCALES
from latentvla_core.latent.environment.change import change
from latentvla_core.latent.environment.independence import dependence
from latentvla_core.latent.evaluation import Numbers, action_r2, reconstruction_numbers
from latentvla_core.latent.model import EgoStage, LatentActionModel, Told, state_hash
from latentvla_core.latent.pairs import Pairs, collect_pairs, require_change
from latentvla_core.latent.probes.run import learn_what_is_familiar, stage_one_codes
from latentvla_core.latent.quantizer import Quantized, Quantizer
from latentvla_core.training import checkpoint, without_free
from latentvla_core.training.images import ImageCache
from latentvla_core.training.loop import fit
from latentvla_core.training.sinks import MetricSink, NullSink, Prefixed
from latentvla_core.types import Array, SceneRecord

STAGES = ("stage1", "stage2")  # names in the log and of folders of checkpoints
Measure = Callable[[LatentActionModel, int], Numbers]
"""(model, stage) → figures of a model that is being trained; of stage 1 alone while that is all
there is.
"""


def train_latent_action_model(
    records: Sequence[SceneRecord],
    config: LatentActionConfig,
    *,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | str | None = None,
    device: torch.device | str = "cpu",
    cache: ImageCache | None = None,
    measure: Measure | None = None,
) -> LatentActionModel:
    """Both stages on all transitions of the records; resumes where a killed run stopped when it has
    a checkpoint_dir.

    Args:
        cache: decoded pictures to share with other users; must have the size
        config.features.image_size_wh.
        measure: what is logged as `quality/…` every config.quality_every steps, e.g.
        `probes.HeldOut.report`.
    """
    pairs = collect_pairs(
        records, config.gap_frames, cache or ImageCache(config.features.image_size_wh)
    )
    require_change(pairs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = LatentActionModel(config).to(device)
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    common: dict[str, Any] = {"sink": sink, "device": device, "measure": measure}
    train_environment(model, pairs, checkpoint_dir=folder and folder / STAGES[0], **common)
    train_ego(model, pairs, checkpoint_dir=folder and folder / STAGES[1], **common)
    model.eval()
    learn_what_is_familiar(model, pairs)
    return model


def finished_steps(checkpoint_dir: Path, config: LatentActionConfig) -> int:
    """The step, counted over both stages as in the log, that a training goes on from with these
    checkpoints.
    """
    first, second = (checkpoint.finished_steps(checkpoint_dir / stage) for stage in STAGES)
    return config.training.steps + second if second else first


def train_environment(
    model: LatentActionModel,
    pairs: Pairs,
    *,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
    device: torch.device | str = "cpu",
    measure: Measure | None = None,
) -> None:
    """Stage 1, in place."""
    model.environment.scales.measure(
        torch.from_numpy(pairs.waypoints), torch.from_numpy(pairs.states)
    )
    if model.config.env_source == "none":
        return
    fit(
        model.environment,
        num_samples=len(pairs),
        collate=_collate(pairs, model.config),
        loss=lambda batch, step: environment_loss(model, batch, step),
        after_step=_looking(model, 1, measure),
        config=model.config.training_of(1),
        sink=Prefixed(sink or NullSink(), STAGES[0]),
        checkpoint_dir=checkpoint_dir,
        device=device,
        identity=_identity(model.config, pairs),
    )


def train_ego(
    model: LatentActionModel,
    pairs: Pairs,
    *,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
    device: torch.device | str = "cpu",
    measure: Measure | None = None,
) -> None:
    """Stage 2, in place; everything of stage 1 is the same bytes before and after."""
    model.environment.requires_grad_(False).eval()
    if model.config.env_source == "reencode":
        start_from_environment(model)
    before = state_hash(model.environment)
    given = None if model.config.env_source == "reencode" else environment_codes(model, pairs)
    fit(
        model.ego,
        num_samples=len(pairs),
        collate=_collate(pairs, model.config, given),
        loss=lambda batch, step: ego_loss(model, batch),
        after_step=_looking(model, 2, measure),
        config=model.config.training_of(2),
        sink=Prefixed(sink or NullSink(), STAGES[1], first_step=model.config.training.steps),
        checkpoint_dir=checkpoint_dir,
        device=device,
        identity=_identity(model.config, pairs),
    )
    if state_hash(model.environment) != before:
        raise LatentVLAError(
            "stage 2 changed the environment stage; its codebook and encoder must stay frozen"
        )


def _looking(
    model: LatentActionModel, stage: int, measure: Measure | None
) -> Callable[[int], Numbers]:
    """What `measure` says of the model after every `quality_every` steps and at the end. Steps draw
    from their own seeds, so looking changes nothing of the training.
    """
    config, part = model.config, model.environment if stage == 1 else model.ego

    def after_step(step: int) -> Numbers:
        due = config.quality_every and (
            (step + 1) % config.quality_every == 0 or step + 1 == config.training.steps
        )
        if measure is None or not due:
            return {}
        part.eval()
        figures = measure(model, stage)
        part.train()
        return {f"quality/{name}": value for name, value in figures.items()}

    return after_step


def _identity(config: LatentActionConfig, pairs: Pairs) -> dict[str, Any]:
    """What a checkpoint must have in common with a run that goes on from it: the whole
    configuration, and the transitions.
    """
    data = hashlib.sha256(
        pairs.waypoints.tobytes() + pairs.states.tobytes() + "\n".join(pairs.logs).encode()
    )
    latent = without_free(asdict(config))
    return {"latent": latent, "transitions_sha256": data.hexdigest()}


def environment_loss(
    model: LatentActionModel, batch: dict[str, Tensor], step: int
) -> tuple[Tensor, Numbers]:
    """Second frame, and where it is unexpected, from the first one, the trajectory and the
    environment codes; plus VQ.

    `copy` and `gain` are relative to the *compensated* first frame, where there is one: the decoder
    begins there.
    """
    stage, config = model.environment, model.config
    x, condition = stage.look(model.features(batch["pictures"]), told_of(batch))  # (B, 2, P, D)
    (z,) = stage.inverse(x, condition)
    quantized = stage.quantizer(z[:, -1])
    values = soften(quantized, step, config.soft_steps)
    dropped = drop_codes(
        values, config.code_dropout, spared=stage.can_compensate(batch["projections"])
    )
    predicted, changed = stage.predict(x[:, 0], dropped, condition)
    reconstruction = functional.mse_loss(predicted.float(), x[:, 1])
    terms = _environment_terms(model, quantized, batch)
    if changed is not None:
        seen = change(x[:, 0], x[:, 1], config.features)
        terms["change"] = config.change_weight, functional.mse_loss(changed.float(), seen)
    revived = stage.quantizer.learn(quantized)
    numbers = reconstruction_numbers(x, reconstruction, quantized.loss, revived) | _usage(
        "environment", stage.quantizer
    )
    total = reconstruction + quantized.loss + sum(weight * term for weight, term in terms.values())
    return total, numbers | {name: float(term.detach()) for name, (_, term) in terms.items()}


def told_of(batch: dict[str, Tensor]) -> Told:
    """The part of a batch that stage 1 is told; shapes as in `Told`."""
    return Told(batch["waypoints"], batch["states"], batch["projections"])


def soften(made: Quantized, step: int, soft_steps: int) -> Tensor:
    """(B, N, d) codes' vectors, and z itself in a share of samples that falls from all to none in
    soft_steps.

    From random codes a decoder learns to ignore them, and an encoder whose codes are ignored learns
    nothing.
    """
    if step >= soft_steps:
        return made.values
    hard = (
        torch.rand(len(made.z)).to(made.z.device) < step / soft_steps
    )  # drawn on the CPU: same on every device
    return torch.where(hard[:, None, None], made.values, made.z)


def _environment_terms(
    model: LatentActionModel, made: Quantized, batch: dict[str, Tensor]
) -> dict[str, tuple[float, Tensor]]:
    """What else stage 1 minimises, by name: weight and value. Only what has a weight."""
    stage, config, values = model.environment, model.config, made.values.flatten(1)
    motion = stage.scales.motion(batch["waypoints"])
    terms: dict[str, tuple[float, Tensor]] = {}
    if config.independence_weight > 0:
        terms["leak"] = config.independence_weight, dependence(values, motion)
    if config.leak_weight > 0:
        terms["leak_by_code"] = (
            config.leak_weight,
            stage.motion_by_code(made, stage.quantizer, motion),
        )
    if config.agent_weight > 0 and "agents" in batch:
        known = torch.cat([values, motion], dim=1)
        terms["agents"] = (
            config.agent_weight,
            known_error(stage.agents(known).float(), batch["agents"]),
        )
    return terms


def known_error(read: Tensor, target: Tensor) -> Tensor:
    """Mean squared error (B, A) over what is known, i.e. not NaN; 0 where nothing is."""
    known = torch.isfinite(target)
    return (read - target.nan_to_num()).square().mul(known).sum() / known.sum().clamp_min(1)


def ego_loss(model: LatentActionModel, batch: dict[str, Tensor]) -> tuple[Tensor, Numbers]:
    """Reconstruction from the first frame, ego and environment codes (no trajectory); plus VQ and
    the action term.
    """
    stage, config = model.ego, model.config
    x = model.features(batch["pictures"])
    z_ego, *z_environment = stage.encode(x)
    ego = stage.quantizer(z_ego)
    environment, loss = _given_environment(model, x, batch, z_environment)
    predicted = stage.decode(
        x[:, 0], ego.values, drop_codes(environment, config.environment_dropout)
    )
    reconstruction = functional.mse_loss(predicted.float(), x[:, 1])
    revived = stage.quantizer.learn(ego)
    loss = loss + reconstruction + ego.loss
    numbers = reconstruction_numbers(x, reconstruction, ego.loss, revived) | _usage(
        "ego", stage.quantizer
    )
    target = model.environment.scales.motion(batch["waypoints"])
    if config.action_weight > 0:
        read = stage.motion(ego.values.flatten(1)).float()
        action = functional.mse_loss(read, target)
        loss = loss + config.action_weight * action
        numbers |= {"action": float(action.detach())} | action_r2(read.detach(), target)
    if config.cycle_weight > 0:
        cycle, moved = cycle_errors(
            stage, x[:, 0], ego.values.detach(), environment.detach(), target
        )
        loss = loss + config.cycle_weight * (cycle + config.action_weight * moved)
        numbers |= {"cycle": float(cycle.detach()), "cycle_action": float(moved.detach())}
    return loss, numbers


def cycle_errors(
    stage: EgoStage, first: Tensor, ego: Tensor, environment: Tensor, motion: Tensor
) -> tuple[Tensor, Tensor]:
    """Frames (B, P, D) driven by the codes (B, N, d) of another sample: errors of those codes, and
    of that sample's standardised motion (B, 3), as the encoder reads them back.

    The codes alone are not enough: a neighbour's vector is nearly right, and its motion need not be
    (docs/results.md). The encoder and the action head learn from it, and get used to the blur of
    predictions. A decoder that learned from it would signal the codes by what is no motion: its
    gain over copying fell from 0.3 below 0 (docs/results.md). Half of the batch is used, because
    this is as dear as the step itself.
    """
    half = max(1, len(first) // 2)
    foreign = ego.roll(1, dims=0)[:half]
    with torch.no_grad():
        predicted = stage.decode(first[:half], foreign, environment[:half])
    z = stage.encode(torch.stack([first[:half], predicted], dim=1))[0]
    placed = stage.quantizer.placed(z)
    coded = (
        placed + (stage.quantizer.lookup(stage.quantizer.nearest(z)) - placed).detach()
    )  # straight through
    read = stage.motion(coded.flatten(1)).float()
    return functional.smooth_l1_loss(placed, foreign), functional.mse_loss(
        read, motion.roll(1, dims=0)[:half]
    )


def start_from_environment(model: LatentActionModel) -> None:
    """Mode "reencode": with a fresh encoder the environment codes collapse (latentvla.md §2.9);
    IDM2 starts as IDM1.
    """
    source, target = model.environment.inverse, model.ego.inverse
    with torch.no_grad():
        for name in ("embed", "blocks", "norm"):
            getattr(target, name).load_state_dict(getattr(source, name).state_dict())
        target.reads[1].load_state_dict(source.reads[0].state_dict())
        target.time_embedding.copy_(source.time_embedding)
        target.queries[-len(source.queries) :] = source.queries


def environment_codes(model: LatentActionModel, pairs: Pairs) -> Array:
    """(2, n, N_env) int64 codes of the frozen stage 1 for all transitions, as they are and
    mirrored.

    Made once: stage 2 sees every transition many times, and the encoder that makes them does not
    change.
    """
    codes = np.zeros((2, len(pairs), model.config.environment_positions), np.int64)
    for side in range(2 if model.config.mirror else 1) if codes.size else ():
        codes[side] = stage_one_codes(model, pairs, mirrored=bool(side))
    return codes


def drop_codes(values: Tensor, probability: float, spared: Tensor | None = None) -> Tensor:
    """(B, N, d) with all codes of a sample zeroed with the given probability, but for those that
    are spared (B,).
    """
    if probability == 0:
        return values
    keep = (
        torch.rand(len(values)).to(values.device) >= probability
    )  # drawn on the CPU: same on every device
    keep = keep if spared is None else keep | spared
    return values * keep[:, None, None]


def _given_environment(
    model: LatentActionModel, x: Tensor, batch: dict[str, Tensor], z: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Environment code vectors (B, N_env, d) for stage 2's decoder, and the loss of making them."""
    frozen = model.environment.quantizer
    if not z:
        return frozen.lookup(batch["environment_codes"]), x.new_zeros(())
    quantized = frozen(
        z[0]
    )  # the codebook is frozen; commitment still pulls the new encoder towards it
    return quantized.values, quantized.loss


def _usage(name: str, quantizer: Quantizer) -> Numbers:
    usage, spread = quantizer.running_usage()
    return {f"{name}_usage": usage, f"{name}_perplexity": spread}


def _collate(
    pairs: Pairs, config: LatentActionConfig, environment: Array | None = None
) -> Callable[[Array, np.random.Generator], dict[str, Tensor]]:
    def collate(index: Array, rng: np.random.Generator) -> dict[str, Tensor]:
        flip = rng.random(len(index)) < (0.5 if config.mirror else 0.0)
        batch = _batch(pairs, index, flip)
        if environment is not None:
            batch["environment_codes"] = torch.from_numpy(environment[flip.astype(int), index])
        return batch

    return collate


def _batch(pairs: Pairs, index: Array, flip: Array) -> dict[str, Tensor]:
    """Pictures (B, 2, H, W, 3) uint8 and the fields of `Told`; left and right exchanged where flip."""
    arrays = {"pictures": np.ascontiguousarray(pairs.pictures(index, flip))}
    arrays |= dict(zip(Told._fields, pairs.told(index, flip), strict=True))
    if len(pairs.agents):
        signs = np.where(flip[:, None], MIRRORED, 1.0)
        arrays["agents"] = (pairs.agents[index] * signs / SCALES).astype(np.float32)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}
