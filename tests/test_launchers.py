"""Cells on other machines and in processes of a cluster's."""

from lightning_fabric.utilities.rank_zero import rank_zero_only

FAST = ["+experiment=quickstart", "smoke=true", "model=hvae_tiny", "device.accelerator=cpu", "device.threads=1"]


def test_a_slurm_job_of_several_tasks_trains_as_any_process(command, tmp_path, monkeypatch):
    for name, value in {"NTASKS": "4", "JOB_ID": "7", "JOB_NAME": "sweep", "PROCID": "1", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    ended = command(*FAST)
    assert ended.code == 0, ended.err
    (train,) = (tmp_path / "runs" / "smoke" / "train").iterdir()
    curves = (train / "metrics.csv").read_text()
    # what Lightning left where it had requeued a job; it would resume from it
    (train / "hpc_ckpt_1.ckpt").write_bytes((train / "checkpoints" / "last.ckpt").read_bytes())
    ended = command(*FAST, "retrain=true")
    assert ended.code == 0, ended.err
    assert (train / "metrics.csv").read_text() == curves
    assert {path.name for path in train.rglob("*.ckpt")} == {"last.ckpt"}
