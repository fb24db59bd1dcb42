"""A query generator tuned on pairs of searches by stage reader_preference, then tested by its own stage again."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from search_world import CORPORA, NAMES, SquareTable, data, reader, stage, trainer, words_for

from medrag_lightning.data.pair_building import build_or_read
from medrag_lightning.data.preference_feed import PreferenceFeed
from medrag_lightning.data.preference_plan import PreferencePlan
from medrag_lightning.data.sampler import SampleKey
from medrag_lightning.data.search_feed import SearchFeed
from medrag_lightning.data.search_plan import SearchPlan
from medrag_lightning.models.trained_backbone import TrainedBackbone
from medrag_lightning.preference_files import pair_id, write_preferences
from medrag_lightning.records import Condition, PairKind, Preference, PreferenceSide, Split, format_searches
from medrag_lightning.stages.reader_preference import ReaderPreference


def pairs_of(query):
    """The right searches over those with another colour, and over asking another corpus."""
    good = words_for(query)
    other = NAMES[(int(query.id[1:]) + 1) % 4]
    wrong = tuple((name, f"{other} {words.split()[1]}") for name, words in good) or (("graph", other),)
    texts = [format_searches({name: (words,) for name, words in one}, CORPORA) for one in (good, wrong)]
    sides = [(Condition(), text) for text in texts]
    name = pair_id(query.id, PairKind.SEARCH_WORDING, None, sides)
    return Preference(name, query.id, PairKind.SEARCH_WORDING, None, *(PreferenceSide(*side) for side in sides))


def pairs(folder, splits=(Split.TRAIN, Split.VAL)):
    asked = SquareTable(str(folder)).queries()
    made = {split: [pairs_of(query) for query in asked if query.split is split] for split in splits}
    write_preferences(folder / "pairs", made, {"by": "hand"}, {})
    return str(folder / "pairs")


def tuning(folder, checkpoint, **settings):
    """The stage, and the data with its pairs."""
    module = ReaderPreference(reader(tuned=str(checkpoint)), partial(torch.optim.AdamW, lr=1e-2))
    plan = PreferencePlan(folder=pairs(folder), rules="given", **settings)
    return module, data(folder, plan=SearchPlan(), preference=plan, batch_size=4)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    module, run = stage(), trainer(folder, max_epochs=2)
    run.fit(module, datamodule=data(folder))
    run.save_checkpoint(folder / "sft.ckpt", weights_only=True)
    policy, served = tuning(folder, folder / "sft.ckpt")
    run = trainer(folder, max_epochs=6)
    run.fit(policy, datamodule=served)
    run.save_checkpoint(folder / "dpo.ckpt", weights_only=True)
    return folder, module, policy, {name: float(value) for name, value in run.callback_metrics.items()}


def test_rejected_searches_become_less_likely_beside_the_preferred(tuned):
    _, _, _, told = tuned
    assert told["train/search_wording_margin"] > 0.1
    assert told["train/loss"] < 0.6931 - 0.005
    assert told["train/search_wording_rejected_gain"] < told["train/search_wording_chosen_gain"]


def test_the_generator_stage_reads_what_came_out(tuned, tmp_path):
    folder, first, policy, _ = tuned
    again = stage(made_reader=reader(tuned=str(folder / "sft.ckpt")))
    before = stage(made_reader=reader(tuned=str(folder / "sft.ckpt")))
    run = trainer(tmp_path)
    run.test(again, datamodule=data(folder), ckpt_path=folder / "dpo.ckpt", verbose=False, weights_only=True)
    assert again.reader.fingerprint() == policy.reader.fingerprint() != first.reader.fingerprint()
    assert len(again.search_outcomes) == 8
    trainer(tmp_path).test(before, datamodule=data(folder), verbose=False)
    asked = data(folder)
    asked.setup("test")
    batch = first.collator(training=False)(asked_examples(asked))
    logps = [one.reader.token_logp(batch.parts[0].prompts, batch.parts[0].rows).detach() for one in (first, before)]
    torch.testing.assert_close(logps[0], logps[1], atol=1e-4, rtol=0)  # with a fresh adapter it is the generator of SFT


def asked_examples(served):
    return SearchFeed(served.world(), served.searches, None).training()[[SampleKey(0, place) for place in range(4)]]


def test_a_generator_does_not_resume_what_tuned_it(tuned, tmp_path):
    folder, *_ = tuned
    again = stage(made_reader=reader(tuned=str(folder / "sft.ckpt")))
    with pytest.raises(ValueError, match="of stage 'reader_preference', and one of stage 'query_generator' is needed"):
        trainer(tmp_path).fit(again, datamodule=data(folder), ckpt_path=folder / "dpo.ckpt", weights_only=True)
    assert isinstance(again.reader.backbone, TrainedBackbone)


def test_given_pairs_are_taken_as_they_are_or_refused(tmp_path):
    folder = tmp_path / "given"
    served = data(folder, plan=SearchPlan(), preference=PreferencePlan(folder=pairs(folder), rules="given", max_pairs=5))
    served.setup("fit")
    found = build_or_read(served.world(), served.preference)
    assert {str(split): len(mine) for split, mine in found.pairs.items()} == {"train": 5, "val": 4}
    assert found.identity == {"by": "hand"}
    alone = build_or_read(served.world(), PreferencePlan(folder=served.preference.folder, rules="given", splits=("train",)))
    assert {str(split): len(mine) for split, mine in alone.pairs.items()} == {"train": 12}
    with pytest.raises(ValueError, match=r"preference\.balance would be ignored: with rules: given"):
        PreferencePlan(rules="given", balance="kinds")
    with pytest.raises(ValueError, match=r"no finished pairs in .*nowhere: the verb explore makes some"):
        build_or_read(served.world(), PreferencePlan(folder=str(tmp_path / "nowhere"), rules="given"))
    write_preferences(tmp_path / "empty", {Split.TRAIN: []}, {}, {})
    none = data(folder, plan=SearchPlan(), preference=PreferencePlan(folder=str(tmp_path / "empty"), rules="given"))
    none.setup("fit")
    with pytest.raises(ValueError, match=r"no preference pair of split 'train' to tune on \(pairs of the splits: 0 train\)"):
        PreferenceFeed(none.world(), none.preference).training()
