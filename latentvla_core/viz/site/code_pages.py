"""All moments that carry a code, nearest to the codebook first; and what the atlas says of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentvla_core.lake.store import Lake
from latentvla_core.viz.site.files import figure, figures, packed
from latentvla_core.viz.site.read import LogRows

MOST = 20_000
"""Moments kept of one code: the nearest."""
SHOWN = ("delta_speed_mps", "delta_heading_rad", "speed_p50_mps", "share")


class CodePages:
    """Collects the moments of each code; a transition in several scenes counts once."""

    def __init__(self) -> None:
        self.moments: dict[int, list[tuple[float, float, int, int, int]]] = {}
        """code → (distance, confidence, scene number, step, position)."""

    def add_log(self, log: LogRows, first_scene: int) -> None:
        """Moments of a log whose scenes have numbers from `first_scene` on."""
        seen: set[int] = set()
        scene_of = {r.scene_token: first_scene + i for i, r in enumerate(log.records)}
        rows = [row for rows in log.labels.values() for row in rows if row["valid"]]
        for row in sorted(rows, key=lambda row: (row["step"], row["timestamp_us"])):
            if row["timestamp_us"] not in seen:
                seen.add(row["timestamp_us"])
                self._add(row, scene_of[row["scene_token"]])

    def _add(self, row: dict[str, Any], scene: int) -> None:
        told = zip(row["ego_codes"], row["ego_distances"], row["ego_confidence"], strict=True)
        for position, (code, distance, confidence) in enumerate(told):
            moment = (float(distance), float(confidence), scene, row["step"], position)
            self.moments.setdefault(int(code), []).append(moment)

    def data(self, code: int) -> dict[str, Any]:
        """What `data/codes/<code>.js` holds: columns of moments, nearest first."""
        moments = sorted(self.moments.get(code, []), key=_near)
        kept = np.array(moments[:MOST], float).reshape(-1, 5)
        return {
            "code": code,
            "count": len(moments),
            "distance_f4": packed(kept[:, 0], "f4"),
            "confidence_u8": packed(np.nan_to_num(kept[:, 1]).clip(0, 1) * 255, "u1"),
            "scene_u4": packed(kept[:, 2], "u4"),
            "step_u1": packed(kept[:, 3], "u1"),
            "position_u1": packed(kept[:, 4], "u1"),
        }


def _near(moment: tuple[float, ...]) -> tuple[float, ...]:
    distance = moment[0]
    return (float("inf") if np.isnan(distance) else distance, *moment[2:])


def code_facts(lake: Lake, model_version: str) -> list[dict[str, Any]]:
    """What the atlas says of each code of the model that gave the labels shown, if it has spoken."""
    rows = lake.rows("latent_codes", {"model_version": model_version}) if model_version else []
    return [
        {
            "code": int(row["code"]),
            "name": row["name"],
            "neighbours": list(map(int, row["neighbours"]))[:3],
            "contexts": list(row["contexts"])[:3],
            **{name: figure(row[name], 4) for name in SHOWN},
            "spread_mps": figures([row["delta_speed_p10_mps"], row["delta_speed_p90_mps"]], 2),
        }
        for row in sorted(rows, key=lambda row: row["code"])
    ]
