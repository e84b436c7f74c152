"""The bench runs, prints every section, and its yardsticks measure what they say; no times are asserted."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from oodgen import __main__ as program
from oodgen.bench import scoring, startup
from oodgen.bench.__main__ import SECTIONS, main
from oodgen.bench.flops import ConvolutionCounter
from oodgen.bench.scoring import naive, shared
from oodgen.bench.subject import Bench, make_subject, precision_settings
from oodgen.bench.timing import Effort, Table, Timing, interleaved, text
from oodgen.noise import ExampleNoise, RandomNoise
from oodgen.training.device import Device

CPU = torch.device("cpu")
TINY = ["--quick", "--models", "hvae_tiny", "--batch", "4", "--device", "cpu", "--threads", "1"]


def test_prints_every_section_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_cpu_seconds", lambda *_, code=0: 1.0)  # see below
    main([*TINY, "--out", str(tmp_path / "bench.json")])
    printed = capsys.readouterr().out
    for title in (
        "Training:",
        "Scoring:",
        "Probes:",
        "Arithmetic:",
        "Training loop:",
        "Data:",
        "Ensemble:",
        "Evaluation beside the model",
        "Densities of the evidence",
        "Start-up of commands",
    ):
        assert f"\n{title}" in printed
    written = json.loads((tmp_path / "bench.json").read_text())
    assert set(written["sections"]) == set(SECTIONS)
    assert written["provenance"]["versions"]["torch"] == torch.__version__.split("+")[0]
    assert written["device"]["threads"] == 1
    for tables in written["sections"].values():
        for table in tables:
            assert table["rows"]
            assert all(len(row) == len(table["header"]) for row in table["rows"])


def test_what_is_started_ends_as_it_should(command, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, which has imported what takes most of the time."""
    apart = startup._cpu_seconds

    def ended(*arguments: str, code: int = 0) -> float:
        monkeypatch.setattr(sys, "argv", list(arguments[1:]))
        if arguments[0] == "-c":
            exec(arguments[1])
        elif arguments[:3] == ("-m", "oodgen", "run"):
            assert command(*arguments[3:]).code == code
        elif arguments[0] == "-m":
            assert program.main() == code
        else:
            return apart(*arguments, code=code)
        return 1.0

    monkeypatch.setattr(startup, "_cpu_seconds", ended)
    bench = Bench(Device("cpu", threads=1).resolved(), ("hvae_tiny",), 2, False, True, Effort(1, 1, 0, 1e-9))
    (table,) = startup.measure(bench)
    assert len(table.rows) == 8


def test_the_time_of_a_process_is_its_own_and_its_exit_code_is_checked() -> None:
    assert 0 < startup._cpu_seconds("-c", "raise SystemExit(3)", code=3) < 60
    with pytest.raises(RuntimeError, match="ended with 3, not 0: why"):
        startup._cpu_seconds("-c", "import sys; print('why', file=sys.stderr); sys.exit(3)")


def test_only_runs_what_is_asked(capsys: pytest.CaptureFixture) -> None:
    main([*TINY, "--only", "helpers"])
    printed = capsys.readouterr().out
    assert "bootstrap" in printed
    assert "Training" not in printed


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        *(("--only", "speed", "helpers"), ("--only", "", "helpers"), ("--models", "vgg", "hvae_grey")),
        ("--models", "../run", "hvae_grey"),
        *(("--models", name, "no hierarchy of latent variables") for name in ("vae_grey", "wgan_grey")),
    ],
)
def test_a_wrong_name_lists_what_there_is(option: str, value: str, names: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*TINY, option, value]) == 2
    error = capsys.readouterr().err
    assert repr(value) in error
    assert names in error


@pytest.mark.parametrize("option", ["--batch", "--threads"])
@pytest.mark.parametrize("value", ["0", "-3", "1000000"])
def test_a_number_out_of_range_is_named(option: str, value: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*TINY, option, value]) == 2
    assert f"{option} {value} is not a whole number from 1 to " in capsys.readouterr().err


def test_variants_take_turns_in_turning_order() -> None:
    calls: list[str] = []
    timings = interleaved({n: lambda n=n: calls.append(n) for n in "abc"}, CPU, Effort(4, 4, 0, 1e-12))
    assert "".join(calls[6:]) == "abccbaabccba"  # after two calls of each that do not count
    assert all(len(t.seconds) == 4 for t in timings.values())
    assert Timing([3.0, 1.0, 2.0, 9.0]).median == 2.5


@pytest.mark.parametrize(("name", "samples"), [("hvae_tiny", 1), ("hvae_tiny", 3), ("lvae_grey", 1)])
def test_naive_scoring_is_the_definition(name: str, samples: int) -> None:
    _, model, x = make_subject(name, 3, CPU)
    with torch.inference_mode():
        noise = ExampleNoise(5, torch.arange(3))
        given = naive(model.eval(), x, noise, samples)
        y = model.observe(x, noise)
        for k in range(model.depth):
            draws = [
                model.bounds(y[i : i + 1], ExampleNoise(5, torch.tensor([i]), s), (k,), (1,))[0].elbo.item()
                for i in range(3)
                for s in range(samples)
            ]
            expected = torch.tensor(draws).view(3, samples).mean(1)
            torch.testing.assert_close(given[k], expected, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close(shared(model, x, noise, samples), given, rtol=1e-4, atol=1e-2)


def test_scores_that_differ_stop_the_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    right = scoring.shared

    def wrong(*arguments: object) -> torch.Tensor:
        return 1.1 * right(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring, "shared", wrong)
    device = Device("cpu", "32", threads=1).resolved()
    with pytest.raises(AssertionError, match="differ"):
        scoring.measure(Bench(device, ("hvae_tiny",), 2, False, True, Effort(1, 1, 0, 1e-9)))


def test_the_observed_convolutions_are_the_arithmetic() -> None:
    _, model, x = make_subject("hvae_tiny", 2, CPU)
    y = model.observe(x, RandomNoise())
    with torch.no_grad(), ConvolutionCounter() as observed, FlopCounterMode(display=False) as counter:
        model(y, RandomNoise())
    counted = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert sum(2 * c.flop * n for c, n in observed.seen.items()) == counted
    largest = max(observed.seen, key=lambda c: c.flop * observed.seen[c])
    channels_out, channels_in, *kernel = largest.weight
    assert largest.flop == 2 * channels_in * channels_out * kernel[0] * kernel[1] * largest.y[1] * largest.y[2]


def test_settings_cover_both_precisions_and_formats() -> None:
    device = Device("cpu", threads=1).resolved()
    made = precision_settings(device)
    assert next(iter(made)) == "fp32"
    assert len(set(made.values())) == 4
    assert replace(device, compile=False) in made.values()


def test_a_table_keeps_small_and_large_numbers_readable() -> None:
    lines = text(Table("T", ("what", "n"), [("a", 12345.6), ("bb", 0.01234), ("c", 7)], ["so"])).splitlines()
    assert [line.split() for line in lines[5:]] == [["a", "12,346"], ["bb", "0.0123"], ["c", "7"], ["so"]]
