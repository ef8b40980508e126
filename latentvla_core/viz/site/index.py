"""The index of all scenes: columns of packed numbers, so that 10 000 scenes are about a megabyte."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, metric_of, short
from latentvla_core.types import SceneRecord
from latentvla_core.viz.canvas import PLAN_COLOURS, colour_of
from latentvla_core.viz.site.files import packed
from latentvla_core.viz.site.read import LogRows
from latentvla_core.viz.site.sentences import MISSING, agreement, predicted, sentence

SCORE_STEPS = 200  # a score is stored in steps of 0.005
NO_SCORE = 255


@dataclass
class Index:
    """Collects one row per scene, then packs them."""

    logs: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[tuple[str, str], dict[int, tuple[float, int]]] = field(default_factory=dict)
    """(planner, metric version) → scene number → (score, lost sub-scores as bits)."""

    def add_log(self, log: LogRows, numbers: dict[str, int]) -> None:
        """Scenes of one log, after those of the logs before."""
        start = log.frames[0]["timestamp_us"] if log.frames else log.records[0].timestamp_us
        city = log.records[0].map_location
        self.logs.append({"name": log.name, "split": log.split, "city": city})
        for record in log.records:
            scene = len(self.rows)
            self.rows.append(self._row(log, record, numbers, start))
            for score in log.scores.get(record.scene_token, []):
                self._add_score(scene, score)

    def _row(
        self, log: LogRows, record: SceneRecord, numbers: dict[str, int], start_us: int
    ) -> dict[str, Any]:
        token = record.scene_token
        label = sentence(log.labels.get(token, []))
        return {
            "token": token,
            "log": len(self.logs) - 1,
            "frame": numbers.get(token, record.num_history - 1),
            "time_ds": round((record.timestamp_us - start_us) / 1e5),
            "command": record.command,
            "speed_cmps": round(float(np.hypot(*record.ego_velocity_mps)) * 100),
            "label": label,
            "teacher": agreement(label, predicted(log.teacher.get(token))),
            "student": agreement(label, predicted(log.student.get(token))),
            "picture": int(any(record.front_paths)),
        }

    def _add_score(self, scene: int, row: dict[str, Any]) -> None:
        if not row["valid"] or not np.isfinite(row["score"]):
            return
        version = row["metric_version"]
        names = SUB_SCORES[metric_of(version)]
        lost = sum(1 << bit for bit, name in enumerate(names) if row[name] < 1.0)
        column = self.scores.setdefault((row["trajectory_id"], version), {})
        column[scene] = (float(row["score"]), lost)

    def data(self, facts: dict[str, Any]) -> dict[str, Any]:
        """What `data/index.js` holds; `facts` are said on the page."""
        versions = sorted({version for _, version in self.scores}, key=_metric_order)
        return {
            **facts,
            "logs": self.logs,
            "tokens": [row["token"] for row in self.rows],
            "columns": {name: self._column(name, dtype) for name, dtype in COLUMNS.items()},
            "metrics": {
                version: [short(name) for name in SUB_SCORES[metric_of(version)]]
                for version in versions
            },
            "scores": [self._score_column(*key) for key in sorted(self.scores)],
            "colours": PLAN_COLOURS | {name: colour_of(name) for name, _ in sorted(self.scores)},
        }

    def _column(self, name: str, dtype: str) -> str:
        top = np.iinfo(dtype).max
        values = np.array([row[name] for row in self.rows])
        return packed(np.clip(values, 0, top), dtype)

    def _score_column(self, planner: str, version: str) -> dict[str, Any]:
        score = np.full(len(self.rows), NO_SCORE)
        lost = np.zeros(len(self.rows), np.int64)
        for scene, (value, bits) in self.scores[planner, version].items():
            score[scene], lost[scene] = stored(value), bits
        return {
            "planner": planner,
            "metric": version,
            "score_u8": packed(score, "u1"),
            "lost_u16": packed(lost, "u2"),
        }


COLUMNS = {
    "log": "u2",
    "frame": "u2",
    "time_ds": "u2",
    "command": "u1",
    "speed_cmps": "u2",
    "label": "u1",
    "teacher": "u1",
    "student": "u1",
    "picture": "u1",
}
assert np.iinfo(COLUMNS["label"]).max == MISSING


def stored(score: float) -> int:
    """A score in steps of 0.005; only a whole 1 is stored as 1, and only a whole 0 as 0."""
    step = round(score * SCORE_STEPS)
    if step == SCORE_STEPS and score < 1.0:
        return SCORE_STEPS - 1
    return 1 if step == 0 and score > 0.0 else step


def _metric_order(version: str) -> tuple[int, str]:
    known = list(METRIC_VERSIONS.values())
    return (known.index(version) if version in known else len(known), version)
