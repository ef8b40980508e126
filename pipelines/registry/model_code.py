"""What MLflow runs when it serves one of our models: scenes as JSON in, codes or plans out. Imports
no Dagster.

model = mlflow.pyfunc.load_model("models:/ipad_student@champion")
poses = model.predict(pandas.DataFrame({"scene": [scene_json]}))     # (N, 8, 3) float32
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class LatentVLAModel(PythonModel):
    """Latent action model, VLM, student, or a planner with the model whose features it needs."""

    def load_context(self, context: Any) -> None:
        self.folder = Path(context.artifacts["model"])
        self.kind = json.loads((self.folder / "summary.json").read_text())["family"]
        self.model = load_family(self.kind, self.folder)
        self.features = None
        if "features" in context.artifacts:
            folder = Path(context.artifacts["features"])
            family = json.loads((folder / "summary.json").read_text())["family"]
            self.features = (family, load_family(family, folder))

    def predict(self, context, model_input, params=None):  # MLflow reads type hints as a schema
        """(N,) scenes → (N, 8, 3) float32 poses of a planner, or (N, 12) int8 codes."""
        from latentvla_core.data.records import record_from_row

        records = [record_from_row(arrays_of(json.loads(text))) for text in model_input["scene"]]
        if self.kind != "planner":
            return codes_of(self.kind, self.model, records)
        from latentvla_core.planner.plan import plan

        features = features_of(*self.features, records) if self.features else None
        return plan(self.model, records, features)


def arrays_of(row: dict[str, Any]) -> dict[str, Any]:
    """A row of table `scenes` that went through JSON, with its arrays restored to their declared
    type and shape.
    """
    from latentvla_core.schema import restore
    from latentvla_core.tables import TABLES

    return restore(TABLES["scenes"], row)


def load_family(family: str, folder: Path) -> Any:
    if family == "planner":
        from latentvla_core.planner.model import load

        return load(folder)
    if family == "latent_action_model":
        from latentvla_core.latent.model import load

        return load(folder)
    if family == "vlm":
        from latentvla_core.vlm.vlm import load

        return load(folder)
    from latentvla_core.distill.predict import load_student

    return load_student(folder)


def features_of(family: str, model: Any, records: list[Any]) -> Any:
    """What VLM or student sees in these scenes; no label is at hand, none is needed."""
    if family == "vlm":
        from latentvla_core.vlm.samples import build_samples

        return model.predict(build_samples(records, None, model.config))
    return model.predict(records)


def codes_of(family: str, model: Any, records: list[Any]) -> np.ndarray:
    """(N, 12) codes: labels from the latent action model (which sees the future), predictions from
    the others.
    """
    if family == "latent_action_model":
        from latentvla_core.latent.label import label_scenes

        return label_scenes(records, model, batch_size=16, device="cpu").codes
    return features_of(family, model, records).codes


set_model(LatentVLAModel())
