"""The page of a run: whole and self-contained."""

import json
import re

import numpy as np
import pytest

from oodgen.errors import UserError
from oodgen.report import page
from oodgen.runs import results


@pytest.fixture
def run(tmp_path):
    """A finished run of two sets and three scores, hostile where it can be."""
    folder = tmp_path / "runs" / "eval" / "quickstart" / "abcdef"
    (folder / "scores").mkdir(parents=True)
    random = np.random.default_rng(0)
    names = ["l>0", "llr>1", "control:mean"]
    for shift, name in enumerate(("photos", "digits")):
        values = random.normal(shift, 1, (60, 3))
        lines = [",".join(names), *(",".join(map(str, v)) for v in values)]
        (folder / "scores" / f"{name}.csv").write_text("\n".join(lines))
    rows = [
        ("l>0", "auroc", 0.25),
        ("llr>1", "auroc", 0.875),
        ("control:mean", "separation", 0.625),
        ("l>0", "fpr80", 0.9),
    ]
    text = [",".join(results.Row._fields)]
    text += [f"quickstart,abcdef,0,photos,digits,{s},{m},{v},0.1,0.9,full,60,60" for s, m, v in rows]
    (folder / "results.csv").write_text("\n".join(text) + "\n")
    images = random.integers(0, 256, (3, 8, 1, 8, 8), dtype=np.uint8)
    np.savez(folder / "reconstructions.npz", photos=images, digits=images)
    train = tmp_path / "runs" / "train" / "abcdef"
    train.mkdir(parents=True)
    (train / "metrics.csv").write_text("step,epoch,train/bound,val/bound\n0,0,-9,\n1,0,,-8\n2,1,-7,\n")
    origin = "official test <script>alert(1)</script>"
    sets = {"photos": ("inlier", origin), "digits": ("out", "digits_sample of the test split")}
    record = {
        "experiment": "quickstart",
        "fingerprint": "abcdef",
        "seed": 0,
        "command": "python -m oodgen.run +experiment=quickstart",
        "train_dir": "runs/train/abcdef",
        "paper": None,
        "method": "hvae",
        "notes": ["a <b>note</b>"],
        "provenance": {
            "commit": "123abc",
            "versions": {"torch": "2.15"},
            "seconds": {"train": 7200.0, "evaluate": 3.0},
        },
        "datasets": {n: {"role": r, "n": 60, "origin": o, "sha256": "0" * 64} for n, (r, o) in sets.items()},
        "model": {"parameters": 1234567},
    }
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_the_page_is_self_contained_and_shows_the_run(run):
    html = page.write(run).read_text()
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", html) and "@import" not in html and "url(" not in html
    assert len(html) < 3e6
    for words in (
        "0.250",
        "0.875",
        "0.625",
        "+experiment=quickstart",
        "123abc",
        "1,234,567",
        "2.0 h to train",
        "torch 2.15",
    ):
        assert words in html
    assert html.count('src="data:image/') == 6, "densities, ROC, likelihoods, two grids of levels, training"
    assert sorted(p.name for p in (run / "figures").iterdir()) == [
        *("curves.svg", "densities.svg", "levels_digits.png", "levels_photos.png", "likelihoods.svg", "roc.svg")
    ]


def test_likelihoods_are_drawn_where_there_is_one_and_their_axis_is_said_to_run_the_other_way(run):
    html = page.write(run).read_text()
    assert html.index("ROC curves") < html.index("the axis runs the other way") < html.index("log-likelihoods of all")
    for path in (run / "scores").iterdir():
        path.write_text(path.read_text().replace("l>0", "critic"))
    (run / "figures" / "likelihoods.svg").unlink()
    assert "the other way" not in page.write(run).read_text() and not (run / "figures" / "likelihoods.svg").exists()


def test_what_the_record_warns_of_stands_above_the_tables_without_folders(run):
    facts = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(json.dumps({**facts, "warnings": ["l>0 of digits <ran> away in /home/me/x"]}))
    html = page.write(run).read_text()
    assert html.index("l&gt;0 of digits &lt;ran&gt; away in x") < html.index("<h2>")


def test_text_of_the_record_is_text_on_the_page(run):
    html = page.write(run).read_text()
    assert "<script" not in html and "<b>note</b>" not in html and "&lt;script&gt;" in html


def test_the_page_says_nothing_of_the_machines_folders(run):
    facts = json.loads((run / "record.json").read_text())
    train = run.parents[2] / "train" / "abcdef"
    command = f"python -m oodgen.run +experiment=quickstart runs={run.parents[2]} data.root=/home/me/data data=a/b"
    facts |= {
        "train_dir": str(train),
        "command": command,
        "notes": [f"x was skipped: no {run}/x.npy, see https://a.b/c"],
    }
    (run / "record.json").write_text(json.dumps(facts))
    html = page.write(run).read_text()
    assert "+experiment=quickstart runs=runs data.root=data data=a/b" in html and "<dd>train/abcdef</dd>" in html
    assert "no x.npy, see https://a.b/c" in html
    assert str(run.parents[3]) not in html and "/home" not in html


def test_controls_among_other_metrics_are_said_to_be_directional(run):
    html = page.write(run).read_text()
    assert html.index("Other metrics") < html.index("Controls are directional here") < html.index("False positives")


def test_the_page_of_a_smoke_run_says_so_at_the_top(run):
    assert "Random images" not in page.write(run).read_text()
    (run / "config.yaml").write_text("smoke: true\n")
    html = page.write(run).read_text()
    assert html.index("Random images.") < html.index("<h2>")


def test_a_sample_is_never_passed_off_as_the_official_split(run):
    html = page.write(run).read_text()
    assert html.count("a sample, not the official split") == 1


def test_figures_of_others_are_shown_and_the_page_can_be_written_again(run):
    first = page.write(run).read_text()
    assert page.write(run).read_text() == first
    (run / "figures" / "auroc_over_epochs.svg").write_text("<svg/>")
    assert "auroc over epochs" in page.write(run).read_text()


def test_what_was_not_recorded_is_left_out(run):
    for name in ("scores/photos.csv", "reconstructions.npz"):
        (run / name).unlink()
    record = json.loads((run / "record.json").read_text())
    (run / "record.json").write_text(
        json.dumps({**record, "train_dir": "gone", "fingerprint": "gone", "provenance": {}, "notes": []})
    )
    html = page.write(run).read_text()
    assert "0.875" in html and "<img" not in html and "<h2>Notes" not in html


def test_the_papers_numbers_stand_beside_ours(run):
    text = (run / "results.csv").read_text()
    text = text.replace("photos", "fashion_mnist").replace("digits", "mnist")
    (run / "results.csv").write_text(text)
    record = (run / "record.json").read_text().replace("photos", "fashion_mnist").replace('"digits"', '"mnist"')
    (run / "record.json").write_text(record.replace('"paper": null', '"paper": "hierarchical_llr"'))
    probes = "probes: {bounds: {samples: 8, samples_k: 4}, image: {}}"
    (run / "config.yaml").write_text(f"{probes}\nscores: {{'llr>1': {{k: 1}}}}\n")
    html = page.write(run).read_text()
    assert "Beside the paper" in html and "ours took S = 8 for l&gt;0 and 4 for l&gt;k" in html
    assert "0.964 <small>S=1</small><br>0.984 <small>S=250</small><br>0.986 <small>S=1000</small>" in html
    assert "quoted(Ren et al. 2019 [1])" in html


def test_means_and_nats_per_dimension_stand_beside_the_papers_and_among_the_metrics(run):
    names = {"photos": "fashion_mnist", "digits": "mnist"}
    rows = [("digits", "l>0", "nats_dim", 12345.678), ("photos", "l>0", "nats_dim", 0.3125)]
    rows += [("digits", "psnr", "mean", 14.567)]
    text = (run / "results.csv").read_text()
    text += "".join(f"quickstart,abcdef,0,photos,{out},{s},{m},{v},,,full,60,60\n" for out, s, m, v in rows)
    record = (run / "record.json").read_text().replace('"paper": null', '"paper": "negative_sampling"')
    record = record.replace('"method": "hvae"', '"method": "vae likelihood=bernoulli"')
    for ours, name in names.items():
        text, record = text.replace(ours, name), record.replace(f'"{ours}"', f'"{name}"')
    (run / "results.csv").write_text(text)
    (run / "record.json").write_text(record)
    html = page.write(run).read_text()
    beside, others = html.index("Beside the paper"), html.index("Other metrics")
    assert beside < html.index("nats/dim ours") < html.index(">0.312<") < others
    assert html.count(">1.23e+04<") == 2 and others < html.index(">14.57<")


def test_the_page_of_a_run_with_negatives_speaks_of_its_own_score(run):
    assert "for contrast" not in page.write(run).read_text()
    (run / "config.yaml").write_text("method: {negatives: generated}\n")
    html = page.write(run).read_text()
    assert html.index("With generated images for contrast") < html.index("<h2>")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("record.json", b"{"),
        ("record.json", b"[]"),
        ("record.json", b'{"method": "hvae", "datasets": {}}'),
        ("results.csv", b"experiment\n"),
        ("scores/digits.csv", b"l>0,llr>1\n1,x\n"),
        ("scores/digits.csv", b"l>0,llr>1\n1\n1,2\n"),
        ("reconstructions.npz", b"PK\x03\x04 cut"),
    ],
)
def test_a_damaged_file_is_named_in_one_line_and_no_page_is_written(run, name, content):
    (run / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(name)) as error:
        page.write(run)
    assert "\n" not in str(error.value) and not (run / "report.html").exists()
