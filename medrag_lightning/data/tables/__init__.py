"""Benchmark files to records, one small parser each. Named in YAML as ``medrag_lightning.data.tables.VqaRad`` and so on.

Every parser reports all bad rows at once with file and line, keeps or counts every row, and puts the data set's name before
patient and study ids. Importing this package needs neither torch nor pandas.
"""

from medrag_lightning.data.tables.caption_pairs import CaptionPairs
from medrag_lightning.data.tables.captioned_images import CaptionedImages
from medrag_lightning.data.tables.captions_as_questions import CaptionsAsQuestions
from medrag_lightning.data.tables.distinct import DistinctCorpus
from medrag_lightning.data.tables.image_folder_metadata import ImageFolderMetadata
from medrag_lightning.data.tables.iu_xray import IuXray
from medrag_lightning.data.tables.medmnist import MedMnist
from medrag_lightning.data.tables.messages import MessagesRows
from medrag_lightning.data.tables.mimic_cxr import MimicCxrReports
from medrag_lightning.data.tables.ontology import Ontology
from medrag_lightning.data.tables.our_jsonl import JsonlCorpus, JsonlQueries
from medrag_lightning.data.tables.pages import Pages
from medrag_lightning.data.tables.path_vqa import PathVqa
from medrag_lightning.data.tables.pubmed_qa import PubMedQa
from medrag_lightning.data.tables.slake import Slake
from medrag_lightning.data.tables.summarised_pages import SummarisedPages
from medrag_lightning.data.tables.text_corpus import TextCorpus
from medrag_lightning.data.tables.vqa_rad import VqaRad

__all__ = [
    "CaptionPairs",
    "CaptionedImages",
    "CaptionsAsQuestions",
    "DistinctCorpus",
    "ImageFolderMetadata",
    "IuXray",
    "JsonlCorpus",
    "JsonlQueries",
    "MedMnist",
    "MessagesRows",
    "MimicCxrReports",
    "Ontology",
    "Pages",
    "PathVqa",
    "PubMedQa",
    "Slake",
    "SummarisedPages",
    "TextCorpus",
    "VqaRad",
]
