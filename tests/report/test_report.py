"""The report over runs: grouping, skipping, joining, and one line for each mistake."""

import csv
import json
import re
import subprocess
import sys

import pytest

from oodgen.report import __main__ as report
from oodgen.report import paper_numbers
from oodgen.runs import results

ABOUT = {"paper": "negative_sampling", "method": "vae likelihood=bernoulli"}


def make(
    root,
    experiment="e",
    name="aaaaaa",
    seed=0,
    state="done",
    auroc=0.5,
    config="",
    why=None,
    paper=None,
    method="hvae",
    **said,
):
    folder = root / "eval" / experiment / name
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"state": state, "why": why}))
    (folder / "config.yaml").write_text(f"seed: {seed}\ndata: {{seed: {seed}, root: {root}}}\n{config}")
    if state == "done":
        record = {"experiment": experiment, "fingerprint": name, "seed": seed, "method": method, "paper": paper} | said
        (folder / "record.json").write_text(json.dumps(record))
        lines = [",".join(results.Row._fields)]
        lines += [
            f"{experiment},{name},{seed},fashion_mnist,mnist,{s},auroc,{v},,,full,9,9"
            for s, v in (("l>0", 0.1), ("llr>1", auroc))
        ]
        (folder / "results.csv").write_text("\n".join(lines) + "\n")
    return folder


def grid(text):
    """The cells of the Markdown tables in a text, without the rules below their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|:")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def sections(text):
    """A report below its boards."""
    return text[text.index("\n## ", text.index("## Side by side")) :]


def test_seeds_become_mean_and_deviation(tmp_path, capsys):
    for seed, value in enumerate((0.8, 0.9)):
        make(tmp_path, name=f"aaaaa{seed}", seed=seed, auroc=value)
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0.850 ± 0.071" in out and "seeds 0, 1" in out
    assert (tmp_path / "report" / "report.md").read_text() == out.removesuffix("\n")
    with (tmp_path / "report" / "results.csv").open() as file:
        assert [float(r["value"]) for r in csv.DictReader(file) if r["score"] == "llr>1"] == [0.8, 0.9]
    with (tmp_path / "report" / "summary.csv").open() as file:
        (line,) = [r for r in csv.DictReader(file) if r["score"] == "llr>1"]
    assert float(line["value"]) == pytest.approx(0.85) and line["seeds"] == "0 1"


def test_warnings_stand_in_the_section_with_their_seed_and_in_a_study_with_the_value(tmp_path, capsys):
    make(tmp_path, seed=0, warnings=["both", "one"])
    make(tmp_path, name="bbbbbb", seed=1, warnings=["both"])
    for samples in (1, 2):
        make(
            tmp_path, "study", f"{samples}" * 6, config=bounds(samples), warnings=["far <off>"] if samples == 2 else []
        )
    report.main([str(tmp_path)])
    lines = [line for line in sections(capsys.readouterr().out).splitlines() if line.startswith("- ")]
    assert lines == ["- both", "- seed 0: one", r"- probes.bounds.samples=2: far &lt;off>"]
    html = (tmp_path / "report" / "report.html").read_text()
    assert 'class="warn">seed 0: one<' in html and "samples=2: far &lt;off&gt;" in html


def test_hostile_names_are_text_in_every_form(tmp_path, capsys):
    name = "<script>alert(1)</script>|$x$\x1b[2J"
    folder = make(tmp_path, name, warnings=["one\n# two `x` [a](b)"], method="=cmd()")
    lines = (folder / "results.csv").read_text().replace("fashion_mnist,mnist", '"{in}","=HYPERLINK(1)"')
    (folder / "results.csv").write_text(lines.replace("l>0", "<b>|"))
    assert report.main([str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "report" / "report.md").read_text() == text.removesuffix("\n")
    assert "\x1b" not in text and r"## &lt;script>alert(1)&lt;/script>\|\$x\$\\x1b[2J" in text
    assert r"- one\\n# two \`x\` [a\](b)" in text and "<" not in text
    assert ["score", "=HYPERLINK(1)"] in grid(text) and r"&lt;b>\|" in text
    latex = (tmp_path / "report" / "report.tex").read_text()
    assert r"$<$b$>$|" in latex and "\x1b" not in latex
    assert all(line.startswith(("%", "\\", "method", "score", "llr", "$<$")) for line in latex.splitlines() if line)
    html = (tmp_path / "report" / "report.html").read_text()
    assert "<script>" not in html and "&lt;script&gt;alert(1)" in html
    for file in ("results.csv", "summary.csv"):
        with (tmp_path / "report" / file).open(newline="") as opened:
            assert {row["out"] for row in csv.DictReader(opened)} == {"'=HYPERLINK(1)"}


def test_no_control_character_reaches_a_file_or_the_terminal_and_no_name_a_link(tmp_path, capfd):
    for samples in (1, 2):  # a study, which has a figure
        make(tmp_path, "$\\frac$\u202e", f"{samples}" * 6, config=bounds(samples))
    folder = make(tmp_path, "javascript:alert(1)", warnings=["\x9b\u2066"], overrides=["a=\x1b\u202e"])
    for path in tmp_path.rglob("results.csv"):
        path.write_text(path.read_text().replace(",mnist", ",$\\frac$\x1b").replace("llr>1", "llr\u202e"))
    (folder / "report.html").touch()
    home = tmp_path / "eval"
    assert report.main([str(home), "--out", str(home)]) == 0
    written = {path.name: path.read_text() for path in home.iterdir() if path.is_file()}
    assert len(written) == 6, "with the figure"
    for name, text in (written | dict(zip(("out", "err"), capfd.readouterr(), strict=True))).items():
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2066]", text), name
    assert 'href="javascript%3Aalert%281%29/' in written["report.html"]


def test_printed_numbers_stand_in_the_papers_tables_alone(tmp_path, capsys):
    make(tmp_path, paper="hierarchical_llr")
    report.main([str(tmp_path)])
    for text in (capsys.readouterr().out, (tmp_path / "report" / "report.html").read_text()):
        assert -1 < text.index("Tables of the papers") < text.index("S=250")


def test_kept_runs_are_reported_as_the_runs_themselves(tmp_path, capsys):
    runs, kept = tmp_path / "machine" / "runs", tmp_path / "kept"
    for seed, value in enumerate((0.8, 0.9)):
        make(runs, name=f"aaaaa{seed}", seed=seed, auroc=value, train_dir=f"{runs}/train/x", paper=ABOUT["paper"])
    make(runs, name="cccccc", seed=2, state="diverged", why=f"NaN at step 3 (found in {runs}/train/y)")
    make(runs, name="dddddd", seed=3, state="running")
    assert report.main([str(runs), "--out", str(tmp_path / "a"), "--keep", str(kept)]) == 0
    first = capsys.readouterr()
    assert "kept 3 runs" in first.err
    assert "machine" not in "".join(path.read_text() for path in kept.rglob("*") if path.is_file())
    make(tmp_path / "later", name="eeeeee", seed=4, auroc=1.0)
    assert report.main([str(kept), "--out", str(tmp_path / "b")]) == 0
    again = capsys.readouterr().out
    assert [line for line in first.out.splitlines() if "running" not in line and "|" in line] == [
        line for line in again.splitlines() if "|" in line
    ]
    assert report.main([str(tmp_path / "later"), "--out", str(tmp_path / "c"), "--keep", str(kept)]) == 0
    assert report.main([str(kept), "--out", str(tmp_path / "d")]) == 0
    assert "0.900 ± 0.100" in capsys.readouterr().out
    assert report.main([str(kept), "--out", str(tmp_path / "e"), "--keep", str(kept)]) == 2
    assert "where the runs lie already" in capsys.readouterr().err


def test_unfinished_runs_are_counted_named_and_left_out(tmp_path, capsys):
    make(tmp_path, auroc=0.9)
    make(tmp_path, name="bbbbbb", seed=1, state="diverged", why="nan at step 12")
    make(tmp_path, name="cccccc", seed=2, state="running")
    assert report.main([str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Not in the tables: 1 diverged, 1 running" in out and "bbbbbb is diverged: nan at step 12" in out
    assert "0.900" in out and "±" not in out
    assert "cccccc is running" in (tmp_path / "report" / "report.html").read_text()


def test_the_tables_of_a_paper_stand_whole_below_the_experiments(tmp_path, capsys):
    make(tmp_path, **ABOUT)
    report.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert out.index("## e") < out.index("## Tables of the papers") < out.index("### negative_sampling, table1")
    assert [line for line in sections(out).splitlines() if line.startswith("### ")] == [
        f"### negative_sampling, table{i}" for i in (1, 3, 5)
    ], "tables without an answer are left out"
    assert "not run" in out and "printed as bits/dim" in out and "1e+18 ± 1e+19" in out
    html, latex = ((tmp_path / "report" / f"report.{kind}").read_text() for kind in ("html", "tex"))
    assert "Tables of the papers" in html and html.count('<table class="dense">') == 1 + 3
    assert html.index("1e+18") and latex.count(r"\begin{tabular}") == 2 + 3
    other = tmp_path / "other"
    make(other, paper="negative_sampling")
    report.main([str(other)])
    assert "Tables of the papers" not in capsys.readouterr().out


def test_a_diverged_seed_is_explained_once_and_counted_in_the_papers_table(tmp_path, capsys):
    named = "data: {inlier: {_target_: oodgen.data.mnist.fashion_mnist}}\nname: e\npaper: negative_sampling\n"
    named += "paper_method: vae likelihood=bernoulli"
    for seed in (0, 1, 2):
        ended = {"state": "diverged", "why": "the bound is not finite at step 12"} if seed == 2 else {}
        folder = make(tmp_path, name=f"aaaaa{seed}", seed=seed, auroc=0.9, **ABOUT, **ended)
        (folder / "config.yaml").write_text(f"seed: {seed}\n{named}\n")
    report.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "Not in the tables: 1 diverged" in out and out.count("the bound is not finite at step 12") == 1
    (line,) = [line for line in grid(out[out.index("### negative_sampling, table1") :])[:2] if "mnist" in line]
    assert "2 (1 of 3 diverged)" in line and "0.100 ± 0.000" in line
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count("the bound is not finite at step 12") == 1 and "2 (1 of 3 diverged)" in html


def test_changed_options_are_never_averaged_with_the_experiment(tmp_path, capsys):
    make(tmp_path, name="aaaaaa", seed=0, auroc=0.8, config="model: {width: 16}")
    make(tmp_path, name="bbbbbb", seed=1, auroc=0.9, config="model: {width: 32}")
    report.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "±" not in out
    assert [line[-4:] for line in grid(sections(out))] == [
        ["model.width", "seeds", "l>0", "llr>1"],
        *(["16", "0", "0.100", "0.800"], ["32", "1", "0.100", "0.900"]),
    ]


def bounds(samples):
    return f"probes: {{bounds: {{samples: {samples}, samples_k: {samples}}}, mode: {{samples: {samples}}}}}"


def test_a_sweep_over_one_option_is_one_table_and_one_figure(tmp_path, capsys):
    for samples, value in ((16, 0.9), (4, 0.8), (1, 0.7)):
        for seed in (0, 1):
            make(tmp_path, name=f"{samples:05d}{seed}", seed=seed, auroc=value + 0.02 * seed, config=bounds(samples))
    report.main([str(tmp_path)])
    out = sections(capsys.readouterr().out)
    assert out.count("\n## ") == 1 and "seeds 0, 1, over probes.bounds.samples" in out
    head, *lines = grid(out)
    assert head == ["probes.bounds.samples", "l>0", "llr>1"]
    assert [line[-1] for line in lines] == ["0.710 ± 0.014", "0.810 ± 0.014", "0.910 ± 0.014"]
    assert "![AUROC over probes.bounds.samples](e.svg)" in out
    assert (tmp_path / "report" / "e.svg").stat().st_size > 1000
    assert "data:image/svg+xml;base64," in (tmp_path / "report" / "report.html").read_text()
    with (tmp_path / "report" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 and {row["experiment"] for row in rows} == {"e"}
    assert {row["setting"] for row in rows} == {"1", "4", "16"}
    with (tmp_path / "report" / "summary.csv").open() as file:
        found = {(r["setting"], r["score"]): float(r["value"]) for r in csv.DictReader(file)}
    assert len(found) == 6 and found["16", "llr>1"] == pytest.approx(0.91)


def test_limited_sets_are_not_called_whole(tmp_path, capsys):
    folder = make(tmp_path)
    report.main([str(tmp_path)])
    assert "AUROC, whole test sets:" in capsys.readouterr().out
    (folder / "config.yaml").write_text("data: {limit: 1000}")
    report.main([str(tmp_path)])
    assert "AUROC, test sets, at most 1000 of each:" in capsys.readouterr().out


def test_a_sweep_over_words_has_a_table_and_no_figure(tmp_path, capsys):
    for name in ("last", "best"):
        make(tmp_path, name=name * 2, config=f"checkpoint: {name}")
    report.main([str(tmp_path)])
    out = sections(capsys.readouterr().out)
    assert [line[0] for line in grid(out)] == ["checkpoint", "best", "last"] and "![" not in out
    assert not list((tmp_path / "report").glob("*.svg"))


def test_titles_name_each_changed_option_once(tmp_path, capsys):
    for i, (width, rate) in enumerate(((16, 0.1), (16, 0.2), (32, 0.2))):
        model = f"{{width: {width}}}"
        make(tmp_path, name=f"aaaaa{i}", config=f"model: {model}\nmethod: {{model: {model}, lr: {rate}}}")
    report.main([str(tmp_path)])
    titles = [line for line in capsys.readouterr().out.splitlines() if line.startswith("## ")]
    assert titles[0] == "## Side by side"
    assert titles[1:] == [f"## e (method.lr={rate}, model.width={w})" for w, rate in ((16, 0.1), (16, 0.2), (32, 0.2))]


def test_no_folder_of_the_machine_gets_into_the_report(tmp_path):
    root, out = tmp_path / "machine" / "runs", tmp_path / "elsewhere" / "report"
    (make(root, paper="hierarchical_llr") / "report.html").write_text("")
    make(root, name="bbbbbb", seed=1, state="failed", why=f"cannot write {root}/train/x.ckpt: no space")
    for samples in (1, 2):
        make(root, "sweep", f"{samples}" * 6, config=bounds(samples))
    report.main([str(root), "--out", str(out)])
    files = list(out.iterdir())
    assert len(files) == 6
    for path in files:
        text = path.read_text()
        assert str(tmp_path) not in text and "machine" not in text and 'href="../' not in text, path
    assert "cannot write x.ckpt: no space" in (out / "report.md").read_text()


def test_what_does_not_follow_the_seed_is_an_option_and_so_are_callbacks(tmp_path, capsys):
    make(tmp_path, name="aaaaaa", seed=0, config="method: {seed: 0}\ncallbacks: {}\nlogger: {}")
    make(tmp_path, name="bbbbbb", seed=1, config="method: {seed: 1}\ncallbacks: {}\nlogger: {wandb: {name: b}}")
    report.main([str(tmp_path)])
    out = sections(capsys.readouterr().out)
    assert "seeds 0, 1" in out and out.count("\n## ") == 1
    make(tmp_path, name="cccccc", seed=2, config="method: {seed: 7}\ncallbacks: {ema: {decay: 0.9}}\nlogger: {}")
    report.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "callbacks.ema.decay=0.9" in out and "method.seed=7" in out and "±" not in out


def test_trainings_are_no_runs_and_smoke_runs_are_called_so(tmp_path, capsys):
    make(tmp_path / "smoke", config="smoke: true")
    training = tmp_path / "smoke" / "train" / "ffffff"
    training.mkdir(parents=True)
    (training / "state.json").write_text('{"state": "done", "why": null}')
    (training / "config.yaml").write_text("seed: 0\n")
    assert report.main([str(tmp_path)]) == 0
    assert "## e (smoke: random images)" in capsys.readouterr().out


def test_the_same_seed_twice_is_two_tables_named_by_their_folders(tmp_path, capsys):
    make(tmp_path, name="aaaaaa", auroc=0.8)
    make(tmp_path, name="bbbbbb", auroc=0.9)
    report.main([str(tmp_path)])
    out = capsys.readouterr().out
    assert "## e (aaaaaa)" in out and "## e (bbbbbb)" in out


def test_paper_of_the_record_or_of_the_command_line(tmp_path, capsys):
    make(tmp_path, paper="hierarchical_llr")
    report.main([str(tmp_path)])
    assert "0.964 (S=1); 0.984 (S=250)" in capsys.readouterr().out
    other = tmp_path / "other"
    make(other)
    report.main([str(other)])
    assert "S=250" not in capsys.readouterr().out
    report.main(
        [str(other), "--paper", str(paper_numbers.find_paper("hierarchical_llr")), "--out", str(tmp_path / "out")]
    )
    assert "0.964 (S=1); 0.984 (S=250)" in capsys.readouterr().out
    assert "0.984" in (tmp_path / "out" / "report.html").read_text()


def test_the_index_links_to_the_pages_that_exist(tmp_path):
    (make(tmp_path) / "report.html").write_text("")
    make(tmp_path, name="bbbbbb", seed=1)
    report.main([str(tmp_path)])
    html = (tmp_path / "report" / "report.html").read_text()
    assert html.count('href="../eval/') == 1 and 'href="../eval/e/aaaaaa/report.html"' in html


def broken_results(root):
    (make(root) / "results.csv").write_text("experiment\n")


def broken_record(root):
    (make(root) / "record.json").write_text("{}")


def broken_state(root):
    (make(root) / "state.json").write_text("{")


@pytest.mark.parametrize(
    ("prepare", "word"),
    [
        (lambda root: root.rmdir(), "no folder"),
        (lambda root: None, "no finished run"),
        (lambda root: make(root, state="failed"), "1 failed"),
        (broken_results, "results.csv"),
        (broken_record, "record.json"),
        (broken_state, "state.json"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, prepare, word):
    root = tmp_path / "runs"
    root.mkdir()
    prepare(root)
    assert report.main([str(root)]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
    assert not (root / "report").exists()


def test_the_report_needs_neither_torch_nor_matplotlib():
    code = "import sys, oodgen.report; print({'torch', 'matplotlib', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("seed", "x", "has no valid seed"),
        ("seed", {}, "has no valid seed"),
        ("method", None, "has no valid method"),
        ("paper", [1], "has no valid paper"),
        ("paper", "../../outside", "the paper of "),
        ("overrides", 5, "has no valid overrides"),
        ("warnings", [1], "has no valid warnings"),
        ("provenance", "x", "has no valid provenance"),
        ("score_seconds", [[{}]], "has no valid score_seconds"),
    ],
)
def test_a_record_of_another_form_is_one_line(tmp_path, capsys, key, value, words):
    make(tmp_path, **{key: value})
    make(tmp_path, name="bbbbbb", seed=1)
    assert report.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("oodgen: ") and error.count("\n") == 1


def test_numbers_that_are_none_are_not_told(tmp_path, capsys):
    about = {"provenance": {"seconds": {"train": "x"}}, "model": {"parameters": [1]}, "training": {"epochs": "x"}}
    make(tmp_path, **about, score_seconds={"l>0": "x"})
    folder = make(tmp_path, name="bbbbbb", state="diverged", config="x: 1")
    (folder / "config.yaml").write_text("seed: x\nname: [1]")
    assert report.main([str(tmp_path)]) == 0, capsys.readouterr().err


def test_a_report_follows_no_link_out_of_the_runs(tmp_path, capsys):
    (tmp_path / "outside").mkdir()
    make(tmp_path / "runs")
    (tmp_path / "runs" / "report").symlink_to(tmp_path / "outside")
    assert report.main([str(tmp_path / "runs")]) == 2
    assert "report is a link; give the folder of the report with --out" in capsys.readouterr().err
    assert not list((tmp_path / "outside").iterdir())
