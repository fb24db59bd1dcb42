"""Index refresh during retriever training: new vectors, new candidates in the next epoch, and what is refused."""

import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))
from distill_world import ClosedTable, data, heads, score_table, source, stage, towers, trainer

from callbacks.index_refresh import IndexRefresh
from medrag_lightning.models.both_sides import BothSides, DistilledEncoder

PLAN = {"open_passages": True}


class Watch(L.Callback):
    """Keeps each epoch's pools and one stored vector."""

    def __init__(self):
        self.pools, self.vectors = [], []

    def on_train_epoch_start(self, trainer, module):
        items = trainer.train_dataloader.dataset
        self.pools.append([[c.id for c in pools["text"].candidates] for _, pools in items.items])
        self.vectors.append(trainer.datamodule.source.document_vectors("text", ["d3"])[0])


def run(folder, epochs=3, plan=PLAN, made=None, callbacks=None, search=None, scores=True, **settings):
    table = ClosedTable(str(folder), 48)
    table_folder = score_table(folder / "scores", table) if scores is True else scores
    served = data(folder, table, table_folder, plan, search=search or source(count=6, sides=["text"]))
    module = stage(made or BothSides(towers(), ["text"]))
    reload = {"reload_dataloaders_every_n_epochs": 1, **settings}
    fitter = trainer(folder, max_epochs=epochs, callbacks=callbacks or [IndexRefresh()], **reload)
    fitter.fit(module, datamodule=served)
    return fitter, module


def test_every_epoch_learns_from_candidates_of_the_towers_before_it(tmp_path):
    watch = Watch()
    fitter, module = run(tmp_path, callbacks=[IndexRefresh(), watch])
    first, second, third = watch.vectors
    assert np.allclose(first, towers().embed_texts([ClosedTable(str(tmp_path), 48).documents()[3].text])[0], atol=1e-6)
    assert not np.allclose(first, second, atol=1e-4)
    assert not np.allclose(second, third, atol=1e-4)
    assert watch.pools[0] != watch.pools[1]
    fitter.save_checkpoint(tmp_path / "both.ckpt")
    trained = DistilledEncoder(towers(), str(tmp_path / "both.ckpt"))
    assert trained.fingerprint() == module.heads.encoder.fingerprint()
    again = source(encoder=trained, sides=["text"])
    with pytest.raises(ValueError, match="another encoder"):  # the old store is stale for the trained encoder
        again.prepare(fitter.datamodule.documents(), fitter.datamodule._image_store(), fitter.datamodule.evidence_folder())


def test_candidates_that_were_not_scored_are_told_with_the_command(tmp_path):
    table = ClosedTable(str(tmp_path), 48)
    search = source(count=6, sides=["text"])
    served = data(tmp_path, table, None, PLAN, search=search)
    served.prepare_data()
    served.setup("fit")
    found = {c.id for one in served._retrieved.values() for c in one.candidates}
    known = [d for d in table.documents() if d.id in found]
    if len(known) == 48:
        known = known[:40]
    scores = score_table(tmp_path / "scores", table, documents=known)
    with pytest.raises(ValueError, match=r"rows are missing in all.*predict -c DATA -c stages/score"):
        run(tmp_path, epochs=6, scores=scores)
    run(tmp_path, epochs=3, scores=scores, plan={**PLAN, "pool": "scored"})


def test_a_refresh_that_would_do_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="passages do not train"):
        run(tmp_path, made=heads(["text"]))
    with pytest.raises(ValueError, match="reload_dataloaders_every_n_epochs 1"):
        run(tmp_path, reload_dataloaders_every_n_epochs=0)
    with pytest.raises(ValueError, match="open_passages"):
        run(tmp_path, plan={})
    with pytest.raises(ValueError, match="at least 1"):
        IndexRefresh(0)
