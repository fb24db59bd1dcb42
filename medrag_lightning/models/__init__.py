"""Readers and retrievers: Hugging Face models behind the interfaces, tiny ones of the same kind, and the exact scorer."""
