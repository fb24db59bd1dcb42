"""The reader: a vision-language model that scores and generates answers, and trains in full or by adapter."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.batches import AnswerRows, AttentionMass, EncodedPrompts
from medrag_lightning.interfaces import ReaderPartName
from medrag_lightning.models import scoring
from medrag_lightning.models.attention_mass import attention_mass
from medrag_lightning.models.backbones import Backbone
from medrag_lightning.models.checkpointing import enable_checkpointing, mark_checkpointed
from medrag_lightning.models.families import Family, family_of, never_read
from medrag_lightning.models.hf_processor import HfProcessor
from medrag_lightning.models.image_path import current_features, trained_image_weights, zero_of_image_path
from medrag_lightning.models.lora import LoraSettings, add_adapter, train_adapter_only
from medrag_lightning.models.reader_digest import digest, weight_digests
from medrag_lightning.models.reader_parts import freeze_all_but, trained_by_part
from medrag_lightning.models.reference import adapter_off
from medrag_lightning.models.steering import layer_count, steered
from medrag_lightning.models.tiny import Loaded, refuse_contradictions
from medrag_lightning.models.tree_scoring import supports_tree
from medrag_lightning.models.vision_cache import Features, VisionCache

logger = logging.getLogger(__name__)

Freeze = Literal["nothing", "vision", "all_but_adapter"]


class HfReader(nn.Module):
    """A reader (interfaces.Reader). It has no weights until `prepare` or `restore`.

    Args:
        backbone: where the weights come from.
        adapter: LoRA settings; None trains the weights themselves.
        freeze: what is not trained. With an adapter it must be `all_but_adapter`, and is so when left out; without one,
            `nothing` is, `vision` keeps the vision tower, and `all_but_adapter` freezes the whole reader.
        gradient_checkpointing: recompute activations in backward; saves memory, costs about a third more time.
        image_cache_mb: megabytes of image features kept between batches for prompts that share images; 0 keeps none.
        learned_steering: train a factor of steering's strength for each decoder layer, from 1, for policy `learned`; what
            else is trained stays as it is.
    """

    def __init__(
        self,
        backbone: Backbone,
        adapter: LoraSettings | None = None,
        freeze: Freeze | None = None,
        gradient_checkpointing: bool = False,
        image_cache_mb: int = 512,
        learned_steering: bool = False,
    ) -> None:
        super().__init__()
        if adapter is not None and freeze not in (None, "all_but_adapter"):
            raise ValueError(f"freeze {freeze!r} contradicts the adapter, which alone is trained: leave one of them out")
        quantization = getattr(backbone, "quantization", None)
        if quantization is not None and adapter is None and freeze != "all_but_adapter":
            raise ValueError(f"a {quantization} base cannot be trained: add an adapter, or set freeze: all_but_adapter")
        self.backbone = backbone
        self.adapter = adapter
        self.freeze: Freeze = freeze or ("nothing" if adapter is None else "all_but_adapter")
        self.gradient_checkpointing = gradient_checkpointing
        self.vision_cache = VisionCache(image_cache_mb * 1_000_000)
        self.learned_steering = learned_steering
        self.model: nn.Module | None = None
        self.steering_factor_L: nn.Parameter | None = None
        self._parts: tuple[ReaderPartName, ...] | None = None
        self._loaded: Loaded | None = None
        self._description: dict[str, Any] = {}

    def prepare(self, texts: Iterable[str]) -> None:
        """Builds or loads the weights; a second call does nothing."""
        if self._loaded is None:
            self._install(self.backbone.load(texts))

    def describe(self) -> dict[str, Any]:
        """Backbone, adapter and what is frozen, as plain JSON."""
        self._ready()
        return self._description | ({} if self._parts is None else {"parts": list(self._parts)})

    def restore(self, description: dict[str, Any]) -> None:
        """Builds the reader of a description; ValueError where its backbone or adapter is not the configured one.

        The parts that were trained there are those that are trained here, unless `train_only` has said which.
        """
        refuse_contradictions(self._settings(), {k: v for k, v in description.items() if k not in ("backbone", "parts")})
        if self._parts is None and "parts" in description:
            self.train_only(description["parts"])
        if self._loaded is not None and self._description["backbone"] == description["backbone"]:
            return
        device = None if self._loaded is None else self.core.device
        self._install(self.backbone.reload(description["backbone"]))
        if device is not None:
            self.to(device)

    @property
    def processor(self) -> HfProcessor:
        """The reader's processor; RuntimeError before `prepare`."""
        return self._ready().processor

    @property
    def core(self) -> Any:
        """The Hugging Face model itself, adapter layers inside, without an adapter's wrapper around it."""
        return self._ready().model

    @property
    def family(self) -> Family:
        """The traits of the model's family."""
        return family_of(self.core.config.model_type)

    def decoder_layers(self) -> list[nn.Module]:
        """The layers of the language tower, in order: what is sharded over processes one by one."""
        pattern = rf"(?:.*\.)?{self.family.language}\.(?:.*\.)?layers\.\d+"
        return [module for name, module in self.core.named_modules() if re.fullmatch(pattern, name)]

    def token_logp(self, prompts: EncodedPrompts, rows: AnswerRows) -> Tensor:
        """Log-probability in nats of every answer token: float32 (R, L), 0 on padding; see scoring.py.

        Differentiable where gradients are on. In evaluation, what prompts, images and answers have in common runs once, as
        far as that is tested to be exact in the family (families.py): mode `tree`, else `prefill`, else `rows`. In training,
        so does what the prompts of a pack have in common (`packed`), and shared images; see image_path.py for their gradient.
        """
        evaluating = not (self.training or torch.is_grad_enabled())
        treelike = prompts.steering is None and self._tree_takes(prompts)
        with self._computation():
            prompts, features = self._images_of(prompts)
            mode: scoring.ScoringMode = "rows"
            if treelike and (evaluating or prompts.pack_of_prompt):
                features = self._features(prompts) if features is None else features
                mode = "tree" if evaluating else "packed"
            elif evaluating and self.family.shared_prefill and len(rows.ids_RL) > len(prompts.ids_PT):
                mode = "prefill"
            logp_RL = scoring.token_logp(self.core, self.family, prompts, rows, mode, features, self.steering_factor_L)
        if self.training and torch.is_grad_enabled() and not prompts.vision:
            logp_RL = logp_RL + zero_of_image_path(self.core, self.family)
        if self.steering_factor_L is not None:  # a gradient of zero where these prompts were not steered by it
            logp_RL = logp_RL + 0.0 * self.steering_factor_L.sum()
        return logp_RL

    @torch.no_grad()
    def generate(self, prompts: EncodedPrompts, max_new_tokens: int) -> list[list[int]]:
        """Greedy continuation of each prompt, without the prompt; it may end in end-of-turn and padding tokens."""
        processor = self.processor
        with self._computation(), steered(self.core, self.family, prompts, self.steering_factor_L):
            prompts, features = self._images_of(prompts)
            inputs = scoring.model_inputs(self.core, self.family, prompts, features)
            out_PT = self.core.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                eos_token_id=sorted({processor.end_id, processor.tokenizer.eos_token_id} - {None}),
                pad_token_id=processor.pad_id,
            )
        new_PT: list[list[int]] = out_PT[:, prompts.ids_PT.shape[1] :].tolist()
        return new_PT

    @property
    def layer_count(self) -> int:
        """Decoder layers."""
        return layer_count(self.core)

    @torch.no_grad()
    def attention_mass(self, prompts: EncodedPrompts) -> AttentionMass:
        """Where the question's tokens look in each layer, steered if the prompts say so; see attention_mass.py."""
        with self._computation():
            prompts, features = self._images_of(prompts)
            return attention_mass(self.core, self.family, prompts, features, self.steering_factor_L)

    def reference(self) -> AbstractContextManager[None]:
        """Inside, the reader before training: adapter and gradients off; see reference.py. ValueError without an adapter."""
        self._ready()
        if self.adapter is None:
            raise ValueError("the reader trains its own weights, so what it was before is gone: give it an adapter")
        return adapter_off(self)

    def train_only(self, parts: Collection[ReaderPartName]) -> None:
        """Freezes all other parts, now and whenever weights come; see `interfaces.PartedReader`."""
        self._parts = tuple(parts)
        if self._loaded is not None:
            freeze_all_but(self.core, self.family, self._parts)
            self.train(self.training)

    def trained_parts(self) -> Mapping[ReaderPartName, list[nn.Parameter]]:
        """The parameters that are trained, by part."""
        return trained_by_part(self.core, self.family)

    def fingerprint(self) -> str:
        """sha256 over description and weights: trained ones in full; of a large frozen base, a fixed sample."""
        digests: list[Any] = [dict(self._description), *weight_digests(self.core)]
        if self.steering_factor_L is not None:
            digests.append(["steering_factor_L", digest(self.steering_factor_L)])
        return fingerprint(digests)

    def train(self, mode: bool = True) -> HfReader:
        """Training mode for what is trained; frozen parts stay in evaluation mode, so that their dropout stays off."""
        super().train(mode)
        if self.model is None:
            return self
        if trained_image_weights(self.core, self.family):
            self.vision_cache.clear()
        if self.adapter is not None:
            train_adapter_only(self.model, mode)
        elif self.freeze == "all_but_adapter":
            self.model.eval()
        elif self.freeze == "vision" or (self._parts is not None and "vision" not in self._parts):
            for module in self._vision_towers():
                module.eval()
        if self.gradient_checkpointing and mode:
            mark_checkpointed(self.model)
        return self

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As any module's; features of the weights before are forgotten."""
        self.vision_cache.clear()
        return super().load_state_dict(state_dict, strict, assign)

    def _images_of(self, prompts: EncodedPrompts) -> tuple[EncodedPrompts, list[Features] | None]:
        """The prompts, and the features of the images they share; where a family is not tested for that, pixels again."""
        if not prompts.image_places:
            return prompts, None
        if not self.family.answer_tree:
            return scoring.unshared(self.family, prompts), None
        return prompts, self._features(prompts)

    def _features(self, prompts: EncodedPrompts) -> list[Features]:
        return current_features(self.vision_cache, self.core, self.family, prompts, self.training)

    def _tree_takes(self, prompts: EncodedPrompts) -> bool:
        """Images laid out by prompt cannot be told apart unless they are shared."""
        told_apart = bool(prompts.image_places) or not prompts.vision or self.family.image_layout != "prompt"
        return told_apart and supports_tree(self.core, self.family)

    def _install(self, loaded: Loaded) -> None:
        model = loaded.model
        self.vision_cache.clear()
        family = family_of(model.config.model_type)
        self._loaded = loaded
        self._description = {**self._settings(), "backbone": self.backbone.describe(loaded)}
        self.compute_dtype = model.dtype
        _quiet_generation(model)
        if self.gradient_checkpointing:
            enable_checkpointing(model)
        if self.adapter is not None:
            self.model = add_adapter(model, family, self.adapter)
        else:
            self.model = model
            model.requires_grad_(self.freeze != "all_but_adapter")
            if self.freeze == "vision":
                for module in self._vision_towers():
                    module.requires_grad_(False)
        for name, parameter in self.model.named_parameters():
            if never_read(model.config, family, name):
                parameter.requires_grad_(False)
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        if self.learned_steering:
            self.steering_factor_L = nn.Parameter(torch.ones(layer_count(model), device=model.device))
        if self._parts is not None:
            freeze_all_but(self.core, family, self._parts)
        if not family.shared_prefill:
            logger.warning("family %s: scored one row at a time, a shared prefill is untested", model.config.model_type)
        self.train(self.training)

    def _settings(self) -> dict[str, Any]:
        settings = {"adapter": None if self.adapter is None else self.adapter.describe(), "freeze": self.freeze}
        return settings | ({"learned_steering": True} if self.learned_steering else {})  # as checkpoints without it have it

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("the reader has no weights yet: call prepare(texts) or restore(description) first")
        return self._loaded

    def _computation(self) -> AbstractContextManager[Any]:
        """Autocast where the base computes in half precision while its trained weights are float32."""
        if self.compute_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.core.device.type, dtype=self.compute_dtype)

    def _vision_towers(self) -> list[nn.Module]:
        return [m for name, m in self.core.named_modules() if name.rsplit(".", 1)[-1] == self.family.vision]


def _quiet_generation(model: Any) -> None:
    """Greedy decoding: the sampling settings of the checkpoint would only be warned about."""
    for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
        if hasattr(model.generation_config, name):
            setattr(model.generation_config, name, None)
    model.generation_config.do_sample = False
