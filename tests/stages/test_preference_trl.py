"""Loss and gradients of the stage beside those of trl's own DPOTrainer, on one tiny vision model and the same pairs."""

from __future__ import annotations

import logging

import pytest
import torch
from preference_world import PairData, reader, stage, trainer
from torch import Tensor

from medrag_lightning.batches import PreferenceBatch
from medrag_lightning.losses import chosen_nll, weighted_mean
from medrag_lightning.records import PairKind
from medrag_lightning.stages.preference_objective import PreferenceLoss
from medrag_lightning.stages.reader_preference import _tokens

# trl's name for each of our losses; its `ipo` divides by length, and its `sigmoid` knows no label smoothing
LOSSES = {
    "sigmoid": PreferenceLoss(beta=0.3),
    "hinge": PreferenceLoss("hinge", beta=0.3),
    "ipo": PreferenceLoss("ipo", beta=0.3, length_normalised=True),
    "robust": PreferenceLoss("robust", beta=0.3, label_smoothing=0.2),
    "sigmoid_norm": PreferenceLoss(beta=0.3, length_normalised=True),
    "sigmoid sft": PreferenceLoss(beta=0.3, nll_weight=0.7),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Our stage with an adapter that is off its start, and trl's trainer around the same weights."""
    folder = tmp_path_factory.mktemp("trl")
    module, served = stage(made_reader=reader()), PairData(folder, batch_size=3)
    trainer(folder, max_steps=0, limit_val_batches=0).fit(module, datamodule=served)
    torch.manual_seed(0)
    for name, value in module.reader.named_parameters():
        if "lora_B" in name:
            value.data.normal_(0, 0.3)
    module.reader.train()
    return module, served, _dpo_trainer(module.reader, folder)


def _dpo_trainer(mine, folder):
    import peft
    from datasets import Dataset
    from PIL import Image
    from trl import DPOConfig, DPOTrainer

    logging.getLogger("trl").setLevel(logging.ERROR)
    twin = reader()
    twin.restore(mine.describe())
    base = twin.model.unload()
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=twin.model.peft_config["reader"].target_modules)
    adapted = peft.get_peft_model(base, config)
    row = {"prompt": [{"role": "user", "content": "which colour?"}], "images": [Image.new("RGB", (32, 32))]}
    row |= {side: [{"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    settings = {"report_to": [], "use_cpu": True, "bf16": False, "max_length": None, "gradient_checkpointing": False}
    arguments = DPOConfig(output_dir=str(folder / "dpo"), beta=0.3, disable_tqdm=True, **settings)
    dataset = Dataset.from_list([row, row])
    made = DPOTrainer(model=adapted, args=arguments, train_dataset=dataset, processing_class=mine.processor.processor)
    made.model.delete_adapter("ref")  # a copy of the adapter as it is; without it the reference is the model without adapters
    weights = {name.replace(".reader.", ".default."): value for name, value in mine.model.state_dict().items()}
    made.model.load_state_dict(weights)
    return made


def _for_trl(batch: PreferenceBatch) -> dict[str, Tensor]:
    """Whole sequences, the chosen ones first, each with its own images."""
    sequences, pixels = [], []
    for row in [*batch.chosen_B.tolist(), *batch.rejected_B.tolist()]:
        prompt = int(batch.rows.prompt_of_row_R[row])
        before = batch.prompts.ids_PT[prompt][batch.prompts.mask_PT[prompt].bool()]
        answer = batch.rows.ids_RL[row][batch.rows.mask_RL[row]]
        sequences.append((torch.cat([before, answer]), len(answer)))
        pixels.append(batch.prompts.vision["pixel_values"][list(batch.prompts.image_places[prompt])])
    longest = max(len(ids) for ids, _ in sequences)
    names = ("input_ids", "attention_mask", "completion_mask")
    made = {name: torch.zeros(len(sequences), longest, dtype=torch.long) for name in names}
    for i, (ids, answer) in enumerate(sequences):
        made["input_ids"][i, : len(ids)] = ids
        made["attention_mask"][i, : len(ids)] = 1
        made["completion_mask"][i, len(ids) - answer : len(ids)] = 1
    return {**made, "pixel_values": torch.cat(pixels)}


def _ours(module, batch: PreferenceBatch, loss: PreferenceLoss) -> tuple[Tensor, dict[str, Tensor]]:
    reference_B2, policy_B2, tokens_B2 = module._live_reference(batch), module._policy(batch), _tokens(batch)
    value = weighted_mean(loss.values(policy_B2, reference_B2, tokens_B2), batch.weight_B)
    if loss.nll_weight:
        value = value + loss.nll_weight * chosen_nll(policy_B2[:, 0], tokens_B2[:, 0], batch.weight_B)
    return value.detach(), _gradients(value, module.reader.model)


def _gradients(value: Tensor, model) -> dict[str, Tensor]:
    named = {name.replace(".reader.", ".default."): p for name, p in model.named_parameters() if p.requires_grad}
    return dict(zip(named, torch.autograd.grad(value, list(named.values())), strict=True))


@pytest.mark.parametrize("trls", LOSSES)
@pytest.mark.parametrize("kind", [PairKind.UTILISATION, PairKind.CROSS_MODALITY])
def test_loss_and_gradients_are_trls(both, trls, kind):
    """Utilisation: the same input on both sides, as trl's collator makes it. Else the image differs, as trl's loss allows."""
    module, served, dpo = both
    items = served.train_dataloader().dataset
    batch = module.collator(training=True)(items._opened([pair for pair in items.pairs if pair.kind is kind][:6]))
    loss, gradients = _ours(module, batch, LOSSES[trls])
    dpo.loss_types, dpo.label_smoothing = trls.split(), LOSSES[trls].label_smoothing
    dpo.loss_weights = [1.0, LOSSES[trls].nll_weight][: len(dpo.loss_types)]
    dpo.model.train()
    theirs = dpo._compute_loss(dpo.model, _for_trl(batch), False)
    torch.testing.assert_close(loss, theirs.detach(), atol=1e-6, rtol=0)
    of_trl = _gradients(theirs, dpo.model)
    assert gradients.keys() == of_trl.keys()
    assert max(float(value.abs().max()) for value in of_trl.values()) > 1e-3
    for name, value in of_trl.items():
        torch.testing.assert_close(gradients[name], value, atol=1e-6, rtol=0, msg=name)
