"""configs/stages/candidate_reranker.yaml: scored, fitted, and answered with."""

from __future__ import annotations

from pathlib import Path

from test_configs import ONE_STEP, small

from medrag_lightning.__main__ import main

ANSWER = """
model:
  init_args:
    candidate_reranker:
      class_path: medrag_lightning.models.candidate_reranker.TrainedCandidateReranker
      init_args: {{checkpoint: {best}}}
"""


def test_a_re_ranker_learns_from_scores_and_answers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    few = ["--data.init_args.max_train_queries=16", "--data.init_args.max_eval_queries=8", "--data.init_args.only=closed"]
    shared = ["-c", "data/minihospital", "-c", "stages/candidate_reranker", *few]
    main(["predict", *shared, "-c", "stages/score", "--data.init_args.scoring.splits=[train,val,test]", *small()])
    main(["fit", *shared, "--trainer.max_steps=2", "--trainer.val_check_interval=1"])
    (best,) = Path("runs").glob("candidate_reranker-001/checkpoints/best-*.ckpt")
    assert (best.parents[1] / "candidate_comparison.json").is_file()
    Path("answer.yaml").write_text(ANSWER.format(best=best))
    main(["fit", "-c", "stages/reader_raft", "-c", "data/minihospital", "-c", "answer.yaml", *ONE_STEP, *small()])
