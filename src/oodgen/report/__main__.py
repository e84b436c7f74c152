r"""`python -m oodgen.report runs/`: tables of all finished runs, over seeds, with the papers' numbers, and the papers'
complete tables.

Markdown goes to the terminal; report.md, report.html, report.tex, results.csv (rows), summary.csv (means) and a figure
for each study to --out. The files contain no paths of the machine, so that they can be published.
"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from oodgen.errors import UserError
from oodgen.report import ablation, board, claims, cost, grouping, page, paper_numbers, paper_tables, render, tables
from oodgen.report.grouping import Experiment
from oodgen.report.publish import keep
from oodgen.report.summary import verdict
from oodgen.runs import escape, locations
from oodgen.runs.files import write_text
from oodgen.runs.invocation import program

__all__ = ["Section", "main", "write"]

SHEETS = (
    "Each printed table of which our runs answer a number, whole. Ours are means ± sd over so many seeds, trained for "
    "so many epochs, of the paper's number where it states one; AUROC and AUPRC over equal numbers in and out where "
    "measured, means over whole test sets. Quoted lines come last: the paper's authors copied them from elsewhere, and "
    "they were not run here."
)
CONTRADICTED = "What is printed for one method on one pair, and lies far apart:"


class Section(NamedTuple):
    """The section of one experiment, for Markdown, HTML and LaTeX.

    Arguments:
        key: The option that a study sweeps, or "".
        meta: Method, inlier set and seeds.
        warnings: Warnings of the runs' records.
        picture: The figure of a study.
    """

    name: str
    key: str
    meta: str
    extent: str
    links: list[tuple[str, str]]
    verdict: list[str]
    main: tables.Table
    warnings: list[str]
    picture: page.Picture | None


def write(root: Path, out: Path, papers: Sequence[Path]) -> str:
    """Write the report of all runs below `root` into `out`; return the Markdown text.

    Raises:
        UserError: there is no finished run, or a file is damaged.
    """
    runs, unfinished = grouping.find_runs(root)
    skipped = [_describe_unfinished(run, root) for run in unfinished]
    slugs = sorted({slug for run in runs if (slug := run.record.get("paper"))})
    known = {slug: path for slug in slugs if (path := paper_numbers.find_paper(slug)) is not None}
    given = {path.resolve(): path for path in (*known.values(), *papers)}
    printouts = [table for path in given.values() for table in paper_numbers.read_tables(path)]
    paper = [item for table in printouts for item in table.items]
    found = grouping.experiments(runs)
    cells = [(setting, cell) for group in found for setting, means in group.cells().items() for cell in means]
    rows = [pair for group in found for pair in group.rows]
    methods = {group.name: group.members[0][1].record["method"] for group in found}
    sections = [_section(group, root, out) for group in found]
    own = {slug: paper_numbers.read_scores(path) for slug, path in known.items()}
    # runs that reproduce no paper are compared by the scores of all
    own[""] = dict.fromkeys((s for path in paper_numbers.find_papers() for s in paper_numbers.read_scores(path)), "")
    elsewhere = paper_numbers.find_paper("beyond", "claims.yaml")
    claimed = claims.read_claims(elsewhere) if elsewhere else []
    costs = {
        (group.name, setting): cost.of_records(run.record for run in members)
        for group in found
        for setting, members in group.runs.items()
    }
    grids = board.boards([candidate for group in found for candidate in _candidates(group, own, costs)], claimed)
    contradicted = {inlier: claims.contradictions(c for c in claimed if c.inlier == inlier) for inlier in grids}
    # diverged runs have no section, but a line in the papers' tables
    diverged = [run.as_run() for run in unfinished if run.state == "diverged"]
    ours = paper_tables.our_results(grouping.experiments([*runs, *diverged]))
    sheets = [sheet for printout in printouts if (sheet := paper_tables.comparison(printout, ours)) is not None]
    text, latex = ["# Results", ""], []
    if grids:
        text += ["## Side by side", "", board.ABOUT, ""]
    for inlier, table in grids.items():
        text += [f"### Trained on {escape.markdown(inlier)}", "", render.markdown(table)]
        if contradicted[inlier]:
            text += [CONTRADICTED, "", *(f"- {escape.markdown(line)}" for line in contradicted[inlier]), ""]
        latex += [f"% side by side, trained on {escape.terminal(inlier)}", render.latex(table)]
    for section in sections:
        text += _markdown(section)
        latex += [f"% {escape.terminal(f'{section.name}: AUROC, {section.meta}')}", render.latex(section.main)]
    if sheets:
        text += ["## Tables of the papers", "", SHEETS, ""]
    for sheet in sheets:
        before = escape.markdown(f"{sheet.caption}. {sheet.before}".strip())
        text += [f"### {escape.markdown(sheet.name)}", "", before, "", render.markdown(sheet.table)]
        text += [*(f"- {escape.markdown(line)}" for line in sheet.after), *([""] if sheet.after else [])]
        latex += [f"% {escape.terminal(f'{sheet.name}: {sheet.caption}')}", render.latex(sheet.table)]
    if skipped:
        lines = [f"- {escape.markdown(line)}" for line in skipped]
        text += [f"## Not in the tables: {escape.markdown(grouping.count_states(unfinished))}", "", *lines, ""]
    text.append(
        "*Italic*: oracle lines were chosen with OOD data in hand; "
        "controls are one statistic of the image, no model, max(a, 1 - a)."
    )
    counts = grouping.count_states(unfinished)
    html = page.render(
        "report.html",
        title="Results",
        grids=grids,
        side=board.ABOUT,
        contradicted=contradicted,
        contradicting=CONTRADICTED,
        sections=sections,
        about=SHEETS,
        sheets=sheets,
        skipped=skipped,
        counts=counts,
        runs=len(runs),
    )
    markdown = "\n".join(text) + "\n"
    write_text(out / "results.csv", render.as_csv(rows, paper, methods))
    write_text(out / "summary.csv", render.as_csv(cells, paper, methods, costs))
    write_text(out / "report.tex", "\n".join(latex))
    write_text(out / "report.md", markdown)
    write_text(out / "report.html", html)
    return markdown


def _section(group: Experiment, root: Path, out: Path) -> Section:
    by_setting = group.cells()
    cells = [cell for means in by_setting.values() for cell in means]
    method, inlier = group.members[0][1].record["method"], cells[0].inlier if cells else ""
    seeds = sorted({run.record["seed"] for _, run in group.members})
    words = f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"
    meta = f"{method}, trained on {inlier}, {words}" + (f", over {group.key}" if group.key else "")
    extents = dict.fromkeys(grouping.describe_test_sets(run.config, cells) for _, run in group.members)
    common = (group.name, group.key, meta, " or ".join(extents), _links(group, root, out))
    warned = [
        f"{group.key}={setting}: {sentence}" if group.key else sentence
        for setting, runs in group.runs.items()
        for sentence in grouping.warnings(runs)
    ]
    if group.key:
        main, moved = ablation.table(by_setting, group.key), ablation.describe_change(by_setting, group.key)
        return Section(*common, moved, main, warned, _figure(group, by_setting, out))
    main = tables.pivot([cell for cell in cells if cell.out != cell.inlier])
    against = grouping.trained_against(group.members[0][1].config)
    return Section(*common, verdict(cells, against), main, warned, None)


def _candidates(
    group: Experiment, own: Mapping[str, Mapping[str, str]], costs: Mapping[tuple[str, str], cost.Cost]
) -> list[board.Candidate]:
    """What the boards compare: the experiment, or each value of a study; `own`: paper -> its scores."""
    return [
        board.Candidate(
            f"{group.name}, {group.key}={setting}" if group.key else group.name,
            cells,
            grouping.trained_against(group.runs[setting][0].config),
            own.get(group.runs[setting][0].record.get("paper") or "", {}),
            costs[group.name, setting],
        )
        for setting, cells in group.cells().items()
    ]


def _figure(group: Experiment, cells: ablation.Cells, out: Path) -> page.Picture | None:
    """The figure of a study; None if the option's values are not numbers."""
    curves = ablation.curves(cells)
    if not curves:
        return None
    from oodgen.plots import comparisons

    values = {x for lines in curves.values() for points in lines.values() for x, *_ in points}
    drawn = comparisons.auroc_over_option(curves, group.key, ablation.is_geometric(sorted(values)))
    name = re.sub(r"[^a-zA-Z0-9.-]+", "_", group.name).strip("_.")
    return page.embed_figure(drawn, out / f"{name}.svg", f"AUROC over {group.key}")


def _links(group: Experiment, root: Path, out: Path) -> list[tuple[str, str]]:
    """Text and relative paths of the runs' pages; none if `out` is elsewhere, since paths would be absolute."""
    if not out.resolve().is_relative_to(root.resolve().parent):
        return []
    links = []
    for setting, run in sorted(group.members, key=lambda pair: (tables.natural_order(pair[0]), pair[1].record["seed"])):
        path = run.folder / "report.html"
        if path.is_file():
            words = f"{setting}, seed {run.record['seed']}" if setting else f"seed {run.record['seed']}"
            links.append((words, quote(os.fsencode(os.path.relpath(path.resolve(), out.resolve())))))
    return links


def _markdown(section: Section) -> list[str]:
    summary = escape.markdown(f"{section.meta}. {' '.join(section.verdict)}")
    text = [f"## {escape.markdown(section.name)}", "", summary, ""]
    text += [*(f"- {escape.markdown(line)}" for line in section.warnings), *([""] if section.warnings else [])]
    text += [f"AUROC, {escape.markdown(section.extent)}:", "", render.markdown(section.main)]
    if section.picture is not None:
        text += [f"![{escape.markdown(section.picture.words)}]({section.picture.name}.svg)", ""]
    return [*text, "Other scores and the controls are in summary.csv.", ""] if section.key else text


def _describe_unfinished(run: grouping.Unfinished, root: Path) -> str:
    """A line for an unfinished run, without paths of the machine."""
    line = f"{run.folder.relative_to(root)} is {run.state}" + (f": {run.why}" if run.why else "")
    return str(locations.without_directories(line))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=program(), description="Tables of all finished runs, over seeds, beside the papers' numbers."
    )
    parser.add_argument("runs", type=Path, help="the folder that runs were written to")
    parser.add_argument(
        "--paper",
        type=Path,
        action="append",
        default=[],
        help="a paper.yaml to compare with; may be repeated (the runs' own papers are found by themselves)",
    )
    parser.add_argument("--out", type=Path, help="where the report goes (default: RUNS/report)")
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="FOLDER",
        help="copy what a report needs of each run there, without the machine's paths: it can be published, and "
        "reported again together with later runs",
    )
    options = parser.parse_args(arguments)
    out = options.out or options.runs / "report"
    try:
        if options.out is None and out.is_symlink():
            raise UserError(f"{out} is a link; give the folder of the report with --out FOLDER")
        print(write(options.runs, out, options.paper))
        if options.keep is not None:
            runs, unfinished = grouping.find_runs(options.runs)
            ended = [run.folder for run in runs] + [run.folder for run in unfinished if run.state == "diverged"]
            print(f"kept {keep(ended, options.keep)} runs", file=sys.stderr)
    except UserError as error:
        print(f"oodgen: {escape.terminal(error)}", file=sys.stderr)
        return 2
    print(f"page: {escape.terminal(out / 'report.html')}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
