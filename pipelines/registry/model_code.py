"""What MLflow runs when it serves one of our models: scenes as JSON in, codes or plans out. Imports
no Dagster.

model = mlflow.pyfunc.load_model("models:/ipad_student@champion")
poses = model.predict(pandas.DataFrame({"scene": [scene_json]}))     # (N, 8, 3) float32
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel


class LatentVLAModel(PythonModel):
    """Latent action model, VLM, student, or a planner with the model whose features it needs."""

    def load_context(self, context: Any) -> None:
        self.folder = Path(context.artifacts["model"])
        self.kind = json.loads((self.folder / "summary.json").read_text())["family"]
        self.model = load_family(self.kind, self.folder)
        self.features = None
        if folder := part_of(context.artifacts, "features"):
            family = json.loads((folder / "summary.json").read_text())["family"]
            self.features = (family, load_family(family, folder))

    def predict(self, context, model_input, params=None):  # MLflow reads type hints as a schema
        """(N,) scenes → (N, 8, 3) float32 poses of a planner, or (N, 12) int8 codes.

        A scene is a moment with its pictures or a row of table `scenes` (doors/scenes.py). Raises
        MlflowException, which a server answers with code 400, naming every scene that cannot be
        used and why: no row of NaN passes for a plan.
        """
        from latentvla_core.doors.scenes import scenes_of
        from latentvla_core.errors import DataError

        with tempfile.TemporaryDirectory(prefix="latentvla-served-") as folder:
            try:
                records = scenes_of(list(model_input["scene"]), Path(folder))
                answer, faults = self._answers(records)
            except DataError as error:
                raise refusal(str(error)) from error
        if told := [f"scene {i}: {fault}" for i, fault in enumerate(faults) if fault]:
            raise refusal("\n".join(told).replace(f"{folder}/", ""))
        return answer

    def _answers(self, records: list[Any]) -> tuple[np.ndarray, list[str]]:
        """Poses or codes, and per scene why there are none, or ""."""
        if self.kind != "planner":
            return codes_of(self.kind, self.model, records)
        from latentvla_core.planner.plan import plan

        features = features_of(*self.features, records) if self.features else None
        faults: list[str] = []
        poses = plan(self.model, records, features, faults=faults)
        broken = np.asarray(~np.isfinite(poses).all(axis=(1, 2)))
        return poses, [
            fault or ("the planner gave a pose that is not finite" if bad else "")
            for fault, bad in zip(faults, broken, strict=True)
        ]


def part_of(artifacts: Any, part: str) -> Path | None:
    """Folder of another model that this one needs: a copy of its own, or the registered version
    that it names, brought by MLflow; None where it needs none.
    """
    if part in artifacts:
        return Path(artifacts[part])
    named = json.loads(Path(artifacts["parts"]).read_text()) if "parts" in artifacts else {}
    if part not in named:
        return None
    from mlflow.artifacts import download_artifacts

    there = Path(download_artifacts(artifact_uri=named[part]["uri"]))
    return there / "artifacts" / named[part]["folder"]


def refusal(reason: str) -> MlflowException:
    return MlflowException(reason, error_code=INVALID_PARAMETER_VALUE)


def load_family(family: str, folder: Path) -> Any:
    if family == "planner":
        from latentvla_core.planner.model import load

        return load(folder)
    if family == "latent_action_model":
        from latentvla_core.latent.model import load

        return load(folder)
    if family == "vlm":
        from latentvla_core.vlm.model import load

        return load(folder)
    from latentvla_core.distill.model import load_student

    return load_student(folder)


def features_of(family: str, model: Any, records: list[Any]) -> Any:
    """What VLM or student sees in these scenes; no label is at hand, none is needed."""
    if family == "vlm":
        from latentvla_core.vlm.samples import build_samples

        return model.predict(build_samples(records, None, model.config))
    return model.predict(records)


def codes_of(family: str, model: Any, records: list[Any]) -> tuple[np.ndarray, list[str]]:
    """(N, 12) codes: labels from the latent action model (which sees the future), predictions from
    the others; and per scene why there are none, or "".
    """
    if family == "latent_action_model":
        from latentvla_core.latent.label import label_scenes

        labels = label_scenes(records, model, batch_size=16, device="cpu")
        return labels.codes, [next(filter(None, reasons), "") for reasons in labels.reason]
    features = features_of(family, model, records)
    return features.codes, list(features.reasons)


set_model(LatentVLAModel())
