"""Latency, labelling and the torch score for `benchmarks.gpu`."""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import score, student_vs_teacher
from benchmarks.gpu_device import Row, peak_gb
from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.features import FeatureConfig
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.network import count_parameters


def latency(device: torch.device, options: argparse.Namespace) -> list[Row]:
    """Milliseconds of one scene: teacher, student, student that answers in parallel; peak memory
    counts all before it.
    """
    size, half = "debug" if options.tiny else "paper", device.type == "cuda"
    vlm, batch = student_vs_teacher.teacher(getattr(VlmConfig, size)(), device, half)
    passes: list[tuple[str, int, Callable[[], object]]] = [
        ("teacher", count_parameters(vlm.network), partial(student_vs_teacher.decode, vlm, batch))
    ]
    config = getattr(StudentConfig, size)()
    inputs = student_vs_teacher.student_inputs(config, device)
    for label, own in (
        ("student", config),
        ("student, parallel", replace(config, decoding="parallel")),
    ):
        network = StudentNetwork(own).to(device).eval()
        once = student_vs_teacher.half_precision(network, inputs, half)
        passes.append((label, count_parameters(network), once))
    rows: list[Row] = []
    for label, parameters, once in passes:
        times = student_vs_teacher.timed(once, options.repeats, device)
        median, p95 = statistics.median(times), sorted(times)[math.ceil(0.95 * len(times)) - 1]
        base = float(str(rows[0]["median_ms"])) if rows else median
        row = {
            "what": f"one scene, {label}",
            "parameters": parameters,
            "median_ms": median,
            "p95_ms": p95,
        }
        rows.append(row | {"speed_up": base / median, "peak_gb": peak_gb(device)})
    return rows


def labelling(device: torch.device, options: argparse.Namespace) -> list[Row]:
    """Transitions per second that get codes, pictures in memory; float32 is what `label_scenes`
    does.

    bf16 concerns the inverse model alone: DINOv2 gives the same numbers everywhere, so it is never
    under autocast.
    """
    small = FeatureConfig(kind="dinov2", image_size_wh=(56, 28), patch_px=14, dim=64)
    config = (
        LatentActionConfig.debug(features=small) if options.tiny else LatentActionConfig.paper()
    )
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            config, features=replace(config.features, backbone=_random_dino(config, Path(folder)))
        )
        model = LatentActionModel(config).to(device).eval()
        width, height = config.features.image_size_wh
        rows: list[Row] = []
        for batch in (1, 64) if options.tiny else (1, 64, 256):
            pictures = torch.randint(
                0, 256, (batch, 2, height, width, 3), dtype=torch.uint8, device=device
            )
            for precision in ("fp32", "bf16") if device.type == "cuda" else ("fp32",):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    times = student_vs_teacher.timed(
                        partial(model.codes, pictures), options.repeats, device
                    )
                each = statistics.median(times) / batch
                row = {
                    "what": f"labelling, {precision}",
                    "batch": batch,
                    "transitions_per_s": 1e3 / each,
                }
                rows.append(row | {"pictures_per_s": 2e3 / each, "peak_gb": peak_gb(device)})
    return rows


def _random_dino(config: LatentActionConfig, folder: Path) -> str:
    """A DINOv2 with registers of the configuration's width, random weights, saved as the line
    expects it.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    width = config.features.dim
    shape = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=width // 64,
        patch_size=config.features.patch_px,
    )
    Dinov2WithRegistersModel(shape).save_pretrained(folder)
    return str(folder)


def scorer(device: torch.device, options: argparse.Namespace) -> list[Row]:
    """Plans per minute of the torch score, both metrics, on golden scenes, a tree, or a small
    embedded world.
    """
    tree = argparse.Namespace(root=options.root, split=options.split)
    with tempfile.TemporaryDirectory() as scratch:
        scenes, maps = score._scenes(*score._tree(tree, Path(scratch)), 2 if options.tiny else 16)
        _, worlds = score._prepare(scenes, maps, 1)
    rows: list[Row] = []
    for metric in ("pdms", "epdms"):
        counts = (4, 16) if options.tiny else score.TORCH_COUNTS
        for count, row in score.torch_path(
            metric, worlds, str(device), min(options.repeats, 5), counts
        ).items():
            what: Row = {"what": f"{metric}, torch", "proposals": count, "scenes": len(worlds)}
            rows.append(what | row | {"peak_gb": peak_gb(device)})
    return rows
