"""The student as a program of plain tensors: equal to the network, and the same after a file."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from vlm_worlds import scenes

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.export import export_student, save_onnx, save_program
from latentvla_core.distill.inputs import StudentInputs, StudentScenes
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.errors import SetupError
from latentvla_core.training.images import ImageCache

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
CONFIG = StudentConfig.debug()


@pytest.fixture(scope="module")
def network() -> StudentNetwork:
    torch.manual_seed(0)
    return StudentNetwork(CONFIG).eval()


@pytest.fixture(scope="module")
def batches(tmp_path_factory) -> list[StudentInputs]:
    """Two batches of two scenes each, with all views."""
    records, _ = scenes(4, tmp_path_factory.mktemp("drive"), seed=2, size_wh=CONFIG.image_size_wh)
    made = StudentScenes(records, CONFIG, ImageCache(CONFIG.image_size_wh))
    return [made.batch(np.array(rows)) for rows in ([0, 1], [2, 3])]


def test_the_exported_answer_is_the_networks_own_on_scenes_it_was_not_traced_with(
    network, batches, tmp_path
):
    program = export_student(network, batches[0], "answer")
    program = torch.export.load(str(save_program(program, tmp_path / "answer.pt2")))
    for batch in batches:
        with torch.no_grad():
            codes, logits, visual, action = program.module()(*batch)
        expected = network.generate(batch)
        assert torch.equal(codes, expected.codes)
        for have, want in zip((logits, visual, action), expected[1:], strict=True):
            assert torch.allclose(have, want, atol=1e-5)


def test_the_exported_forward_reads_the_codes_it_is_given(network, batches):
    program = export_student(network, batches[0], "forward").module()
    for codes in (torch.full((2, 12), 3), torch.full((2, 12), 9)):
        with torch.no_grad():
            logits, visual, action = program(codes, *batches[1])
            expected = network(batches[1], codes)
        assert torch.allclose(logits, expected.logits, atol=1e-5)
        assert torch.allclose(visual, expected.visual, atol=1e-5)
        assert torch.allclose(action, expected.action, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward", "answer"])
def test_onnxruntime_answers_as_the_network_on_other_scenes(kind, network, batches, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    pytest.importorskip("onnxscript", reason="the extra `onnx` is not installed")
    program = export_student(network, batches[0], kind)
    path = save_onnx(program, tmp_path / "student.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    first = (torch.full((2, 12), 3),) if kind == "forward" else ()
    given = [tensor.numpy() for tensor in (*first, *batches[1])]
    found = session.run(None, {f"input_{k}": value for k, value in enumerate(given)})
    with torch.no_grad():
        expected = program.module()(*first, *batches[1])
    if kind == "answer":
        assert np.array_equal(found[0], expected[0].numpy())
    for have, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(have, want.numpy(), atol=1e-5)


def test_without_the_extra_the_remedy_is_named(network, batches, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    program = export_student(network, batches[0], "forward")
    with pytest.raises(SetupError, match=r"latentvla\[onnx\]"):
        save_onnx(program, tmp_path / "student.onnx")
