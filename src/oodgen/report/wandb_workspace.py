"""`oodgen workspace --project oodgen`: the W&B workspace of a project, built from code."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from oodgen.errors import UserError
from oodgen.runs import results
from oodgen.runs.escape import terminal
from oodgen.runs.files import write_text
from oodgen.runs.labels import default_score

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace

__all__ = ["Shown", "found", "main", "workspace"]

STEP = "trainer/global_step"
SHOWN = ("evidence", "l>0", "llr>1", "llr>2", "llr_ada", "llr_rule")  # if there is no run


class Shown(NamedTuple):
    """The scores and sets that have panels."""

    scores: tuple[str, ...] = SHOWN
    sets: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()


def found(runs: Path) -> Shown:
    """The scores and data sets of the evaluations in a folder of runs.

    Raises:
        UserError: a results.csv is damaged.
    """
    paths = sorted(runs.glob("eval/*/*/results.csv")) if runs.is_dir() else []
    rows = [row for path in paths for row in results.read(path) if row.metric == "auroc" and row.protocol != "oracle"]
    if not rows:
        return Shown()
    scores = (row.score for row in rows if not row.score.startswith("control:"))
    outs = tuple(dict.fromkeys(row.out for row in rows))
    return Shown(tuple(dict.fromkeys(scores)), tuple(dict.fromkeys([*(row.inlier for row in rows), *outs])), outs)


def workspace(project: str, entity: str = "", shown: Shown | None = None) -> "Workspace":
    """Panels for results by experiment and seed, curves, score histograms, ROC and reconstructions.

    Arguments:
        project, entity: Project and user or team of the runs.
        shown: The scores and sets of the panels.
    """
    import wandb_workspaces.expr as expr
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    shown = shown or Shown()

    def chart(kind: str, score: str, columns: tuple[str, str, str], title: str) -> wr.CustomChart:
        stroke, x, y = columns
        return wr.CustomChart(
            query={"summaryTable": {"tableKey": f"Custom Chart Tables/{kind}/{score}_table"}},
            chart_name="wandb/line/v0",
            chart_fields={"x": x, "y": y, "stroke": stroke},
            chart_strings={"title": title},
        )

    def bars(out: str, by: str | None) -> wr.BarPlot:
        return wr.BarPlot(
            title=f"AUROC on {out}, " + ("mean and deviation over seeds" if by else "every seed"),
            metrics=[wr.SummaryMetric(f"auroc/{out}/{score}") for score in shown.scores],
            range_x=(0, 1),
            groupby=by,
            groupby_aggfunc="mean" if by else None,
            groupby_rangefunc="stddev" if by else None,
        )

    rates = ("out", "false positive rate", "true positive rate")
    pictures = [
        wr.MediaBrowser(title=f"reconstructions of {name}", media_keys=[f"reconstructions/{name}"], num_columns=2)
        for name in shown.sets
    ]
    figures = [wr.MediaBrowser(title=name, media_keys=[f"figures/{name}"]) for name in ("densities", "roc", "curves")]
    sections: dict[str, list[Any]] = {
        "Results": [
            wr.WeavePanelSummaryTable(table_name="results"),
            *(bars(out, "Group") for out in shown.outs),
            *(bars(out, None) for out in shown.outs),
        ],
        "Training": [
            wr.LinePlot(title="bound (nats)", x=STEP, y=["train/bound", "val/bound"], ignore_outliers=True),
            wr.LinePlot(title="log p(y|x) (nats)", x=STEP, y=["train/log_py", "val/log_py"], ignore_outliers=True),
            wr.LinePlot(title="log p(x|z) (nats)", x=STEP, y=["train/log_px", "val/log_px"], ignore_outliers=True),
            wr.LinePlot(title="KL of each level (nats)", x=STEP, metric_regex=r"train/kl_\d+", log_y=True),
            wr.LinePlot(title="KL of each level, validation (nats)", x=STEP, metric_regex=r"val/kl_\d+", log_y=True),
            wr.LinePlot(title="warm-up (beta)", x=STEP, y=["beta"]),
        ],
        "Score histograms": [chart("histograms", s, ("set", s, "fraction"), s) for s in shown.scores],
        "ROC": [chart("roc", s, rates, f"ROC of {s}") for s in shown.scores],
        "Reconstructions": pictures,
        "Figures and page": [*figures, wr.MediaBrowser(title="report", media_keys=["report"])],
        "Differences of the runs": [wr.RunComparer(diff_only="split")],
    }
    pinned = [
        f"summary:auroc/{out}/{score}"
        for out in shown.outs
        for score in dict.fromkeys(("l>0", default_score(shown.scores)))
        if score in shown.scores
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="oodgen",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items() if panels],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=50),
        runset_settings=ws.RunsetSettings(
            order=[expr.Ordering(expr.Metric("Group"), True), expr.Ordering(expr.Config("seed"), True)],
            pinned_columns=["run:displayName", "config:seed", *pinned],
        ),
    )


def _upload(project: str, entity: str, shown: Shown) -> str | None:
    """Save the workspace on W&B and return its address; None without a key."""
    import wandb

    try:
        wandb.setup(wandb.Settings(silent=True))
        if not wandb.login(prompt=False):
            return None
        built = workspace(project, entity or wandb.Api().default_entity or "", shown)
        return str(built.save().url)
    except Exception as error:  # errors of several libraries, all of which mean that it was not saved
        raise UserError(f"W&B did not take the workspace ({str(error).splitlines()[0]})") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Save the workspace on W&B, or to a file if that is not possible; return the exit code."""
    parser = argparse.ArgumentParser(prog="oodgen workspace", description=__doc__)
    parser.add_argument("--project", default="oodgen", help="W&B project of the runs (default: oodgen)")
    parser.add_argument("--entity", default="", help="W&B user or team (default: the key's own)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="folder whose scores and sets get panels (runs)"
    )
    parser.add_argument("--out", type=Path, help="write it here as JSON too (without a key: workspace.json)")
    given = parser.parse_args(arguments)
    try:
        import wandb_workspaces  # noqa: F401
    except ImportError:
        print("oodgen: the dashboard needs an extra: pip install 'oodgen[dashboard]'", file=sys.stderr)
        return 2
    code, why = 0, "W&B has no key"
    try:
        shown = found(given.runs)
        try:
            url = _upload(given.project, given.entity, shown)
        except UserError as error:
            url, code, why = None, 2, str(error)
        if given.out or not url:
            path = given.out or Path("workspace.json")
            view = workspace(given.project, given.entity, shown)._to_model()
            write_text(path, view.model_dump_json(by_alias=True, exclude_none=True))
            print(f"wrote {path}")
    except UserError as error:
        print(f"oodgen: {terminal(error)}", file=sys.stderr)
        return 2
    again = f"oodgen workspace --project {given.project}" + (f" --entity {given.entity}" if given.entity else "")
    print(url or f"{why}: to upload the workspace, `wandb login` and {again}", file=sys.stderr if code else sys.stdout)
    return code
