"""The evidence store on disk, the index over it, and the sources of candidates."""
