"""What ``calibrate --help`` says."""

CALIBRATE = """\
usage: python -m medrag_lightning calibrate -c DATA [--table FOLDER] --ks K [K ...] --alpha A --delta D --output FILE
         [--risk NAME] [--split val] [--thresholds P ...] [--without_from P ...] [--procedure NAME] [--objective NAME]
         [--fallback NAME] [--evidence HOW] [--fusion FILE] [--plot PNG|none] [--overwrite] [--KEY VALUE ...]

Chooses how many candidates a reader is given, so that a risk is at most A with probability 1 - D (RULE; Learn-then-Test,
Hoeffding-Bentkus p-values). With thresholds it also chooses when to abstain, and when to answer without searching. It reads
a score table; no reader runs. DATA must have the source, corpus and questions of that table. First score:

  python -m medrag_lightning predict -c DATA -c stages/score --model.init_args.init_from READER.ckpt \\
    --data.init_args.scoring.splits '[val]' \\
    --data.init_args.scoring.conditions '{none: true, each_candidate: false, first: [1, 2, 4]}'

  --table FOLDER        the score table (default: the configuration's data.scoring.table)
  --ks K ...            numbers of candidates to choose among, 0 for none (k counts through the channels in their order)
  --alpha A --delta D   the risk that must not be exceeded, and how likely the guarantee may fail; there is no default
  --output FILE         where the calibration goes (JSON); its plot lies beside it, unless --plot says else
  --risk NAME           error (default); hallucinated_finding or missed_finding (questions that offer a --positive answer,
                        yes by default); doubt (1 - probability of the right choice); lost_words (1 - --open_metric)
  --open_metric exact_match|token_f1|rouge_l   --open_threshold T     when free text is right (exact_match, 1)
  --split NAME          whose questions: val (default), test, train. None that trained the reader or chose its checkpoint
                        keeps the promise to the letter: keep some aside
  --thresholds P ...    probabilities to choose among, below which an answer is abstained from (0: never)
  --without_from P ...  probabilities to choose among, from which the answer without evidence is given at once
  --procedure NAME      bonferroni (default): delta is divided among all choices. fixed_sequence: as listed, until one fails.
                        graphical: what holds gives its share to its neighbours. learned_sequence: --ordering_share of the
                        patients (0.3) say in which order the others test: best for many choices
  --objective NAME      of the choices that hold, the one of least risk, most coverage, or fewest candidates
                        (default: coverage with thresholds, else risk)
  --fallback NAME       where none holds: least_risk (default; said aloud: no guarantee), or abstain
  --evidence HOW        all_in_one_prompt (default), or one_per_prompt: candidates read alone, mixed as --fusion FILE says
                        (the fusion.yaml that `validate` wrote); then score each_candidate: true in place of first

Questions of one patient are averaged: n counts patients, where they are known. Prints every choice with its risk, an upper
bound, and how many questions it would take. The last line is JSON.

Used by retrieval.selected.SelectedSearch (rule: {rule: calibrated, calibration: FILE}) for a number of candidates alone, and by
Answerer(..., calibration=Calibration.read(FILE)) for all of it. Both refuse a calibration of another search; the answerer also
one of another reader, prompt or corpus.

"""
