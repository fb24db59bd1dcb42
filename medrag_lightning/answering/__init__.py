"""One question at a time: retrieve, assemble, read, fuse, cite. A research tool, not a medical device."""

from medrag_lightning.answering.answer import Answer, Citation
from medrag_lightning.answering.answerer import Answerer

__all__ = ["Answer", "Answerer", "Citation"]
