"""What ``reranker --help`` says."""

RERANKER = """\
usage: python -m medrag_lightning reranker -c DATA [--output FILE] [--candidates N] [--overwrite]

Fits a small re-ranker of texts (retrieval.word_reranker.WordReranker: no download, no GPU, seconds) to the training questions
that name the documents which answer them (tables.PubMedQa, MiniHospital with texts). It searches them with data.source, learns
to put the right ones among what was found first, and prints what it does on validation and test questions, with intervals.

Where data.source is, or holds, a RerankedSearch with a WordReranker, its pool is searched, and the file is the one that it
will read. Else data.source is the pool: name the file with --output, and put a RerankedSearch around the source after that.

  --output FILE      where the re-ranker goes (default: the path of the configuration's WordReranker)
  --candidates N     how many of what was found are put in order (default: as the configuration says, else 20)
  --overwrite        replaces a file that is there

  python -m medrag_lightning reranker -c data/pubmedqa

The last line is JSON: R@k and MRR by the pool, re-ranked, and their paired difference. It needs the extra `text`.

"""
