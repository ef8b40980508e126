"""What are pictures and latent actions worth? The study, from nothing to its page.

    python -m benchmarks.evidence run --out DIR        # logs, features, codes, runs: about 75
                                                       # minutes of one core; resumes
    python -m benchmarks.evidence report --rows DIR    # every figure again, from stored rows

`run` writes DIR/rows.parquet (means per variant, seed, number of labelled logs, log and situation)
and DIR/teachers.parquet; `report` derives page.html and tables.md from them in seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentvla_core.encoders.encoder import EncoderConfig
from latentvla_core.evidence.eye import EyeConfig
from latentvla_core.evidence.prepare import (
    kept,
    latent_codes,
    look,
    read_logs,
    sights_of,
    study_latent,
)
from latentvla_core.evidence.study import StudyConfig, quality_rows, run_seed
from latentvla_core.evidence.summary import comparisons, paragraph, table
from latentvla_core.evidence.told import tell
from latentvla_core.evidence.worlds import LogsConfig, write_logs
from latentvla_core.viz.evidence_page import evidence_page
from latentvla_core.viz.html import write_page


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--out", type=Path, required=True)
    run_parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    report_parser = commands.add_parser("report")
    report_parser.add_argument("--rows", type=Path, required=True)
    report_parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "run":
        run(options.out, replace(StudyConfig(), seeds=tuple(options.seeds)))
        report(options.out, options.out)
    else:
        report(options.rows, options.out or options.rows)
    return 0


def run(out: Path, config: StudyConfig) -> None:
    """All stages; what is finished is not done again."""
    logs = write_logs(out, LogsConfig(), lambda done, total: say(f"frames {done} of {total}"))
    material = read_logs(logs)
    say(f"{len(material.scenes)} scenes")
    looked = kept(out / "looked.npz", lambda: look(material, EyeConfig(), EncoderConfig()))
    for seed in config.seeds:
        folder = out / "latent" / str(seed)
        codes = kept(
            out / f"codes-{seed}.npz",
            lambda seed=seed, folder=folder: {
                "codes": latent_codes(material, study_latent(seed), folder)[0]
            },
        )["codes"]
        told = tell(material.scenes, sights_of(looked, codes), replace(config.teacher, seed=seed))
        store(out / "runs" / f"teachers-{seed}.parquet", quality_rows(seed, told))
        done = dict.fromkeys(finished(out / "runs"), True)
        for key, rows in run_seed(material.scenes, material.worlds, told, seed, config, done):
            store(out / "runs" / f"run-{key[0]}-{key[1]}-{key[2]}.parquet", rows)
            say(f"{key} {len(rows)} rows")
    collect(out)


def collect(out: Path) -> None:
    """All runs as rows.parquet and teachers.parquet: floats of 32 bits, five decimals."""
    for name, pattern in (("rows", "run-*.parquet"), ("teachers", "teachers-*.parquet")):
        parts = [pq.read_table(path) for path in sorted((out / "runs").glob(pattern))]
        rows = pa.concat_tables([part for part in parts if part.num_rows])
        pq.write_table(_small(rows), out / f"{name}.parquet", compression="zstd")


def _small(table: pa.Table) -> pa.Table:
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_floating(column.type):
            column = pc.round(column, 5).cast(pa.float32())
        columns[name] = column
    return pa.table(columns)


def finished(folder: Path) -> list[tuple[str, int, int]]:
    """Keys of runs whose rows are stored."""
    keys = []
    for path in folder.glob("run-*.parquet"):
        name, seed, labelled = path.stem.removeprefix("run-").rsplit("-", 2)
        keys.append((name, int(seed), int(labelled)))
    return keys


def store(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(path)


def report(stored: Path, out: Path) -> None:
    """Page, tables and the paragraph, from stored rows alone."""
    rows = pq.read_table(stored / "rows.parquet").to_pylist()
    quality = pq.read_table(stored / "teachers.parquet").to_pylist()
    write_page(out / "page.html", evidence_page(rows, quality))
    (out / "tables.md").write_text(markdown(rows, quality), encoding="utf-8")
    say(f"wrote {out / 'page.html'} and {out / 'tables.md'}")


def markdown(rows: list[dict], quality: list[dict]) -> str:
    """The same figures as text."""
    lines = [paragraph(rows, quality), ""]
    for role in sorted({row["role"] for row in rows} - {"val"}):
        lines += [f"## {role}", "", "| logs | a − b | points of PDMS | seeds | |", "|" + "---|" * 5]
        for d in comparisons(rows, role):
            seeds = " ".join(f"{value:+.1f}" for value in d.by_seed)
            lines.append(f"| {d.labelled} | {d.a} − {d.b} | {d.interval} | {seeds} | {d.verdict} |")
        lines += ["", "| arm | logs | PDMS | eyes | EPDMS | ADE m |", "|" + "---|" * 6]
        for row in table(rows, role):
            interval = f"{row['pdms']:.1f} [{row['pdms_low']:.1f}, {row['pdms_high']:.1f}]"
            lines.append(
                f"| {row['variant']} | {row['labelled']} | {interval} | {row['eyes_pdms']:.1f} "
                f"| {row['epdms']:.1f} | {row['ade_m']:.2f} |"
            )
        lines.append("")
    lines += ["## teachers", "", "```", json.dumps(quality, indent=1), "```", ""]
    return "\n".join(lines)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
