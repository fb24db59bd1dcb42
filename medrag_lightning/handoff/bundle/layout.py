"""Names, limits and versions of a bundle. Standard library only."""

from __future__ import annotations

SCHEMA = 1
CLASS = "research tool, not a medical device"
BUNDLE, SUMS, SYSTEM, SYSTEM_SCHEMA = "bundle.json", "SHA256SUMS", "system.json", "system.schema.json"
METADATA, CARD, POINTER = "metadata.json", "MODEL_CARD.md", "corpus_pointer.json"
READER, BASE, ADAPTER, STEERING = "reader", "base", "adapter", "steering.safetensors"
RETRIEVER, INDEX, IMAGES = "retriever", "index", "images"
GENERATOR = "generator"
CANDIDATE_RERANKER = "candidate_reranker.safetensors"
KEY, PROBES, PROBE_IMAGES = "identities.key", "probes.jsonl", "probes"
CORPUS_SUFFIX = "-corpus"
NEEDED = (BUNDLE, SUMS, SYSTEM, SYSTEM_SCHEMA, METADATA, CARD)

TOLERANCE_NATS = {"float32": 1e-5, "bfloat16": 1e-3}
"""How far log-probabilities of the loaded bundle may lie from those of the training side."""

NOT_AT_RUN_TIME = (
    *("lightning", "pytorch_lightning", "trl", "torchmetrics", "jsonargparse", "matplotlib", "sklearn", "rich", "datasets"),
)
"""Packages that a bundle answers without; `peft` too, unless the reader is an adapter."""
