"""What are pictures and latent actions worth? The study, from nothing to its page.

    python -m benchmarks.evidence run --out DIR              # logs, features, codes, runs: about 75
                                                             # minutes of one core; resumes
    python -m benchmarks.evidence run --out DIR --size tiny  # the same road in minutes; proves
                                                             # nothing
    python -m benchmarks.evidence report --rows DIR          # every figure again, from stored rows
    python -m benchmarks.evidence report --rows DIR --doc PAGE   # and into a page of text

`run` writes DIR/rows.parquet (means per variant, seed, number of labelled logs, log and situation)
and DIR/teachers.parquet; `report` derives page.html and tables.md from them in seconds, and
replaces what stands in PAGE between the lines <!-- chain -->, <!-- figures --> and <!-- end -->.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latentvla_core.errors import SetupError
from latentvla_core.evidence.config import EvidenceConfig
from latentvla_core.evidence.prepare import (
    Material,
    kept,
    latent_codes,
    look,
    read_logs,
    sights_of,
)
from latentvla_core.evidence.situations import SITUATIONS
from latentvla_core.evidence.study import StudyConfig, quality_rows, run_seed
from latentvla_core.evidence.summary import (
    chains,
    comparisons,
    paragraph,
    positive_controls,
    table,
)
from latentvla_core.evidence.told import tell
from latentvla_core.evidence.worlds import LogsConfig, write_logs
from latentvla_core.training.config import with_training
from latentvla_core.viz.evidence_page import ROLES, evidence_page
from latentvla_core.viz.html import write_page

SHOWN = (
    "human", "menu", "menu+blind_teacher", "menu+teacher", "menu+student", "menu+oracle",
    "menu+oracle_path", "seeing", "seeing+black", "seeing+teacher",
)  # fmt: skip
"""Arms of the tables by situation."""
SIZES = ("tiny", "published")
TINY_LOGS = LogsConfig(unlabelled=4, labelled=4, val=2, test=3, test_towns=2)
CHAIN, FIGURES, END = "<!-- chain -->", "<!-- figures -->", "<!-- end -->"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run")
    run_parser.add_argument("--out", type=Path, required=True)
    run_parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    run_parser.add_argument("--labelled", type=int, nargs="+", help="numbers of labelled logs")
    run_parser.add_argument("--size", choices=SIZES, default="published")
    report_parser = commands.add_parser("report")
    report_parser.add_argument("--rows", type=Path, required=True)
    report_parser.add_argument("--out", type=Path)
    report_parser.add_argument("--doc", type=Path, help="Markdown page whose figures are replaced")
    options = parser.parse_args(arguments)
    if options.command == "run":
        logs, config = sized(options.size)
        labelled = tuple(options.labelled or config.study.labelled)
        study = replace(config.study, seeds=tuple(options.seeds), labelled=labelled)
        run(options.out, logs, replace(config, study=study))
        report(options.out, options.out)
    else:
        report(options.rows, options.out or options.rows, options.doc)
    return 0


def sized(size: str) -> tuple[LogsConfig, EvidenceConfig]:
    """Logs and configuration of the published study, or of its rehearsal."""
    if size == "published":
        return LogsConfig(), replace(EvidenceConfig.mini(), study=StudyConfig())
    small = EvidenceConfig.debug()
    return TINY_LOGS, replace(small, study=replace(small.study, labelled=(2, 4)))


def run(out: Path, logs: LogsConfig, config: EvidenceConfig) -> None:
    """All stages; what is finished is not done again."""
    check_same(out, logs, config)
    written = write_logs(out, logs, lambda done, total: say(f"frames {done} of {total}"))
    material = read_logs(written)
    say(f"{len(material.scenes)} scenes")
    looked = kept(out / "looked.npz", lambda: look(material, config.eye, config.encoder))
    for seed in config.study.seeds:
        codes = codes_of(out, material, config, seed)
        teacher = replace(config.study.teacher, seed=seed)
        told = tell(material.scenes, sights_of(looked, codes), teacher)
        store(out / "runs" / f"teachers-{seed}.parquet", quality_rows(seed, told))
        done = dict.fromkeys(finished(out / "runs"), True)
        for key, rows in run_seed(material.scenes, material.worlds, told, seed, config.study, done):
            store(out / "runs" / f"run-{key[0]}-{key[1]}-{key[2]}.parquet", rows)
            say(f"{key} {len(rows)} rows")
    collect(out)


def codes_of(out: Path, material: Material, config: EvidenceConfig, seed: int) -> np.ndarray:
    """(N, 12) codes of the seed's own latent model."""
    latent = with_training(config.latent, seed=seed)

    def make() -> dict[str, np.ndarray]:
        return {"codes": latent_codes(material, latent, out / "latent" / str(seed))[0]}

    return kept(out / f"codes-{seed}.npz", make)["codes"]


def check_same(out: Path, logs: LogsConfig, config: EvidenceConfig) -> None:
    """Raises SetupError when a folder holds a study of another configuration: it would go on with
    the other's logs and rows. Seeds, arms and numbers of labelled logs may grow.
    """
    grows = {"seeds": (), "variants": (), "labelled": ()}
    told = repr((logs, replace(config, study=replace(config.study, **grows))))
    marker = out / "study.txt"
    if marker.is_file() and marker.read_text(encoding="utf-8") != told:
        raise SetupError(
            f"{out} holds a study of another configuration (study.txt); use a new folder"
        )
    out.mkdir(parents=True, exist_ok=True)
    marker.write_text(told, encoding="utf-8")


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


def report(stored: Path, out: Path, doc: Path | None = None) -> None:
    """Page, tables and the paragraph, from stored rows alone."""
    rows = pq.read_table(stored / "rows.parquet").to_pylist()
    quality = pq.read_table(stored / "teachers.parquet").to_pylist()
    write_page(out / "page.html", evidence_page(rows, quality))
    chain, figures = chain_text(rows), "\n".join(tables(rows, quality))
    whole = f"{wrapped(paragraph(rows, quality))}\n\n{figures}\n"
    (out / "tables.md").write_text(whole, encoding="utf-8")
    say(f"wrote {out / 'page.html'} and {out / 'tables.md'}")
    if doc is not None:
        doc.write_text(filled(doc.read_text(encoding="utf-8"), chain, figures), encoding="utf-8")
        say(f"figures of {doc} are those of {stored}")


def filled(page: str, chain: str, figures: str) -> str:
    """A page of text with its two generated parts replaced. Raises SetupError without the marks."""
    for mark, text in ((CHAIN, chain), (FIGURES, figures)):
        before, found, rest = page.partition(mark)
        _, closed, after = rest.partition(END)
        if not found or not closed:
            raise SetupError(f"the page has no lines {mark} … {END}; add them where figures belong")
        page = f"{before}{mark}\n\n{text}\n\n{END}{after}"
    return page


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, 99, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def chain_text(rows: list[dict]) -> str:
    """Positive controls that fail and the chains of every role, what does not hold first."""
    roles = sorted({row["role"] for row in rows} - {"val"})
    failed = [p for role in roles for p in positive_controls(rows, role) if not p[0]]
    found = sorted((p for role in roles for p in chains(rows, role)), key=lambda pair: pair[0])
    return "\n".join(wrapped(f"* {text}", indent="  ") for _, text in [*failed, *found])


def tables(rows: list[dict], quality: list[dict]) -> list[str]:
    """Every table of the study as lines of Markdown."""
    roles = sorted({row["role"] for row in rows} - {"val"})
    lines: list[str] = []
    for role in roles:
        lines += _comparisons(rows, role)
    for role in roles:
        lines += _arms(rows, role)
    for role in roles:
        lines += _situations(rows, role)
    return lines + _teachers(quality)


def _grid(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    body = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return [f"## {title}", "", body[0], "|" + "---|" * len(header), *body[1:], ""]


def _counted(rows: list[dict], role: str) -> str:
    """The role, its logs and scenes."""
    (first, *_) = table(rows, role)
    return f"{ROLES[role]} ({first['logs']} logs, {first['scenes']} scenes)"


def _comparisons(rows: list[dict], role: str) -> list[str]:
    found = [
        (
            str(d.labelled), f"{d.a} − {d.b}", str(d.interval),
            " ".join(f"{value:+.1f}" for value in d.by_seed), d.verdict,
        )
        for d in comparisons(rows, role)
    ]  # fmt: skip
    header = ("logs", "a − b", "points of PDMS [95 % by log]", "seeds", "")
    return _grid(_counted(rows, role).capitalize(), header, found)


def _arms(rows: list[dict], role: str) -> list[str]:
    found = [
        (
            row["variant"], str(row["labelled"]), str(row["seeds"]),
            f"{row['pdms']:.1f} [{row['pdms_low']:.1f}, {row['pdms_high']:.1f}]",
            f"{row['eyes_pdms']:.1f}", f"{row['epdms']:.1f}", f"{row['ade_m']:.2f}",
            f"{row['min_ade_m']:.2f}", f"{row['best_pdms']:.1f}",
        )
        for row in table(rows, role)
    ]  # fmt: skip
    header = (
        "arm", "logs", "seeds", "PDMS", "where eyes are needed", "EPDMS", "ADE m", "min over K m",
        "best of menu",
    )  # fmt: skip
    return _grid(f"Arms, {ROLES[role]}", header, found)


def _situations(rows: list[dict], role: str) -> list[str]:
    found = [
        (f"{row['variant']}, {row['labelled']}", *(f"{row[f'pdms_{s}']:.1f}" for s in SITUATIONS))
        for row in table(rows, role)
        if row["variant"] in SHOWN
    ]
    return _grid(f"PDMS by situation, {ROLES[role]}", ("arm, logs", *SITUATIONS), found)


def _teachers(quality: list[dict]) -> list[str]:
    names = ("loss", "blind_loss", "marginal_loss", "accuracy", "blind_accuracy")
    found = [
        (
            row["teacher"], str(row["seed"]),
            *(f"{row[name]:.3f}" for name in (*names, "marginal_accuracy")),
            f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]",
        )
        for row in sorted(quality, key=lambda row: (row["teacher"], row["seed"]))
    ]  # fmt: skip
    header = (
        "teacher", "seed", "loss", "blind", "marginal", "right", "blind", "marginal",
        "gain over blind",
    )  # fmt: skip
    return _grid("Teachers on val logs", header, found)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
