import lightning as L
import pytest
import torch

from callbacks.threads import CpuThreads


def test_sets_the_threads_of_the_process():
    before = torch.get_num_threads()
    try:
        CpuThreads(1).setup(L.Trainer(logger=False, enable_checkpointing=False), L.LightningModule(), "fit")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_no_threads_are_refused():
    with pytest.raises(ValueError, match="threads >= 1"):
        CpuThreads(0)
