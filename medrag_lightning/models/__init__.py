"""Readers and retrievers: Hugging Face models behind the interfaces, tiny ones of the kind, and the exact scorer."""
