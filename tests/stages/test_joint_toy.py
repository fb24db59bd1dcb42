"""Where one report tells the answer and the others do not, the retriever learns to rank it first while the reader learns.

The reader sees no image: it believes the colour that a report names, the more the larger its one weight is. The retriever sees
the image alone. So only the two together can answer.
"""

import torch
from distill_world import ClosedTable, heads, trainer
from joint_world import ADAM, STEADY, served
from planted_reader import Words
from torch import nn

from medrag_lightning.stages.joint import Joint, JointRates

COUNT, K = 96, 6


class Believer(nn.Module):
    """log p(word) is the weight times how often the word stands in the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.processor, self.weight = Words(), nn.Parameter(torch.tensor(0.5))

    def prepare(self, texts):
        """Nothing to load."""

    def token_logp(self, prompts, rows):
        count_R = (prompts.ids_PT[rows.prompt_of_row_R] == rows.ids_RL[:, :1]).sum(1).float()
        return torch.stack([self.weight * count_R, torch.zeros_like(count_R)], dim=1)

    def generate(self, prompts, max_new_tokens):
        raise NotImplementedError

    def describe(self):
        return {}

    def restore(self, description):
        """Nothing to load."""

    def fingerprint(self):
        return "believer"


def learnt(folder, rates):
    module = Joint(Believer(), heads(["text"], query_mix=1.0), ADAM, learning_rates=rates, schedule=STEADY, reader_chunk=96)
    fitter = trainer(folder, max_epochs=6)
    fitter.fit(module, datamodule=served(folder, ClosedTable(str(folder), COUNT), count=K))
    return float(module.reader.weight.detach()), {name: float(value) for name, value in fitter.callback_metrics.items()}


def test_joint_ranks_the_telling_candidate_first_and_beats_the_reader_alone(tmp_path):
    trust, joint = learnt(tmp_path, JointRates(0.05, 1e-2))
    trust_alone, reader = learnt(tmp_path, JointRates(0.05, None))
    assert joint["val/top1_accuracy"] > joint["val/frozen_top1_accuracy"] + 0.2
    assert joint["val/top1_accuracy"] > reader["val/top1_accuracy"] + 0.2
    assert joint["val/top1_accuracy"] > joint["val/oracle"] - 0.2, "not every pool holds a report of the image's colour"
    assert joint["val/loss"] < reader["val/loss"] - 0.2
    assert trust > trust_alone + 0.3
