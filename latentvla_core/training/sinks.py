"""Where numbers go while something trains: a protocol, a progress bar, a list for tests.

Keys may carry a prefix ("stage1/loss"), and after it a group ("stage1/quality/trajectory_use"):
numbers that come now and then. Two keys have a meaning of their own: `progress` (0 … 1 of the run)
and `samples_per_s`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


class MetricSink(Protocol):
    """Anything that takes numbers. MLflow is one, plugged in from outside the core."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...


class ListSink:
    """Keeps everything, for tests and reports."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.rows.append((step, dict(metrics)))

    def series(self, name: str) -> list[float]:
        """All values logged under one name, in order."""
        return [row[name] for _, row in self.rows if name in row]


class FileSink:
    """Keeps every line in a file of JSON lines, so that curves can be drawn later; a resumed run
    goes on in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        with self.path.open("a") as file:
            file.write(
                "\n" + json.dumps([step, dict(metrics)])
            )  # begins a line, also after one that was cut off


def read_curves(path: Path, *, until: int | None = None) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by name from a FileSink's file, up to a step; {} without one. Of a step that
    was done twice the last value counts.

    A line that a killed process left half written is passed over.
    """
    if not path.is_file():
        return {}
    points: dict[str, dict[int, float]] = {}
    for line in path.read_text().splitlines():
        try:
            step, metrics = json.loads(line)
        except ValueError:
            continue
        if until is None or step <= until:
            for name, value in metrics.items():
                points.setdefault(name, {})[step] = value
    return {name: sorted(by_step.items()) for name, by_step in points.items()}


class NullSink:
    """Drops everything."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        pass


class Tee:
    """One log call, several sinks."""

    def __init__(self, *sinks: MetricSink) -> None:
        self.sinks = sinks

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.log(step, metrics)


class Prefixed:
    """Puts a stage's name before its keys and shifts its steps, so that stages in a row share one
    sink.
    """

    def __init__(self, sink: MetricSink, prefix: str, first_step: int = 0) -> None:
        self.sink, self.prefix, self.first_step = sink, prefix, first_step

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.sink.log(
            self.first_step + step,
            {f"{self.prefix}/{name}": value for name, value in metrics.items()},
        )


class ProgressSink:
    """A bar with rate, remaining time and loss; without a terminal, one plain line every few
    seconds.

    Numbers of a group get a line of their own, above the bar, and none of those lines is left out.
    Use it as a context manager, so that the bar is closed before anything else prints.
    """

    def __init__(
        self,
        title: str = "train",
        *,
        stream: TextIO | None = None,
        seconds_per_line: float = 5.0,
        first: Sequence[str] = (),
    ) -> None:
        from rich.console import Console

        self.first = tuple(first)
        """Names to show before others; a line has room for seven. Of a group, those with its name
        before them and no others.
        """
        self.title, self.seconds_per_line = title, seconds_per_line
        self.console = Console(file=stream, stderr=stream is None)
        self.bar = _bar(self.console) if self.console.is_terminal else None
        self.tasks: dict[str, int] = {}
        self.last_line_s = float("-inf")

    def __enter__(self) -> ProgressSink:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        prefix = next(
            (name[: -len("progress")] for name in metrics if name.endswith("progress")), ""
        )
        done = metrics.get(f"{prefix}progress")
        plain = {name.removeprefix(prefix): value for name, value in metrics.items()}
        text = _line({name: value for name, value in plain.items() if "/" not in name}, self.first)
        title = f"{self.title} {prefix.rstrip('/')}".strip()
        head = f"{title} step {step}{'' if done is None else f' {done:4.0%}'}"
        for line in _groups(plain, self.first):
            self._say(f"{head}  {line}")
        if self.bar is None:
            self._print(f"{head}  {text}", last=done == 1.0)
            return
        if prefix not in self.tasks:
            self.tasks[prefix] = int(self.bar.add_task(title, total=1.0, info=""))
        task = self.tasks[prefix]
        self.bar.update(task, completed=done or 0.0, info=text)  # pyright: ignore[reportArgumentType]
        self.bar.refresh()

    def _print(self, line: str, *, last: bool) -> None:
        now = time.monotonic()
        if last or now - self.last_line_s >= self.seconds_per_line:
            self.last_line_s = now
            self._say(line)

    def _say(self, line: str) -> None:
        self.console.print(line, soft_wrap=True, markup=False, highlight=False)


def _groups(metrics: Mapping[str, float], first: Sequence[str]) -> list[str]:
    """One text for every group that has numbers in `first`."""
    lines: dict[str, str] = {}
    for name in first:
        group, _, short = name.partition("/")
        if short and name in metrics:
            lines[group] = f"{lines.get(group, group)}  {short} {metrics[name]:.3g}"
    return list(lines.values())


def _line(metrics: Mapping[str, float], first: Sequence[str] = ()) -> str:
    """The rate, the numbers asked for, then others in the order they came: five, or seven where
    some were asked for.
    """
    plain = dict(metrics)
    rate = plain.pop("samples_per_s", None)
    plain.pop("progress", None)
    names = [name for name in first if name in plain] + [
        name for name in plain if name not in first
    ]
    numbers = "  ".join(f"{name} {plain[name]:.4g}" for name in names[: 7 if first else 5])
    return numbers if rate is None else f"{rate:,.0f} samples/s  {numbers}"


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), "{task.percentage:3.0f}%", TimeRemainingColumn())
    return Progress(*columns, TextColumn("{task.fields[info]}"), console=console)
