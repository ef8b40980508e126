"""What `latentvla score` says of files that people have and that are something else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from latentvla_core.data.layout import DataRoot
from latentvla_core.data.map_files.gpkg import LARGEST_B, GeoPackage
from latentvla_core.data.v2.submissions import read_submission
from latentvla_core.errors import DataError, SetupError


def test_a_pickle_of_twelve_thousand_plans_by_token_is_one_short_line_with_the_form_wanted(
    tmp_path: Path,
):
    plans = {f"{i:016x}": [0.0] * 24 for i in range(12_146)}
    (tmp_path / "plans.pkl").write_bytes(pickle.dumps(plans))
    with pytest.raises(DataError) as caught:
        read_submission(tmp_path / "plans.pkl")
    told = str(caught.value)
    assert len(told) < 600
    assert "12,146 keys: '0000000000000000'" in told
    assert "columns scene_token, trajectory_id, poses (8 x 3)" in told


def test_a_map_of_no_bytes_is_a_broken_download(tmp_path: Path):
    (tmp_path / "map.gpkg").touch()
    with pytest.raises(DataError, match=r"map\.gpkg: 0 bytes: the download broke"):
        GeoPackage(tmp_path / "map.gpkg")


@pytest.mark.parametrize("name", ["meta_datas", "openscene_meta_datas"])
def test_openscenes_own_layout_is_recognised(tmp_path: Path, name: str):
    (tmp_path / name / "mini").mkdir(parents=True)
    with pytest.raises(SetupError, match=f"{name}/ found: rename or link it to navsim_logs/"):
        DataRoot.find(str(tmp_path))


def test_a_map_larger_than_any_map_is_not_opened(tmp_path: Path):
    with (tmp_path / "map.gpkg").open("wb") as file:
        file.truncate(LARGEST_B + 1)  # takes no space
    with pytest.raises(DataError, match=r"map\.gpkg: 4,000,000,001 bytes; at most"):
        GeoPackage(tmp_path / "map.gpkg")
