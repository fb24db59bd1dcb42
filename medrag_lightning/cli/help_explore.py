"""What ``explore --help`` says, without the part about config files."""

EXPLORE = """\
usage: python -m medrag_lightning explore -c DATA -c stages/explore [--KEY VALUE ...]

Makes what a query generator learns from (HeteroRAG). An expert, a large vision-language model or a set of rules, sees the image
and the question, not the answer, and writes six searches for each corpus. Each search is made; then the expert, who now knows
the right answer, says whether what was found supports it. Good searches become texts to learn, good and bad ones become pairs.

DATA is a configuration whose data.source asks text corpora by name (`corpus` of LexicalSearch, LiveSearch, GraphSearch, ...).

  --data.init_args.exploration.expert.init_args.backbone.init_args.name NAME
                                              the vision-language model (stages/explore has one), by hub name or folder
  --data.init_args.exploration.folder FOLDER  where everything lies (default runs/exploration)
  --data.init_args.exploration.corpora DICT   what each corpus holds, by its name: '{wiki: an encyclopaedia of ...}'. Default:
                                              every corpus that data.source asks, as research, wiki, book, guideline, graph
  --data.init_args.exploration.queries_per_corpus N    searches written for each corpus (6)
  --data.init_args.exploration.top N                   documents of a search that are judged (2)
  --data.init_args.exploration.most_attempts N         times the expert is asked again for a reply that lacks a tag (5)
  --data.init_args.exploration.targets_per_query N     texts of a question to learn, at most (3)
  --data.init_args.exploration.pairs_per_query N       pairs of a question, at most (3)
  --data.init_args.exploration.pairs HOW               mixed (default, as published), or one_corpus: sides differ in one corpus
  --data.init_args.exploration.batch_size N            questions the expert is given at once (16)
  --data.init_args.max_train_queries N                 so many training questions

In FOLDER: targets/ and pairs/ to train on, replies/ (the expert's own words), statistics.json, and samples.html to look at.
Replies are kept as they come: the same command again goes on where it was interrupted, and asks nothing twice. Another expert,
other prompts or other settings of it need another folder. Questions without a known answer cannot be judged and are left out.
It prints what was written and how often it could not be read, what was found good in each corpus, what was dropped and why,
and, where a generated world knows which documents are right, how well the judge agrees with it.

"""
