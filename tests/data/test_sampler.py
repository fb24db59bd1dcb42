import pytest

from medrag_lightning.data.sampler import EvalSampler, Position, ResumableLoader, TrainSampler


def epoch(sampler):
    return [[key.place for key in batch] for batch in sampler]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 12, 13, 32])
def test_every_sample_once_an_epoch_over_all_processes(size, world):
    samplers = [TrainSampler(size, 4, seed=0, rank=rank, world=world) for rank in range(world)]
    assert len({len(sampler) for sampler in samplers}) == 1
    shares = [epoch(sampler) for sampler in samplers]
    assert all(len(share) == len(samplers[0]) for share in shares)
    assert all(batch for share in shares for batch in share)
    assert sorted(index for share in shares for batch in share for index in batch) == list(range(size))


def test_a_global_batch_does_not_depend_on_the_number_of_processes():
    one = epoch(TrainSampler(20, 4, seed=3))
    two = [epoch(TrainSampler(20, 2, seed=3, rank=rank, world=2)) for rank in (0, 1)]
    assert [sorted(batch) for batch in one] == [sorted(a + b) for a, b in zip(*two, strict=True)]


def test_epochs_differ_and_repeat_by_seed():
    sampler, again = TrainSampler(30, 4, seed=0), TrainSampler(30, 4, seed=0)
    first = epoch(sampler)
    sampler.set_epoch(1)
    assert epoch(sampler) != first
    assert epoch(again) == first
    assert epoch(TrainSampler(30, 4, seed=1)) != first


def test_starts_in_the_middle_and_at_the_end_of_an_epoch():
    whole = TrainSampler(10, 3, seed=0)
    first = epoch(whole)
    whole.set_epoch(1)
    second = epoch(whole)
    for done in range(len(whole)):
        resumed = TrainSampler(10, 3, seed=0)
        resumed.start_at(Position(0, done))
        assert epoch(resumed) == first[done:]
        resumed.set_epoch(1)
        assert epoch(resumed) == second
    resumed.start_at(Position(0, len(whole)))
    assert epoch(resumed) == second


def test_setting_the_same_epoch_again_keeps_the_place():
    sampler = TrainSampler(10, 3, seed=0)
    sampler.start_at(Position(2, 1))
    sampler.set_epoch(2)
    assert len(epoch(sampler)) == len(sampler) - 1


def test_fewer_samples_than_processes_is_refused():
    with pytest.raises(ValueError, match="fewer processes"):
        TrainSampler(2, 4, seed=0, rank=0, world=3)


@pytest.mark.parametrize("size", [0, 1, 7])
def test_evaluation_sees_every_sample_once_in_order(size):
    shares = [[key.place for batch in EvalSampler(size, 2, rank, 3) for key in batch] for rank in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(size))
    assert all(share == sorted(share) for share in shares)


def loader(size, batch_size, seed=0):
    class Keys:
        def __getitem__(self, keys):
            return [tuple(key) for key in keys]

    return ResumableLoader(
        Keys(),
        sampler=TrainSampler(size, batch_size, seed),
        batch_size=None,
        collate_fn=list,
        position=lambda: Position(1, 2),
    )


def test_loader_resumes_what_was_consumed():
    state = loader(10, 2).state_dict()
    assert (state["epoch"], state["batches"]) == (1, 2)
    resumed = loader(10, 2)
    resumed.load_state_dict(state)
    whole = loader(10, 2)
    whole.sampler.set_epoch(1)
    assert list(resumed) == list(whole)[2:]


@pytest.mark.parametrize("other", [(11, 2, 0), (10, 3, 0), (10, 2, 1)])
def test_loader_refuses_another_run(other):
    with pytest.raises(ValueError, match="cannot resume"):
        loader(*other).load_state_dict(loader(10, 2).state_dict())
