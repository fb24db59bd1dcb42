"""Pages of text as sections: HTML, Markdown and plain text, read without a network (MIRA, text knowledge base)."""
