"""What ``--help`` says."""

import textwrap

from medrag_lightning.cli.config_files import config_folder, short_names
from medrag_lightning.cli.help_bundles import ANSWER, EXPORT, VERIFY
from medrag_lightning.cli.help_calibrate import CALIBRATE
from medrag_lightning.cli.help_explore import EXPLORE
from medrag_lightning.cli.help_reranker import RERANKER
from medrag_lightning.cli.help_trace import TRACE

_HELP = """\
medrag_lightning - train multimodal medical retrieval-augmented generation, stage by stage. A research tool.

usage: python -m medrag_lightning VERB [-c FILE ...] [--KEY VALUE ...]

verbs:
  check      data, leaks, configuration and machine, before anything is trained: every fault at once, with its line
  fit        train, then test, in one command
  validate   metrics on the validation split
  test       metrics on the test split, beside their controls (no evidence, random evidence, majority)
  predict    answers to queries that may have none yet, or (stages/embed) vectors of the corpus
  index      a search index over an evidence store
  pairs      preference pairs from a score table, to tune a reader on
  explore    what a query generator learns from: searches that an expert writes and judges
  trace      what a reader learns to rearrange and rethink from: four steps that a teacher writes for each question
  reranker   a small re-ranker of texts, fitted to training questions whose right documents are known
  calibrate  how many candidates to read, and when to abstain, so that a risk is kept with a guarantee
  run        a recipe: several of these in a row, each its own process, resumable
  report     what a run learned and how it answers: one HTML file that opens offline
  export     a run as one folder, a bundle, that answers elsewhere without the training code, and proves that it answers alike
  verify     whether such a bundle is whole and unchanged, one flipped bit anywhere
  answer     a bundle, or a run, asked one question, or every question of a file
  --version  which version this is

a first command, needs no data (a small synthetic hospital, a tiny reader, minutes on two cores):
  python -m medrag_lightning fit

your own data and model: name config files; later ones win, and --KEY VALUE wins over files
  python -m medrag_lightning fit -c data/vqa_rad -c my_changes.yaml --trainer.max_epochs 3

all of JOMED on that hospital, in some minutes: contrastive retriever, reader, score table, two distilled heads, one table
  python -m medrag_lightning run jomed
where results go: a new numbered folder under runs/, or --trainer.default_root_dir FOLDER
  config.yaml (everything that was set), metrics.csv, plots, predictions, checkpoints/

is my data sound? every fault with its file and line, and what to do about it
  python -m medrag_lightning check -c my_data.yaml

go on after an interruption (SIGTERM exits with 75, Ctrl-C with 130, both after saving):
  python -m medrag_lightning fit -c runs/NAME-001/config.yaml --ckpt_path last

config files to start from, in {folder} (README.md there says how they fit together):
{names}

more: python -m medrag_lightning VERB --help
"""

_FILES = """\
  -c FILE, --config FILE   a YAML file, or the short name of a shipped one (data/vqa_rad). Repeatable; later ones win:
                           mappings merge, lists replace (write `callbacks+:` to append). base.yaml is always read first,
                           and the default stage and reader where no file names a stage.
  --KEY VALUE              one setting, such as --trainer.max_epochs 3 or --model.init_args.schedule.warmup_share 0.1
  --print_config           the merged configuration, then stop
  --help_all               every setting of the trainer and the common ones (takes some seconds)
"""

_CHECKPOINT = """\
  --ckpt_path last|best|FILE
"""

VERB_HELP = {
    "fit": f"""\
usage: python -m medrag_lightning fit [-c FILE ...] [--KEY VALUE ...]

Trains, then tests the best weights. Without -c: the shipped default (smoke.yaml), which needs no data.

{_FILES}{_CHECKPOINT}\
                           goes on with training: step, optimizer and data position included. `last` without a run
                           folder: the newest run of that name; a file: the run it lies in. Another stage's weights are
                           named by init_from instead.
  --test_after_fit false   train only
  --data.init_args.leaks refuse|warn|ignore
                           what to do when validation or test items share patient, study, image or a near copy of one with
                           training questions: refuse to train (default), warn and train, or do not look
  --seed_everything N      the seed of everything (default 0)
  --trainer.default_root_dir FOLDER
                           the run folder; by default a new one, runs/NAME-001, named after the last -c file
""",
    **{
        verb: f"""\
usage: python -m medrag_lightning {verb} -c runs/NAME-001/config.yaml --ckpt_path best [--KEY VALUE ...]

{what}

{_FILES}{_CHECKPOINT}\
                           which weights; results go to their run folder, unless --trainer.default_root_dir says else
"""
        for verb, what in {
            "validate": "Metrics on the validation split.",
            "test": "Metrics on the test split, beside their controls.",
            "predict": "Predictions, written to the run folder as JSONL.",
        }.items()
    },
    "index": """\
usage: python -m medrag_lightning index --store FOLDER [--kind flat|bf16|hnsw|ivfpq]
       python -m medrag_lightning index -c FILE [-c FILE ...] [--KEY VALUE ...]

Builds the search index of an evidence store.

  --store FOLDER   the store, as fit or predict wrote it
  --kind KIND      flat: exact (default). bf16: from half the memory, fewer than 1 in 1000 neighbours missed, no
                   file to build. hnsw: for a million documents, about 1 in 100 neighbours missed. ivfpq: for many millions
  -c FILE          a configuration whose data.source searches: its store is made of the vectors that `predict` with
                   stages/embed left (or embedded here, if there are none), then indexed as data.source says
""",
    "pairs": f"""\
usage: python -m medrag_lightning pairs -c DATA -c stages/reader_preference [--KEY VALUE ...]

Builds preference pairs from a score table: what a frozen reader got right with all of its evidence, with a part of it, without
any, and with another image in the place of the question's own. `fit` of stages/reader_preference does the same where there are
none yet; this verb shows them before anything is trained. It needs no reader and no accelerator. Pairs that are there already,
of the same scores and rules, are read; those of others are never overwritten.

First score every question under those conditions, of the part of the questions that the reader has not been trained on:
  python -m medrag_lightning predict -c DATA -c stages/reader_preference -c stages/score \
    --model.init_args.init_from READER.ckpt --data.init_args.train_part 2/2 \
    --data.init_args.scoring.conditions '{{none: false, each_candidate: false, knowledge: true}}'
Open questions are judged by the reader's own words: add --model.init_args.generate open

  --data.init_args.knowledge.draws N          evidence sets of a question (the same when scoring)
  --data.init_args.preference.table FOLDER    the score table
  --data.init_args.preference.folder FOLDER   where the pairs lie
  --data.init_args.preference.rules RULES     hkpt_v2 (default), hkpt_v1, rag_pt or kb_pt
  --data.init_args.preference.kinds LIST      only these kinds: '[cross_modality, knowledge_utilisation, knowledge_robustness]'
  --data.init_args.preference.repeats HOW     pairs of the same inputs and words: once (default), weighted or all
  --data.init_args.preference.balance HOW     none (default), or kinds: every kind of pair weighs the same in all
  --data.init_args.preference.max_pairs N     so many training pairs, drawn, to compare rules on the same number
  --trl FOLDER                                also in the format of trl's own DPOTrainer: pairs whose sides are shown the same

It prints how many questions were right under each condition, how many met the condition of each kind of pair, and how many
pairs were kept. In FOLDER: pairs.arrow, statistics.json, samples.html and samples.jsonl to look at, and manifest.json.

{_FILES}""",
    "explore": EXPLORE + _FILES,
    "trace": TRACE + _FILES,
    "reranker": RERANKER + _FILES,
    "calibrate": CALIBRATE + _FILES,
    "report": """\
usage: python -m medrag_lightning report FOLDER [--output FILE] [--queries N] [--compare FOLDER ...]

One HTML file on a run (runs/NAME-001) or on a recipe (runs/jomed): learning curves, metrics with intervals and controls, a
gallery of questions with what was found for them and what each document did to the answer, where evidence helped or hurt,
inconsistent retrieval and the oracle's gap, calibration and risk-coverage with a suggested abstention threshold, fusion
weights, attention and noise curves, worst cases. A part that is absent says why, and which command makes it.

It opens offline in any browser: no script, nothing is loaded. Images are thumbnails. Patients and studies are not named,
questions and documents are called by keyed hashes (the key stays in FOLDER/.report_key). What a text or an image itself shows
stays in it.

  --output FILE        where to (default FOLDER/report.html)
  --queries N          so many questions in the gallery, in turn of each outcome (default 100); 1000 of 5 documents are < 15 MB
  --compare FOLDER ... other runs or recipes beside it, with differences on the same questions
  --show_ids           ids of questions and documents beside their hashes: for your own eyes
  --max_risk SHARE     the suggested threshold lets at most this share of the answers be wrong (default: half of that of
                       answering everything). It is chosen on validation predictions where there are any (verb validate, or
                       the recipe's step of that verb), and kept in abstention.json in the run folder
  --remove_each        where all documents stood in one prompt: the reader reads the gallery's questions again without each
                       document. Its results are kept; a second report takes no time, an interrupted one goes on
  --ckpt_path FILE     the checkpoint that reads again (default: the one of the recipe's step, or the best of the run)

Tables are read as config.yaml names them: set the same environment variables (MEDRAG_DATA) as the run.
""",
    "check": """\
usage: python -m medrag_lightning check [-c FILE ...] [--KEY VALUE ...] [--only PART ...] [--json FILE]
       python -m medrag_lightning check TABLE [TABLE ...]

Finds everything that is wrong before anything is trained, all of it at once, and says what to do about it. Nothing is changed.

  data     rows that a table refuses, repeated ids, answers outside their choices, empty texts; encoding, byte order marks,
           line ends; images that are missing, cut short, damaged, too large, of several frames, misnamed or blank, and DICOM
           files without pixels or in a transfer syntax that is not read; splits that are empty or tiny, classes that training
           never shows, answers that are always the same or contradict each other
  leaks    what train shares with val and test: ids, images (also re-encoded, resized, mirrored), patients, studies, reports
  config   settings that the verbs would refuse
  machine  versions, disk, memory, processors, accelerators
  plan     the memory, time and disk that a run will need, where a config names a model and there are no errors

  -c FILE, --config FILE   as for fit: a YAML file, or the short name of a shipped one (data/vqa_rad). Repeatable. Without -c:
                           the shipped default, which needs no data
  --KEY VALUE              one setting, such as --data.init_args.max_pixels 100000000
  TABLE                    a table without a config: .jsonl, .json, .csv, .tsv, .parquet, .npz or a known folder. Its parser is
                           guessed from its columns, and told
  --only PART ...          these parts alone. `check --only data` needs neither torch nor lightning
  --json FILE              writes all findings, for programs
  --max_findings N         places shown for each kind of finding (default 10; 0: all)
  --workers N              processes that open images (default: one a processor)
  --no_cache               looks at every image anew. Else what is known of sound images is kept in data.init_args.cache_folder
                           (digests and thumbnails of 64 pixels), by path, size and time of change

Findings are errors (training would stop, or learn something false), warnings (look at them) or notes. They name file and line
of a row, and quote no id, no text and no name of an image. Exit code: 1 where there are errors, 2 where `check` itself was
called wrongly, else 0.

  python -m medrag_lightning check -c data/vqa_rad
  python -m medrag_lightning check train.jsonl test.jsonl --only data
  python -m medrag_lightning check -c my_data.yaml --json findings.json --max_findings 0
""",
    "answer": ANSWER,
    "export": EXPORT,
    "verify": VERIFY,
    "run": """\
usage: python -m medrag_lightning run RECIPE [--VARIABLE VALUE ...] [--folder FOLDER] [--dry_run]

Runs the steps of a recipe in order: a YAML file, or a shipped one by its short name (jomed). Each step is a command of its
own and leaves its results, checkpoints and log.txt in FOLDER/STEP. The same command again goes on where the last one stopped:
steps that are done are not run again, an unfinished fit goes on from its last checkpoint.

  --VARIABLE VALUE       another value for a variable of the recipe: --data data/retinamnist --reader readers/qwen2_vl
  --set STEP.KEY=VALUE   another argument for a step: --set reader.trainer.max_epochs=3. Repeatable
  --folder FOLDER        where everything goes (default runs/NAME, after the recipe's name)
  --from STEP            runs that step and those after it anew; what was there is put aside as STEP.before-1
  --only STEP            runs that step alone; those before it must be done
  --dry_run              prints each step's command, to copy into a shell, and runs nothing
  --devices N            devices a step; without it, what the recipe or base.yaml says
  --launcher python|torchrun
                         who starts the processes of a step: Lightning itself (default), or torchrun
                         SLURM: srun python -m medrag_lightning run RECIPE, one task a device; rank 0 decides, all follow

A step whose config files, arguments or earlier steps have changed since it ran is not run again unasked: the message says
what has changed, and to add --from STEP. Exit codes are those of the step: 75 stopped by SIGTERM, 130 by Ctrl-C.
""",
}


def help_text() -> str:
    """The program's help, with the config files that are there."""
    names = textwrap.fill("  ".join(short_names()), width=100, initial_indent="  ", subsequent_indent="  ")
    return _HELP.format(folder=config_folder(), names=names)
