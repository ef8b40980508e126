"""Scene filters: the devkit's windows, its YAML files, and the golden list of scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
from navsim_files import log_frames, shared, write_pickle

from latentvla_core.data.filters import (
    SceneFilter,
    iter_scenes,
    load_filter,
    load_split,
    scenes_of_log,
)
from latentvla_core.data.navsim import read_log
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.types import Frame


def _frames(tmp_path: Path, count: int, **options: object) -> list[Frame]:
    return read_log(write_pickle(tmp_path / "log.pkl", log_frames(count, **options)))


def _indices(frames: list[Frame], filter: SceneFilter) -> list[int]:
    return [scene.current.frame_idx for scene in scenes_of_log(frames, filter)]


def test_windows_do_not_overlap_by_default_and_the_tail_is_dropped(tmp_path: Path) -> None:
    frames = _frames(tmp_path, 14 * 2 + 5)
    assert _indices(frames, SceneFilter()) == [3, 17]
    assert _indices(frames, SceneFilter(frame_interval=1)) == list(range(3, 23))
    assert _indices(frames, SceneFilter(frame_interval=6)) == [3, 9, 15, 21]
    assert _indices(frames[:13], SceneFilter()) == []
    scene = scenes_of_log(frames, SceneFilter(), "mini")[0]
    assert (len(scene.history), len(scene.future), scene.split, scene.token) == (
        4,
        10,
        "mini",
        frames[3].token,
    )


def test_route_and_tokens_are_asked_of_the_current_frame(tmp_path: Path) -> None:
    raw = log_frames(16)
    raw[3]["roadblock_ids"] = []
    frames = read_log(write_pickle(tmp_path / "log.pkl", raw))
    assert _indices(frames, SceneFilter(frame_interval=1)) == [4, 5]
    assert _indices(frames, SceneFilter(frame_interval=1, has_route=False)) == [3, 4, 5]
    assert _indices(frames, SceneFilter(frame_interval=1, tokens=[frames[5].token])) == [5]  # type: ignore[arg-type]
    assert (
        _indices(frames, SceneFilter(tokens=frozenset([frames[5].token]))) == []
    )  # not on the grid of 14


def test_a_repeated_token_keeps_the_later_window(tmp_path: Path) -> None:
    raw = log_frames(16)
    raw[4]["token"] = raw[3]["token"]
    scenes = scenes_of_log(
        read_log(write_pickle(tmp_path / "log.pkl", raw)), SceneFilter(frame_interval=1)
    )
    assert [scene.current.frame_idx for scene in scenes] == [4, 5]


def test_no_window_is_laid_across_a_quarantined_frame(tmp_path: Path) -> None:
    frames: list[Frame | None] = [*_frames(tmp_path, 33)]
    frames[14] = None
    assert [s.current.frame_idx for s in scenes_of_log(frames, SceneFilter(frame_interval=1))] == [
        3,
        *range(18, 23),
    ]
    assert [s.current.frame_idx for s in scenes_of_log(frames, SceneFilter())] == [3]


def test_many_logs_stop_at_max_scenes_and_keep_named_logs(tmp_path: Path) -> None:
    paths = [
        write_pickle(tmp_path / f"2021.0{i}.pkl", log_frames(16, log=f"2021.0{i}"))
        for i in range(3)
    ]
    scenes = list(iter_scenes(paths, SceneFilter(frame_interval=1, max_scenes=4)))
    assert [scene.log_name for scene in scenes] == ["2021.00"] * 3 + ["2021.01"]
    named = SceneFilter(frame_interval=1, log_names=frozenset(["2021.02"]))
    assert {scene.log_name for scene in iter_scenes(paths, named)} == {"2021.02"}
    assert list(iter_scenes(paths, SceneFilter(max_scenes=0))) == []


def test_faults_of_many_logs_are_collected_or_raised(tmp_path: Path) -> None:
    paths = [write_pickle(tmp_path / f"{i}.pkl", log_frames(14, log=str(i))) for i in range(2)]
    paths[0].write_bytes(paths[0].read_bytes()[:100])
    faults: list[DataError] = []
    assert [s.log_name for s in iter_scenes(paths, SceneFilter(), faults=faults)] == ["1"]
    assert len(faults) == 1
    with pytest.raises(DataFaults):
        list(iter_scenes(paths, SceneFilter()))


@pytest.mark.parametrize(
    "bad",
    [{"num_history_frames": 0}, {"num_future_frames": -1}, {"frame_interval": 0}, {"tokens": "a"}],
)
def test_impossible_filters_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SetupError, match=next(iter(bad))):
        SceneFilter(**bad)  # type: ignore[arg-type]


def _devkit(tmp_path: Path) -> Path:
    folder = tmp_path / "navsim/planning/script/config/common/train_test_split"
    (folder / "scene_filter").mkdir(parents=True)
    (folder / "navhard.yaml").write_text(
        "defaults:\n- scene_filter: hard_scenes\ndata_split: test\nreactive_all_mapping:\n"
        "- - 'aa'\n  - 'bb'\n  - - - 'cc1'\n      - 'dd1'\n    - - 'cc2'\n      - 'dd2'\n"
    )
    (folder / "scene_filter/hard_scenes.yaml").write_text(
        "_target_: navsim.common.dataclasses.SceneFilter\n_convert_: 'all'\nnum_history_frames: 4 # past\n"
        "num_future_frames: 8\nframe_interval: 1\nhas_route: true\nmax_scenes: null\ninclude_synthetic_scenes: true\n"
        "log_names:\n- '2021.08.16'\ntokens:\n- 12e4567890123456\n- 0123456789012345\n"
        "reactive_synthetic_initial_tokens: [cc1]\n"
    )
    return folder


def test_the_devkits_own_yaml_files_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _devkit(tmp_path)
    split = load_split(folder / "navhard.yaml")
    assert (split.name, split.data_split) == ("navhard", "test")
    assert split.filter == SceneFilter(
        num_future_frames=8,
        frame_interval=1,
        log_names=frozenset(["2021.08.16"]),
        tokens=frozenset(["12e4567890123456", "0123456789012345"]),  # tokens, not numbers
        include_synthetic_scenes=True,
        reactive_synthetic_initial_tokens=frozenset(["cc1"]),
    )
    assert split.two_stage[0].synthetic == (("cc1", "dd1"), ("cc2", "dd2"))
    monkeypatch.setenv("NAVSIM_DEVKIT_ROOT", str(tmp_path))
    assert load_split("navhard") == split
    assert load_filter(folder / "scene_filter/hard_scenes.yaml") == split.filter
    with pytest.raises(SetupError, match="did you mean 'navhard'"):
        load_split("navhrd")


def test_raw_splits_are_built_in_and_others_need_the_devkit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NAVSIM_DEVKIT_ROOT", raising=False)
    assert load_filter("mini") == SceneFilter()
    with pytest.raises(SetupError, match="NAVSIM_DEVKIT_ROOT"):
        load_split("navtrain")
    with pytest.raises(SetupError, match="did you mean 'trainval'"):
        load_split("trainvall")


@pytest.mark.parametrize(
    "line", ["num_histroy_frames: 4", "has_route: maybe", "tokens: abc", "- 1"]
)
def test_a_filter_file_with_a_mistake_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_text(line + "\n")
    with pytest.raises(SetupError, match=r"f\.yaml"):
        load_filter(path)


def test_the_golden_logs_give_exactly_the_golden_scenes() -> None:
    import pyarrow.parquet as pq

    root = shared("golden")
    logs = sorted((root / "data/navsim_logs/golden").glob("*.pkl"))
    tokens = [scene.token for scene in iter_scenes(logs, SceneFilter(frame_interval=1), "golden")]
    expected = pq.read_table(root / "scenes.parquet", columns=["scene_token"])[
        "scene_token"
    ].to_pylist()
    assert len(tokens) == 171
    assert set(tokens) == set(expected)
