"""A VLM lies in the store once; old versions go by a rule, those that somebody needs stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake
from pipelines.registry import register
from pipelines.registry.connection import connect, experiment_id
from pipelines.registry.model_code import part_of
from pipelines.services.prune import Version, main, prunable, versions_of
from pipelines.settings import Settings


def versions(name: str, count: int, **more) -> list[Version]:
    return [Version(name=name, number=str(k), made_by=f"m{k}", **more) for k in range(1, count + 1)]


def numbers(found: list[Version]) -> list[str]:
    return [f"{v.name}/{v.number}" for v in found]


def test_the_newest_of_each_model_stay():
    there = [*versions("ipad", 12), *versions("vlm", 2)]
    assert numbers(prunable(there, [], 3)) == [f"ipad/{k}" for k in range(1, 10)]


def test_what_has_an_alias_or_was_promoted_stays():
    there = versions("ipad", 5)
    there[0] = Version(name="ipad", number="1", made_by="m1", aliases=("champion",))
    assert numbers(prunable(there, [("ipad", "2")], 1)) == ["ipad/3", "ipad/4"]


def test_what_a_kept_version_needs_stays_and_what_only_old_ones_needed_goes():
    vlm = versions("vlm", 4)
    student = [Version(name="student", number="1", made_by="s1", needs=("vlm/m2",))]
    ipad = [
        Version(name="ipad", number="1", made_by="i1", needs=("vlm/m1",)),
        Version(name="ipad", number="2", made_by="i2", needs=("student/s1", "elsewhere/x")),
    ]
    assert numbers(prunable([*vlm, *student, *ipad], [], 1)) == ["vlm/1", "vlm/3", "ipad/1"]


def test_a_rule_that_keeps_nothing_is_refused():
    with pytest.raises(SetupError, match="keep is 0"):
        prunable(versions("ipad", 2), [], 0)


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    monkeypatch.setenv("LATENTVLA_HOME", str(tmp_path / "home"))
    return Settings.from_env()


def add(settings: Settings, name: str, made_by: str, parts: dict[str, str] | None = None):
    """A registered version with a file of weights, as `register._log` leaves it."""
    import mlflow

    client = connect(settings)
    folder = settings.models / name / made_by
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"{name} {made_by}")
    (folder / "summary.json").write_text(json.dumps({"parts": parts or {}, "family": name}))
    artifacts = {"model": str(folder), **register.parts_of(client, parts or {}, folder)}
    with mlflow.start_run(experiment_id=experiment_id(settings)):
        info = mlflow.pyfunc.log_model(
            name="model", artifacts=artifacts, registered_model_name=name,
            python_model=lambda model_input: model_input, pip_requirements=[],
        )  # fmt: skip
    client.set_model_version_tag(name, str(info.registered_model_version), "made_by", made_by)
    return client, info, artifacts


@pytest.mark.slow
def test_a_planner_names_its_vlm_and_the_rule_spares_both(settings, capsys):
    from mlflow.artifacts import download_artifacts

    for made_by in ("v1", "v2"):
        client, _, _ = add(settings, "vlm", made_by)
    vlm = str(settings.models / "vlm" / "v1")
    _, info, artifacts = add(settings, "planner", "p1", {"features": vlm})
    stored = Path(download_artifacts(info.model_uri)) / "artifacts"
    assert not list(stored.rglob("v1")) and (stored / "parts.json").is_file()
    found = part_of({"parts": str(stored / "parts.json")}, "features")
    assert found is not None and (found / "weights").read_text() == "vlm v1"
    assert part_of({"features": vlm}, "features") == Path(vlm), "versions of older releases"
    assert part_of({}, "features") is None and part_of(artifacts, "lidar") is None
    copied = register.parts_of(client, {"features": "/models/vlm/never"}, settings.home)
    assert copied == {"features": "/models/vlm/never"}, "what is not registered is copied"
    add(settings, "vlm", "v3")
    Lake(settings.lake)
    assert {v.needs for v in versions_of(client, settings)} == {(), ("vlm/v1",)}
    assert main(["--keep", "1", "--dry-run"]) == 0
    assert "vlm version 2 would go" in capsys.readouterr().out
    assert main(["--keep", "1"]) == 0
    assert {(v.name, v.number) for v in versions_of(client, settings)} == {
        ("vlm", "1"), ("vlm", "3"), ("planner", "1"),
    }  # fmt: skip
    assert not (settings.models / "vlm" / "v2").exists()
    assert (settings.models / "vlm" / "v1").is_dir()
    assert main(["--keep", "0"]) == 1
