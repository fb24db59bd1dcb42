"""The fourteen observations of chest radiographs that CheXpert labels (Irvin et al., AAAI 2019), in words that reports use.

The words are ours and short; they are neither CheXpert's nor CheXbert's labeller, and no score of theirs follows from them.
"""

CHEST: dict[str, list[str]] = {
    "atelectasis": ["atelectasis", "atelectases", "atelectatic", "collapse", "volume loss"],
    "cardiomegaly": [
        "cardiomegaly",
        "enlarged heart",
        "cardiac enlargement",
        "heart is enlarged",
        "enlarged cardiac silhouette",
    ],
    "consolidation": ["consolidation", "consolidations", "consolidated", "air bronchogram", "air bronchograms"],
    "edema": ["edema", "oedema", "vascular congestion", "pulmonary congestion"],
    "enlarged mediastinum": ["widened mediastinum", "enlarged mediastinum", "mediastinal widening"],
    "fracture": ["fracture", "fractures", "fractured"],
    "lung lesion": ["nodule", "nodules", "mass", "masses", "cavity", "cavitation", "metastases", "tumor", "tumour"],
    "lung opacity": [
        "opacity",
        "opacities",
        "opacification",
        "infiltrate",
        "infiltrates",
        "infiltration",
        "ground-glass",
        "shadowing",
    ],
    "normal": ["normal chest", "no acute disease", "no abnormality", "unremarkable"],
    "pleural effusion": ["effusion", "effusions", "pleural fluid", "hydrothorax"],
    "pleural other": ["pleural thickening", "pleural plaque", "pleural plaques"],
    "pneumonia": ["pneumonia", "pneumonias", "bronchopneumonia"],
    "pneumothorax": ["pneumothorax", "pneumothoraces"],
    "support device": ["tube", "catheter", "pacemaker", "central line", "intubated", "sternotomy wires"],
}
