"""A bundle: one folder that answers questions as the run did, with nothing in it that runs code. Written, proved, loaded.

bundle.json          schema, versions, what is inside, fingerprints, figures of the proof
SHA256SUMS           of every other file
MODEL_CARD.md        for people; metadata.json for catalogues (as MONAI bundles have it)
system.json          how it answers; system.schema.json says what may stand there
reader/ base/ adapter/ steering.safetensors
retriever/           encoders, heads, fusion weights
identities.key       patient, study and document ids were hashed with this
index/ images/       the evidence, and probes.jsonl probes/: questions with the answers of the run. Or, where the corpus may
                     not leave the house, corpus_pointer.json, and these in a folder NAME-corpus with sums of its own
"""
