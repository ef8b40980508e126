"""The GPU benchmark runs at tiny sizes on any device, and one part's failure does not lose the
others.
"""

import argparse
import importlib
import json
import sys

import pytest
import torch

from benchmarks import __main__ as bench_all
from benchmarks import gpu, gpu_device, gpu_training
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.network import build_meta
from latentvla_core.vlm.processor import VlmBatch

pytestmark = pytest.mark.slow


def bench(monkeypatch, tmp_path, *words):
    monkeypatch.setattr(
        sys, "argv", ["gpu", "--device", "cpu", "--repeats", "1", "--out", str(tmp_path), *words]
    )
    failed = gpu.main()
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert failed == sum(
        row["what"] == "failed" for rows in found["parts"].values() for row in rows
    )
    return found, (tmp_path / "gpu.md").read_text()


def test_tiny_sizes_give_rows_of_every_model_part(monkeypatch, tmp_path):
    names = ["scorer", "labelling", "latency", "training", "training_lora"]
    found, page = bench(monkeypatch, tmp_path, "--tiny", "--only", *names)
    assert list(found["parts"]) == names
    for name, rows in found["parts"].items():
        assert all("why" not in row for row in rows), f"{name}: {rows}"
        assert f"## {name}" in page
    assert found["parts"]["training"][0]["seconds"] > 0
    assert found["parts"]["training_lora"][0]["trained"] < found["parts"]["training"][0]["trained"]
    assert found["parts"]["latency"][0]["what"] == "one scene, teacher"
    assert {"device", "commit", "command"} <= found["conditions"].keys()


def test_without_a_gpu_every_part_says_why_it_is_skipped(monkeypatch, tmp_path):
    found, _ = bench(monkeypatch, tmp_path)
    assert list(found["parts"]) == list(gpu.PARTS)
    assert all("CUDA" in rows[0]["why"] for rows in found["parts"].values())


def test_a_part_that_fails_leaves_the_others(monkeypatch, tmp_path):
    def broken(device, options):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(
        gpu, "PARTS", {"broken": broken, "fine": lambda device, options: [{"what": "x", "ms": 1.5}]}
    )
    found, page = bench(monkeypatch, tmp_path, "--tiny")
    assert found["parts"]["broken"] == [{"what": "failed", "why": "RuntimeError: out of luck"}]
    assert found["parts"]["fine"] == [{"what": "x", "ms": 1.5}]
    assert "| x | 1.5 |" in page


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA L4", 121)]
)
def test_peaks_are_found_by_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert gpu_device.peak_of(torch.device("cuda")) == peak


def test_flops_of_the_papers_step_are_dominated_by_six_a_weight_and_token():
    config = VlmConfig.paper()
    network = build_meta(config)
    length, patches = 712, 3 * 4 * config.tokens_per_view
    zeros = torch.zeros(1, length, dtype=torch.long)
    batch = VlmBatch(
        zeros, zeros, zeros, torch.zeros(patches, 1), torch.zeros(3, 3), torch.zeros(1, 13)
    )
    language = 6 * 2.77e9 * length  # stack.md: 3.09 B with the tied table of 0.31 B
    assert gpu_training.step_flops(network, config, batch) == pytest.approx(
        language + 2 * 0.669e9 * patches, rel=0.05
    )


@pytest.mark.parametrize("name", bench_all.STANDALONE)
def test_make_bench_runs_only_what_needs_no_arguments(monkeypatch, name):
    """Its parser accepts an empty command line; what follows the parsing is cut off."""
    monkeypatch.setattr(sys, "argv", [name])
    parsed = []
    original = argparse.ArgumentParser.parse_args

    def stop(self, *words):
        parsed.append(original(self, *words))
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    with pytest.raises(Parsed):
        importlib.import_module(f"benchmarks.{name}").main()
    assert parsed


def test_make_bench_refuses_others_before_it_runs_any(monkeypatch, capsys):
    monkeypatch.setattr(bench_all.subprocess, "run", lambda *a, **k: pytest.fail("ran"))
    assert bench_all.main(["score", "devkit"]) == 2
    assert "devkit cannot be run from here" in capsys.readouterr().err


class Parsed(Exception):
    pass
