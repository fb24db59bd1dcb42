"""What the twelve 2D sets of MedMNIST v2 ask and answer (Yang et al., Scientific Data 2023).

Class names follow the data set's own, in label order, in plain words: where it joins several tissues with a comma, "or" is
written, because a comma also separates choices. In BreastMNIST label 0 is *malignant* and label 1 is "normal or benign".
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """Names of the labels in order, the question, what a document's text starts with, and the modality."""

    class_names: tuple[str, ...]
    question: str
    finding: str
    modality: str
    multi_label: bool = False


_ORGANS = (
    *("bladder", "left femur", "right femur", "heart", "left kidney", "right kidney"),
    *("liver", "left lung", "right lung", "pancreas", "spleen"),
)
_SKIN = (
    "actinic keratoses and intraepithelial carcinoma",
    "basal cell carcinoma",
    "benign keratosis-like lesions",
    "dermatofibroma",
    "melanoma",
    "melanocytic nevi",
    "vascular lesions",
)
_CHEST = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
    *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural thickening", "hernia"),
)
_TISSUE_QUESTION = "which type of tissue does this histology image show?"

TASKS = {
    "breastmnist": Task(
        ("malignant", "normal or benign"),
        "is this breast ultrasound malignant, or normal or benign?",
        "diagnosis",
        "ultrasound",
    ),
    "retinamnist": Task(
        ("0", "1", "2", "3", "4"),
        "which grade of diabetic retinopathy, from 0 to 4, does this fundus photograph show?",
        "diabetic retinopathy grade",
        "fundus photography",
    ),
    "dermamnist": Task(_SKIN, "which skin lesion does this dermatoscopic image show?", "diagnosis", "dermatoscopy"),
    "pneumoniamnist": Task(
        ("normal", "pneumonia"), "does this chest X-ray show a normal chest or pneumonia?", "diagnosis", "X-ray"
    ),
    "octmnist": Task(
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        "what does this retinal OCT image show?",
        "diagnosis",
        "OCT",
    ),
    "pathmnist": Task(
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
        _TISSUE_QUESTION,
        "tissue",
        "histology",
    ),
    "bloodmnist": Task(
        (
            *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte"),
            *("neutrophil", "platelet"),
        ),
        "which blood cell does this microscope image show?",
        "cell",
        "microscopy",
    ),
    "tissuemnist": Task(
        (
            *("collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
            *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments", "thick ascending limb"),
        ),
        "which kidney cortex cell does this microscope image show?",
        "cell",
        "microscopy",
    ),
    "organamnist": Task(_ORGANS, "which organ does this axial CT slice show?", "organ", "CT"),
    "organcmnist": Task(_ORGANS, "which organ does this coronal CT slice show?", "organ", "CT"),
    "organsmnist": Task(_ORGANS, "which organ does this sagittal CT slice show?", "organ", "CT"),
    "chestmnist": Task(_CHEST, "does this chest X-ray show {label}?", "findings", "X-ray", multi_label=True),
}
