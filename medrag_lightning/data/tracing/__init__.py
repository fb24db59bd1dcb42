"""What a reader learns to rearrange and rethink from: traces that a teacher writes in four steps (MIRA, RTRA)."""
