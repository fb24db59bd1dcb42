"""Which batches a probe runs."""

from dataclasses import dataclass

from torch.utils.data import DataLoader

from medrag_lightning.cli.plan_batches import EvaluationProbe, TrainingProbe, evaluation_probes, rungs
from medrag_lightning.data.sampler import EvalSampler, TrainSampler


@dataclass
class Batch:
    places: list[int]
    token_count: int


class Items:
    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, keys):
        return [key.place for key in keys]


def collate(places):
    return Batch(places, sum(place % 7 for place in places))  # samples 6, 13, 20, ... are the longest


def loader(size, sampler):
    return DataLoader(Items(size), sampler=sampler, batch_size=None, collate_fn=collate)


def test_rungs_climb_to_the_batch_size_and_stay_there_once_more():
    assert rungs(1) == [1, 1, 1]
    assert rungs(4) == [1, 4, 4]
    assert rungs(32) == [1, 4, 16, 32, 32]


def test_the_longest_samples_come_first_and_ordinary_batches_twice():
    probe = TrainingProbe(loader(100, TrainSampler(100, 8, 0)), 8)
    batches = list(probe)
    kinds = [one.kind for one in probe.served]
    assert len(batches) == len(probe)
    assert kinds == ["longest"] * 4 + ["cold"] * 12 + ["warm"] * 12
    assert [one.samples for one in probe.served[:4]] == [1, 4, 8, 8]
    assert all(place % 7 == 6 for place in batches[3].places)
    assert probe.looked_at == 100
    assert [batch.places for batch in batches[4:16]] == [batch.places for batch in batches[16:]]


def test_ordinary_batches_stop_when_time_is_up(monkeypatch):
    monkeypatch.setattr("medrag_lightning.cli.plan_batches.ORDINARY_SECONDS", -1.0)
    probe = TrainingProbe(loader(100, TrainSampler(100, 8, 0)), 8)
    list(probe)
    assert [one.kind for one in probe.served].count("cold") == [one.kind for one in probe.served].count("warm") == 2


def test_fewer_samples_than_a_batch_are_enough():
    probe = TrainingProbe(loader(3, TrainSampler(3, 8, 0)), 8)
    assert max(len(batch.places) for batch in probe) == 3


def test_an_evaluation_is_sampled_evenly_and_warmed_up_once():
    probes = evaluation_probes(lambda: [loader(100, EvalSampler(100, 8)), loader(10, EvalSampler(10, 8))], "test")
    first, second = ([batch.places[0] for batch in probe] for probe in probes)
    assert first == [0, 0, 48, 96]
    assert second == [0, 8]
    assert [(probe.batches, probe.items, probe.first) for probe in probes] == [(13, 100, 1), (2, 10, 0)]


def test_an_empty_evaluation_is_empty():
    probe = EvaluationProbe(loader(0, EvalSampler(0, 8)), "val", 3, True)
    assert (len(probe), list(probe)) == (0, [])
