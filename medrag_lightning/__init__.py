"""Train multimodal medical retrieval-augmented generation with PyTorch Lightning. A research tool, not a medical device."""

__version__ = "0.1.0"
