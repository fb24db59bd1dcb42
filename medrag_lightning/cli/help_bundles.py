"""What ``answer --help``, ``export --help`` and ``verify --help`` say."""

ANSWER = """\
usage: python -m medrag_lightning answer BUNDLE --question TEXT [--image FILE] [--choices A,B,...]
       python -m medrag_lightning answer BUNDLE --jsonl IN.jsonl --output OUT.jsonl [--images FOLDER]
       python -m medrag_lightning answer RUN --ckpt_path best|last|FILE [--generator RUN] ... as above

Asks a bundle, as the verb `export` writes it, and tells the answer, how sure the system is, whether it abstains and why, what a
query generator asked the corpora, the evidence with weights and licences, what to be wary of, and how long each step took. It
needs the extra `runtime` alone: pip install 'medrag-lightning[runtime]'. A research tool: nothing it says may guide the care of
a patient. A run (fit or test of stage reader_raft) is asked in the same way before it is exported, with the training packages.

  --question TEXT        the question
  --image FILE           its image: PNG, JPEG, TIFF, WebP, DICOM, or an item of an array, arrays.npz#images/3
  --choices A,B,...      the answers that are allowed ('["a, b", "c"]' where they hold commas); without it, free text
  --patient_id ID        evidence of this patient is left out (--study_id likewise). Copies of the image always are.
                         Write ids as the tables of the corpus do: DATASET:ID. They are never printed
  --modality NAME        of the image, as the corpus calls it (CT): for a system whose searches go by a given modality
  --history FILE         what was said before in the same dialogue: JSON, a list of [question, answer], first turn first. Used
                         by a system that rewrites questions before it searches, or whose prompt shows earlier turns
  --format text|json     lines to read (default), or one line of JSON
  --abstain_below P      abstains from a closed answer whose probability is smaller: a number in [0, 1], none, or bundle
                         (default: the bundle's own threshold)
  --device DEVICE        cpu (default), cuda, cuda:1

  --jsonl IN.jsonl       a question a line: question, and where wanted id, image, choices (a list), patient_id, study_id,
                         modality, history
  --output OUT.jsonl     a line for every line, in the same order; a bad one gets a row with `error` in it, the others their
                         answers. The same command again goes on where it was interrupted
  --images FOLDER        image names are relative to it, and none may lead out of it (default: the folder of IN.jsonl)

Of a run alone:
  --ckpt_path WHICH      whose weights the reader has: best, last, or a file
  --generator RUN        the query generator whose searches the run was tested with; --generator_ckpt_path WHICH: its weights
                         (default best); --without_generator: search with the question itself, which the run never tested
  --calibration FILE     answers as the verb `calibrate` found to keep a risk: so many candidates, without searching, or not at
                         all. It must be of this run. A bundle has its own (export --calibration)

In Python:
  from medrag_lightning import load_bundle
  system = load_bundle("BUNDLE")
  print(system.ask("is there an effusion?", image="film.png", choices=["yes", "no"]))
"""
EXPORT = """\
usage: python -m medrag_lightning export RUN --ckpt_path best|last|FILE --output FOLDER [--reader merged|adapter|both]
         [--corpus include|pointer] [--dtype float32|bfloat16] [--system NAME] [--fusion FILE]
         [--generator RUN [--generator_ckpt_path best|last|FILE]] [--without_generator]
         [--abstain P|report | --calibration FILE] [--probes N] [--onnx] [--overwrite] [--device NAME]

Writes a bundle of a run of stage reader_raft: reader, encoders, evidence, prompt, steering and fusion, as safetensors, JSON,
Arrow and FAISS; a model card; sums of all files. Then it asks the bundle some test questions in a clean process, and keeps
it only if answers and evidence are those of the run: log-probabilities within 1e-5 nats (float32) or 1e-3 (bfloat16).

  RUN               the folder of a run (fit or test), or its config.yaml; beside a test's config stand the figures of the card
  --ckpt_path WHICH whose weights the reader has: best, last, or a file (of reader_raft, or of reader_preference over it)
  --output FOLDER   the bundle; --overwrite replaces one that is there, in one step
  --reader HOW      merged: a plain Hugging Face folder, adapters made part of it (default). adapter: a PEFT adapter, and its
                    base unless that is a published model. both: the merged reader, and the adapter beside it
  --corpus HOW      include: documents and images in the bundle (default). pointer: in a folder FOLDER-corpus of their own, with
                    the probe questions; the bundle names its fingerprint, and need not be where patients' data are
  --dtype TYPE      of the merged reader (default: what the run computed in)
  --probes N        how many questions prove it (default 8); they stay in it, with images, beside the evidence
  --system NAME     one of the run's data.rivals, with its search and its steering, in place of data.source
  --fusion FILE     the fusion.yaml that `validate` wrote, in place of the run's own settings
  --generator RUN   the query generator whose searches the run was tested with (data.searches.table): the run that wrote them,
                    or its fit; it travels in the bundle. --generator_ckpt_path: its weights (default best); of the stage
                    query_generator, or of reader_preference over it. Without it such a run is refused, unless
                    --without_generator says that questions shall be searched with themselves, which it never tested
  --abstain P       an answer of a lower probability is withheld; `report`: as the run's report suggests
  --calibration FILE  of the verb `calibrate`, for this run: how many candidates are read, when none are searched for, and when
                    it abstains, with its guarantee (in place of --abstain). Refused where the bundle's reader is not the one
                    that was calibrated: where merging or --dtype moves a probe's log-probability by more than 1e-5 nats
  --onnx            also the encoders' towers and heads as ONNX, each compared with torch by onnxruntime
  --device NAME     where the probes are answered (default cpu)

Ids of patients, studies and documents are replaced by keyed hashes. Texts and pixels are as they were: treat a bundle with
evidence as patient data. Used so:
  from medrag_lightning import load_bundle
  print(load_bundle("FOLDER").ask("which grade is it?", image="film.png", choices=["one", "two"]))
"""
VERIFY = """\
usage: python -m medrag_lightning verify BUNDLE [--corpus FOLDER]

Looks at every file of a bundle: changed, missing or added ones (SHA256SUMS), links, pickles and programs under any name,
JSON that is not as its schema says, headers of tensors that lie. One flipped bit anywhere is found. Prints what is inside,
or every fault; exit code 1 where there is one. Needs neither torch nor a GPU.

  --corpus FOLDER   where the evidence lies, if the bundle only points to it (default: BUNDLE-corpus)

It tells damage from what was exported. It is no signature: keep SHA256SUMS of what you hand on, or sign it.
"""
