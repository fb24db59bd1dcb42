"""What ``trace --help`` says, without the part about config files."""

TRACE = """\
usage: python -m medrag_lightning trace -c DATA -c stages/trace [--KEY VALUE ...]

Makes what a reader learns to rearrange and rethink from (MIRA). For each question, evidence is found through data.source and
numbered; then a teacher, a large vision-language model or a set of rules, writes four steps:
  rearrange  what helps of the evidence, word for word, the most useful first; at least one text and one image
  initial    an answer from that
  rethink    what is wrong or right with it, by the evidence
  final      the answer for good
The teacher is not told the right answer (gold: blind). With gold: aware it is, in the last step alone, as published.

  --data.init_args.exploration.traces.teacher.init_args.backbone.init_args.name NAME
                                              the vision-language model (stages/trace has one), by hub name or folder
  --data.init_args.exploration.traces.folder FOLDER      where everything lies (default runs/traces)
  --data.init_args.exploration.traces.gold HOW           blind (default), or aware
  --data.init_args.exploration.traces.splits LIST        whose questions: '[train, val]' (default)
  --data.init_args.exploration.traces.most_attempts N    times a step is asked again that failed or cannot be used (3)
  --data.init_args.exploration.traces.batch_size N       questions the teacher is given at once (8)
  --data.init_args.exploration.traces.samples N          questions written out to look at (20)
  --data.init_args.max_train_queries N                   so many training questions

In FOLDER: traces.arrow and manifest.json to train on, replies/ (the teacher's own words), statistics.json, and samples.html to
look at. Replies are kept as they come: the same command again goes on where it was interrupted, and asks nothing twice. A
question whose step failed for good has no trace, and is counted with the reason; nothing that was said of it is learned. An
image that cannot be opened leaves its question out, so that numbers never shift. To make calls that failed once more, delete
traces.arrow and manifest.json and give the same command: the replies stay.
It prints calls, failures and exclusions by step, how much evidence is kept by type of question, how often the first and the
last answer are right, and, where a generated world knows it, how much right and misleading evidence is kept.

"""
