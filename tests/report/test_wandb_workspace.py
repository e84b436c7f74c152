"""The workspace that is built from code, as far as it can be checked without a server."""

import json
import sys

import numpy as np
import pytest

from oodgen.report import wandb_run, wandb_workspace

HEAD = "experiment,fingerprint,seed,inlier,out,score,metric,value,low,high,protocol,n_in,n_out\n"


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs" / "eval" / "mine" / "0123456789ab"
    folder.mkdir(parents=True)
    lines = [
        f"mine,f,0,photos,{out},{score},auroc,0.5,0.4,0.6,{protocol},9,9\n"
        for out in ("digits", "svhn")
        for score, protocol in (("l>0", "full"), ("odd", "full"), ("control:mean", "full"), ("llr>k", "oracle"))
    ]
    (folder / "results.csv").write_text(HEAD + "".join(lines))
    return tmp_path / "runs"


@pytest.fixture
def no_key(monkeypatch):
    import wandb

    monkeypatch.setattr(wandb, "login", lambda **_: False)


def sections(path):
    pytest.importorskip("wandb_workspaces")
    view = json.loads(path.read_text())
    return {s["name"]: s["panels"] for s in view["spec"]["section"]["panelBankConfig"]["sections"]}, view


def test_without_a_key_the_workspace_is_written_and_one_line_says_what_next(runs, tmp_path, no_key, capsys):
    pytest.importorskip("wandb_workspaces")
    path = tmp_path / "w.json"
    assert wandb_workspace.main(["--project", "p", "--entity", "e", "--runs", str(runs), "--out", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"wrote {path}",
        "W&B has no key: to upload the workspace, `wandb login` and oodgen workspace --project p --entity e",
    ]
    panels, view = sections(path)
    assert (view["entity"], view["project"]) == ("e", "p")
    assert {"Results", "Training", "Score histograms", "ROC", "Reconstructions"} <= set(panels)
    bars = [panel["config"] for panel in panels["Results"] if panel["viewType"] == "Bar Chart"]
    assert {metric for bar in bars for metric in bar["metrics"]} == {
        f"summary_metrics.auroc/{out}/{score}" for out in ("digits", "svhn") for score in ("l>0", "odd")
    }
    assert {bar.get("groupBy") for bar in bars} == {"group", None}
    sort = view["spec"]["section"]["runSets"][0]["sort"]["keys"]
    assert [key["key"]["name"] for key in sort] == ["group", "seed"]
    media = {key for panel in panels["Reconstructions"] for key in panel["config"]["mediaKeys"]}
    assert media == {f"reconstructions/{name}" for name in ("photos", "digits", "svhn")}


def test_the_charts_ask_for_what_a_run_logs(tmp_path, runs, no_key):
    pytest.importorskip("wandb_workspaces")
    path = tmp_path / "w.json"
    wandb_workspace.main(["--runs", str(runs), "--out", str(path)])
    panels, _ = sections(path)
    sets = {"photos": np.arange(9.0), "digits": np.arange(9.0) + 3}
    for section, key, logged in (
        ("ROC", "roc/odd", wandb_run._roc("odd", sets, "photos")),
        ("Score histograms", "histograms/odd", wandb_run._histograms("odd", sets, "photos")),
    ):
        logged.set_key(key)
        config = next(p["config"] for p in panels[section] if p["config"]["stringSettings"]["title"].endswith("odd"))
        assert config["panelDefId"] == logged.spec.spec_name
        assert config["fieldSettings"] == logged.spec.fields
        assert set(logged.spec.fields.values()) == set(logged.table.columns)
        fields = config["userQuery"]["queryFields"][0]["fields"]
        asked = next(field["args"][0]["value"] for field in fields if field["name"] == "summaryTable")
        assert asked == logged.spec.table_key


def test_without_runs_it_shows_the_usual_scores(tmp_path):
    shown = wandb_workspace.found(tmp_path / "nothing")
    assert shown == wandb_workspace.Shown() and "llr_ada" in shown.scores
    assert not shown.outs


def test_a_refusal_leaves_the_file_and_exit_code_2(runs, tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb_workspaces")
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no network\nat all")

    monkeypatch.setattr(wandb, "login", refuse)
    monkeypatch.chdir(tmp_path)
    assert wandb_workspace.main(["--runs", str(runs)]) == 2
    assert (tmp_path / "workspace.json").is_file()
    (line,) = capsys.readouterr().err.splitlines()
    assert "(no network)" in line and "wandb login" in line


def test_without_the_extra_it_names_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert wandb_workspace.main([]) == 2
    assert capsys.readouterr().err == "oodgen: the dashboard needs an extra: pip install 'oodgen[dashboard]'\n"


def test_damaged_results_are_one_line(runs, no_key, capsys):
    pytest.importorskip("wandb_workspaces")
    next(runs.glob("eval/*/*/results.csv")).write_text("experiment\nx\n")
    assert wandb_workspace.main(["--runs", str(runs)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
