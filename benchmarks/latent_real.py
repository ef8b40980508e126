"""Do codes mean motion on real pictures? The probes against ground-truth poses of short real
sequences.

    python -m benchmarks.latent_real --shared DIR --out DIR                 # models: world + real,
    real alone python -m benchmarks.latent_real --shared DIR --out DIR --models DIR …  # saved ones
    instead, which saw no real picture

--shared is a folder of frames-and-poses sequences (docs/data.md). --out holds the worlds of
latent_quality. Whole sequences are held out: those named by --held-out train nothing, and every
probe is fitted on the embedded world's training logs or, for the model trained on real pictures
alone, on the other sequences.

Last comes a table of what codes do while the ego stands, on the held-out sequences and on test logs
of another embedded world.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from benchmarks.latent_quality import worlds
from latentvla_core.data.filters import SceneFilter, scenes_of_log
from latentvla_core.data.frames_poses import is_sequence, read_logs
from latentvla_core.data.records import scene_record
from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.environment.compensation import compensated
from latentvla_core.latent.model import LatentActionModel, load
from latentvla_core.latent.pairs import Pairs, collect_pairs
from latentvla_core.latent.probes import AXES, Report, all_codes, evaluate, one_hot, predict, ridge
from latentvla_core.latent.probes.run import batches, features_of, told_at
from latentvla_core.latent.train import train_latent_action_model
from latentvla_core.training.config import with_training
from latentvla_core.training.images import ImageCache
from latentvla_core.training.sinks import ProgressSink
from latentvla_core.types import Array, SceneRecord

NOISE = 1e-3  # squared difference of a picture that does not change, in units of `PixelFeatures`
STANDING_M = 0.3  # less than this in a second; poses from lidar odometry scatter by centimetres


def real_records(folder: Path) -> list[SceneRecord]:
    """One record per transition of one second; a phase of a fast sequence is a log of its own,
    named `sequence@phase`.
    """
    window = SceneFilter(
        num_history_frames=1, num_future_frames=2, frame_interval=1, has_route=False
    )
    records: list[SceneRecord] = []
    for sequence in sorted(
        path for path in [*folder.glob("*"), *folder.glob("*/*")] if is_sequence(path)
    ):
        try:
            logs = read_logs(sequence)
        except LatentVLAError as error:
            print(f"left out: {error}")
            continue
        scenes = [scene for frames in logs.values() for scene in scenes_of_log(frames, window)]
        records += [scene_record(scene, str(sequence)) for scene in scenes]
    return records


def sequence_of(log_name: str) -> str:
    """The drive of a log: phases of a sequence show the same road."""
    return log_name.partition("@")[0]


def judge(
    model: LatentActionModel,
    records: Sequence[SceneRecord],
    fit_on: Sequence[SceneRecord] | None,
    cache: ImageCache,
) -> dict[str, Report]:
    """Figures by sequence and over all: error of the probes, and what codes do while the ego
    stands.

    Args:
        fit_on: records the probes are fitted on; None: the other sequences.
    """
    pairs = collect_pairs(records, model.config.gap_frames, cache)
    names = np.array([sequence_of(log) for log in pairs.logs])
    codes: dict[str, Array] = dict(
        zip(("ego", "environment"), all_codes(model, pairs), strict=True)
    )
    size = {name: getattr(model.config, name).codebook_size for name in codes}
    given: dict[str, tuple[Array, Array]] = {}
    if fit_on is not None:
        others = collect_pairs(fit_on, model.config.gap_frames, cache)
        known = dict(zip(codes, all_codes(model, others), strict=True))
        given = {name: (one_hot(known[name], size[name]), others.motion) for name in codes}
    guesses = {name: np.zeros(pairs.motion.shape) for name in codes}
    for name, own in codes.items():
        inputs = one_hot(own, size[name])
        for sequence in np.unique(names):
            held = names == sequence
            x, y = given.get(name, (inputs[~held], pairs.motion[~held]))
            guesses[name][held] = predict(ridge(x, y.astype(np.float64)), inputs[held])
    groups = {"all": np.ones(len(names), bool)} | {str(s): names == s for s in np.unique(names)}
    copies = {what: change.mean(1) for what, change in changes(model, pairs).items()}
    return {
        name: _figures(pairs.motion, codes, guesses, where)
        | {what: float(e[where].mean()) for what, e in copies.items()}
        for name, where in groups.items()
    }


def standing(
    model: LatentActionModel,
    records: Sequence[SceneRecord],
    fit_on: Sequence[SceneRecord],
    cache: ImageCache,
) -> Report:
    """What codes do while the ego stands: does each kind stay put, and does it tell how much
    changes in a strip of the picture?

    Codes that "change" are not the right ones: where nothing moves an environment code must stay,
    and where one thing keeps passing too. So: the expected change of a strip (log of the squared
    difference to the compensated first frame) given its environment code (one table for all
    strips), or given all ego codes (a probe for each strip), is fitted on other drives; figures are
    rank correlations with the change that is seen, over standing transitions and strips.
    `tells_change`: of each strip less its mean, since that a strip always shows more than another
    no code needs to tell. `tells_where`: also less the mean of the transition, that is of what all
    strips have in common, as when a car that almost stands still creeps.
    """
    asked, known = (collect_pairs(r, model.config.gap_frames, cache) for r in (records, fit_on))
    use = np.abs(asked.motion[:, 0]) < STANDING_M
    report: Report = {"standing": float(use.sum())}
    codes = dict(zip(("ego", "environment"), all_codes(model, asked), strict=True))
    report |= {
        f"{name}_kept": kept(own[use]) for name, own in codes.items() if use.sum() > 1 and own.size
    }
    if use.sum() < 2 or not model.config.sectors:
        return report  # nobody stands, or no code is about a strip
    seen, target = strip_change(model, asked)[use], strip_change(model, known)
    for name, others in zip(codes, all_codes(model, known), strict=True):
        size, own, y = getattr(model.config, name).codebook_size, codes[name][use], target
        if name == "environment":
            own, others, y = (a.reshape(-1, 1) for a in (own, others, target))
        expected = predict(ridge(one_hot(others, size), y), one_hot(own, size)).reshape(seen.shape)
        when = [a - a.mean(0) for a in (expected, seen)]
        where = [a - a.mean(1, keepdims=True) for a in when]
        report |= {
            f"{name}_tells_change": agreement(*when),
            f"{name}_tells_where": agreement(*where),
        }
    return report


def agreement(a: Array, b: Array) -> float:
    """Rank correlation of two arrays of one shape."""
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def strip_change(model: LatentActionModel, pairs: Pairs) -> Array:
    """(n, S) log squared difference of the second frame to the compensated first, in the strip of
    each environment code.
    """
    change = changes(model, pairs)["compensated_copy"].reshape(
        len(pairs), *model.config.features.grid_hw
    )
    strips = np.stack(
        np.split(change, model.config.sectors, axis=2), axis=1
    )  # (n, S, rows, columns / S)
    return np.log(strips.mean((2, 3)) + NOISE)


def quality(
    model: LatentActionModel,
    records: Sequence[SceneRecord],
    fit_on: Sequence[SceneRecord] | None,
    cache: ImageCache,
) -> Report:
    """The whole quality report over all sequences; a sequence, not a phase of it, is what probes
    must not have seen.
    """
    drives = [replace(record, log_name=sequence_of(record.log_name)) for record in records]
    return evaluate(drives, model, cache=cache, probe_records=fit_on)


@torch.no_grad()
def changes(model: LatentActionModel, pairs: Pairs) -> dict[str, Array]:
    """(n, P) squared difference of the second frame to the first, and to the first one compensated
    for ego motion.
    """
    found: dict[str, list[Array]] = {"copy": [], "compensated_copy": []}
    for index in batches(len(pairs), 256):
        x, told = features_of(model, pairs, index), told_at(model, pairs, index)
        moved = compensated(x[:, 0], told.projections, told.waypoints[:, -1], model.config.features)
        for parts, first in zip(found.values(), (x[:, 0], moved), strict=True):
            parts.append((first - x[:, 1]).square().mean(2).numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _figures(
    motion: Array, codes: dict[str, Array], guesses: dict[str, Array], where: Array
) -> Report:
    report: Report = {"transitions": float(where.sum())}
    report |= {f"spread_{a}": float(motion[where, i].std()) for i, a in enumerate(AXES)}
    for name, own in codes.items():
        error = np.sqrt(np.square(guesses[name][where] - motion[where]).mean(0))
        total = np.square(motion[where] - motion[where].mean(0)).mean(0)
        report |= {f"{name}_rmse_{a}": float(error[i]) for i, a in enumerate(AXES)}
        report |= {
            f"{name}_r2_{a}": float(1 - error[i] ** 2 / max(total[i], 1e-9))
            for i, a in enumerate(AXES)
        }
        report[f"{name}_kept"] = kept(own[where])
    return report


def kept(codes: Array) -> float:
    """Mean over positions of the share of the commonest code of (n, N): 1 = the codes stay put."""
    return float(
        np.mean([Counter(column).most_common(1)[0][1] / len(column) for column in codes.T.tolist()])
    )


def trained(
    name: str, records: Sequence[SceneRecord], config: LatentActionConfig, cache: ImageCache
) -> LatentActionModel:
    with ProgressSink(name, seconds_per_line=30) as sink:
        return train_latent_action_model(records, config, sink=sink, cache=cache)


def show(name: str, figures: dict[str, Report]) -> None:
    rows = list(dict.fromkeys(key for report in figures.values() for key in report))
    print(f"\n{name}\n| | " + " | ".join(figures) + " |\n|---|" + "---:|" * len(figures))
    for row in rows:
        print(
            f"| {row} | "
            + " | ".join(f"{r.get(row, float('nan')):.3g}" for r in figures.values())
            + " |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=Path, required=True, help="folder of sequences")
    parser.add_argument("--out", type=Path, required=True, help="folder of worlds and reports")
    parser.add_argument("--logs", type=int, default=200, help="logs of the embedded world")
    parser.add_argument(
        "--models",
        type=Path,
        nargs="*",
        default=[],
        help="saved models to judge; nothing is trained",
    )
    parser.add_argument(
        "--held-out", nargs="*", default=["kitti_city_stop_color", "nuscenes_0103_front"]
    )
    parser.add_argument("--steps", type=int, default=2000, help="per stage; real alone: 150")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config = LatentActionConfig.long(steps=args.steps)
    real = real_records(args.shared)
    seen = [r for r in real if sequence_of(r.log_name) not in args.held_out]
    held_out = [r for r in real if sequence_of(r.log_name) in args.held_out]
    world, test = worlds(args.out, args.logs, 20.0)
    cache = ImageCache(config.features.image_size_wh)
    print(
        f"{len(real)} real transitions, {len(seen)} of them not held out; {len(world)} scenes of the world",
        flush=True,
    )
    models = {folder.name: (load(folder), world) for folder in args.models}
    if not args.models:
        alone = with_training(config, steps=min(150, args.steps))
        models["world and real"] = trained("both", [*world, *seen], config, cache), world
        models["real alone"] = trained("alone", seen, alone, cache), None
    reports = {name: judge(model, real, fit_on, cache) for name, (model, fit_on) in models.items()}
    for name, figures in reports.items():
        show(name, figures)
    show(
        "quality report",
        whole := {name: quality(m, real, fit_on, cache) for name, (m, fit_on) in models.items()},
    )
    found: dict[str, object] = {"by sequence": reports, "quality": whole}
    if held_out:
        stood = {
            f"{name}, {what}": standing(m, records, fit_on or seen, cache)
            for name, (m, fit_on) in models.items()
            for what, records in (("held-out real", held_out), ("world", test))
        }
        show("while the ego stands", stood)
        found["standing"] = stood
    (args.out / "reports-real.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
