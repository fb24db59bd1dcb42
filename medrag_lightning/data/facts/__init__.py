"""Extractors of what reports state. Named in YAML as ``medrag_lightning.data.facts.TermFacts`` and so on."""

from medrag_lightning.data.facts.labels import LabelFacts
from medrag_lightning.data.facts.models import ModelFacts
from medrag_lightning.data.facts.terms import TermFacts
from medrag_lightning.data.facts.words import WordFacts

__all__ = ["LabelFacts", "ModelFacts", "TermFacts", "WordFacts"]
