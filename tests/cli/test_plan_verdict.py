"""Whether a run fits, what to change if it does not, and what the table says was measured."""

from dataclasses import replace

from test_plan_figures import MB, probe

from medrag_lightning.cli.plan_figures import Probe, Rung, Timed, estimate
from medrag_lightning.cli.plan_verdict import Room, failure_finding, less_memory, plan_rows, verdict


def judged(told, memory=10_000 * MB, disk=10_000 * MB):
    findings, last = verdict(told, estimate(told), Room(memory, disk))
    return [(finding.kind, finding.severity) for finding in findings], last[1], findings


def test_a_run_that_fits_has_no_fault():
    kinds, text, _ = judged(probe())
    assert kinds == []
    assert text.startswith("fits: 170 MB of 10.0 GB free memory, 30.1 MB of 10.0 GB free disk")


def test_a_run_that_does_not_fit_is_an_error_with_a_batch_that_would():
    kinds, text, findings = judged(probe(), memory=150 * MB)
    assert kinds == [("memory_does_not_fit", "error")]
    assert text.startswith("does NOT fit")
    assert "--data.init_args.batch_size 3 with --trainer.accumulate_grad_batches 3" in findings[0].remedy  # 0.85 x 150 MB: 3.7
    assert "gradient_checkpointing" in findings[0].remedy


def test_a_run_that_barely_fits_is_a_warning():
    kinds, text, _ = judged(probe(), memory=180 * MB)
    assert kinds == [("memory_tight", "warning")]
    assert text.startswith("fits, but barely")


def test_a_run_of_which_one_sample_alone_was_tried_does_not_fit():
    told = probe(ladder=[Rung(1, 1.0, 170 * MB)], cold=[], warm=[])
    kinds, _, findings = judged(told, memory=180 * MB)
    assert kinds == [("memory_does_not_fit", "error")]
    assert "at least 170 MB" in findings[0].what


def test_disk_counts_with_the_copy_that_is_being_written():
    assert judged(probe(), disk=25 * MB)[0] == [("disk_does_not_fit", "error")]
    assert judged(probe(), disk=32 * MB)[0] == [("disk_tight", "warning")]


def test_a_gpu_is_judged_by_its_own_memory():
    told = probe(device_total=400 * MB, device_train=390 * MB, device_other=20 * MB, precision="32-true", device="a GPU")
    kinds, text, _ = judged(told)
    assert kinds == [("memory_does_not_fit", "error"), ("precision_slow", "note")]
    assert "410 MB of 400 MB on the GPU" in text


def test_slow_loading_and_a_run_without_end_are_told():
    assert judged(probe(warm=[Timed(1.0, 1.0, True)]))[0] == [("loading_slow", "note")]
    assert judged(probe(warm=[Timed(0.1, 0.1, True)], cold=[]))[0] == []  # nobody waits for that
    assert judged(probe(warm=[Timed(1.0, 1.0, True)], workers=2))[0] == []
    assert judged(probe(epochs=-1))[0] == [("run_without_end", "warning")]


def test_the_table_says_what_was_measured_and_what_computed():
    told = probe(looked_at=60, queries={"train": 100, "val": 30, "test": 80}, stage="reader_raft", precision="32-true")
    rows = dict(plan_rows(told, estimate(told)))
    assert rows["run"] == "fit of stage reader_raft on cpu, 1 process, precision 32-true"
    assert "100 samples an epoch in 13 batches of 8; 39 steps in all, 3 validations (counted)" in rows["training"]
    assert "170 MB at most (measured, the 8 longest of 60 samples)" in rows["memory"]
    assert rows["time"].startswith("about 0:01:50 (computed)")
    short = replace(told, batch_size=32, ladder=[Rung(1, 1.0, 100 * MB), Rung(4, 1.0, 130 * MB)])
    assert "computed from batches of up to 4 samples" in dict(plan_rows(short, estimate(short)))["memory"]


def test_what_only_predicts_has_no_training_in_its_plan():
    told = Probe(verb="predict", stage="score", evaluations=probe().evaluations[1:], parameters=10)
    rows = dict(plan_rows(told, estimate(told)))
    assert "training" not in rows
    assert rows["to be read"] == "80 in the test (counted)"
    assert "eval_batch_size" in less_memory(told)


def test_failures_say_what_to_do():
    assert failure_finding({"failure": "memory", "text": "x"}, "a.yaml").kind == "memory_does_not_fit"
    users = failure_finding({"failure": "user", "text": "no such table"}, "a.yaml")
    assert (users.kind, users.severity, users.what) == ("plan_failed", "error", "no such table")
    assert "developers" in failure_finding({"failure": "crash", "text": "x"}, "a.yaml").remedy
