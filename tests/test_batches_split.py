import itertools

import numpy as np
import pytest

from medrag_lightning.batches import split_by_length


def computed(lengths, groups):
    return sum(len(group) * max(lengths[i] for i in group) for group in groups)


def test_every_position_once_and_groups_by_length():
    lengths = np.random.default_rng(0).integers(5, 300, 33).tolist()
    groups = split_by_length(lengths)
    assert sorted(i for group in groups for i in group) == list(range(33))
    assert all(group == sorted(group) for group in groups)
    longest = [max(lengths[i] for i in group) for group in groups]
    assert longest == sorted(longest)


def test_even_lengths_stay_together_and_skewed_ones_are_cut():
    assert split_by_length([40] * 16) == [list(range(16))]
    assert split_by_length([40, 41, 42, 43]) == [[0, 1, 2, 3]]
    assert split_by_length([10, 500, 10, 10]) == [[0, 2, 3], [1]]
    assert split_by_length([]) == []


def test_the_cut_is_the_best_of_its_number_of_groups():
    rng = np.random.default_rng(1)
    for _ in range(20):
        lengths = rng.integers(1, 100, 7).tolist()
        groups = split_by_length(lengths, max_waste=0.0, max_parts=3)
        ranked = sorted(range(7), key=lambda i: lengths[i])
        all_cuts = itertools.combinations(range(1, 7), len(groups) - 1)
        options = [[ranked[a:b] for a, b in itertools.pairwise((0, *cut, 7))] for cut in all_cuts]
        assert computed(lengths, groups) == min(computed(lengths, option) for option in options)


def test_no_more_groups_than_asked_for_and_no_more_than_needed():
    lengths = [1, 10, 100, 1000]
    assert len(split_by_length(lengths, max_waste=0.0, max_parts=2)) == 2
    assert len(split_by_length(lengths, max_waste=0.0, max_parts=9)) == 4
    assert len(split_by_length(lengths, max_waste=0.99)) == 1


@pytest.mark.parametrize("bad", [{"max_parts": 0}, {"max_waste": 1.0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="need max_parts"):
        split_by_length([1], **bad)
