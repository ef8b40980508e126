"""The student as programs of plain tensors (`torch.export`): one forward pass, and the whole answer
of 12 tokens; as .pt2 files, or as ONNX.

Both take the fields of `StudentInputs` as positional tensors. The count of pictures is fixed by the
example (which views exist is part of the program's input mask, how many is its shape).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latentvla_core.distill.inputs import StudentInputs
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.errors import SetupError

Program = Literal["forward", "answer"]


class Forward(nn.Module):
    """All positions at once, given the 12 codes before each."""

    def __init__(self, network: StudentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, codes: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 12) codes and `StudentInputs` → logits (B, 12, 16), visual (B, M, D), action
        (B, 12, D).
        """
        out = self.network(StudentInputs(*inputs), codes)
        return out.logits, out.visual, out.action


class Answer(nn.Module):
    """Twelve greedy tokens, each given those before it."""

    def __init__(self, network: StudentNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`StudentInputs` → codes (B, 12), logits (B, 12, 16), visual (B, M, D), action
        (B, 12, D).
        """
        # inference_mode is a wrapper that export cannot enter; export needs no gradients anyway.
        generate = StudentNetwork.generate.__wrapped__  # pyright: ignore[reportFunctionMemberAccess]
        return tuple(generate(self.network, StudentInputs(*inputs)))


def export_student(
    network: StudentNetwork, example: StudentInputs, program: Program
) -> torch.export.ExportedProgram:
    """The program for batches of the example's shapes; weights are those of `network`, in eval mode."""
    network.eval()
    wrapped = {"forward": Forward, "answer": Answer}[program](network)
    codes = torch.zeros(len(example.state), 12, dtype=torch.int64, device=example.state.device)
    first = (codes,) if program == "forward" else ()
    with torch.no_grad():
        return torch.export.export(wrapped, (*first, *example), strict=False)


def save_program(program: torch.export.ExportedProgram, path: Path | str) -> Path:
    """Write a .pt2 file, which `torch.export.load` reads without this package."""
    path = Path(path)
    torch.export.save(program, str(path))
    return path


def save_onnx(program: torch.export.ExportedProgram, path: Path | str) -> Path:
    """Write a program of `export_student` as ONNX, weights inside. Inputs are named `input_0` … in
    the order of the program's arguments. Raises SetupError without the extra `onnx`.
    """
    try:
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SetupError("ONNX needs the extra: pip install 'latentvla[onnx]'") from error
    path = Path(path)
    names = [f"input_{k}" for k in range(len(program.graph_signature.user_inputs))]
    made = torch.onnx.export(program, input_names=names, dynamo=True, verbose=False)
    assert made is not None  # for the type checker: exporting with dynamo gives a program
    made.save(str(path))
    return path
