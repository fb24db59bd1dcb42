"""Preference pairs on disk: their schema, and how they are written and read. Standard library and Arrow only.

    pairs.arrow       one row a pair, training pairs first, in the order in which they were built
    statistics.json   how many questions fell in each condition, how many pairs of each kind, what was left out
    manifest.json     what the pairs depend on (`identity`), counts, size and sha256 of `pairs.arrow`; written last

Beside them may lie samples to look at, and the pairs in another format. A pair names its query and its documents by their ids
and holds no patient or study ids and no images; it does hold answers. The same pairs always make the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from medrag_lightning.artifacts import fingerprint, read_manifest, write_bytes, write_manifest
from medrag_lightning.records import Condition, ImageShown, Knowledge, PairKind, Preference, PreferenceSide, Split

SCHEMA = 1
MANIFEST, PAIRS, STATISTICS = "manifest.json", "pairs.arrow", "statistics.json"
_SIDE = {
    "evidence_ids": pa.list_(pa.string()),
    "image": pa.string(),
    "image_of": pa.string(),
    "corruption": pa.string(),
    "answer": pa.string(),
    "reference_nats": pa.float64(),
    "tokens": pa.int32(),
}
SIDES = ("chosen", "rejected")
ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "query_id", "split", "kind", "knowledge")),
        ("weight", pa.float64()),
        *((f"{side}_{name}", kind) for side in SIDES for name, kind in _SIDE.items()),
    ]
)
NOTE = "names queries and documents by id; no patient or study ids, no images"
COMMAND = "python -m medrag_lightning pairs -c DATA -c stages/reader_preference --data.init_args.preference.folder {folder}"
OTHER_FOLDER = "Give another folder (--data.init_args.preference.folder)"


@dataclass(frozen=True, slots=True)
class PreferenceSet:
    """Preference pairs as they lie in `folder`.

    Attributes:
        folder: where they lie.
        pairs: of each split that pairs were built for, in the order in which they were built.
        identity: what they depend on, by name.
        statistics: how they came about; plain JSON.
    """

    folder: Path
    pairs: Mapping[Split, Sequence[Preference]]
    identity: Mapping[str, Any]
    statistics: Mapping[str, Any]


def write_preferences(
    folder: str | Path,
    pairs: Mapping[Split, Sequence[Preference]],
    identity: Mapping[str, Any],
    statistics: Mapping[str, Any],
) -> None:
    """Writes pairs to `folder`, the manifest last. Several processes that write the same pairs do not disturb each other.

    The manifest names what this process wrote, not what lies there by then: where another run has written other pairs into the
    same folder meanwhile, reading says so instead of giving the ones under the name of the others.

    Raises:
        ValueError: `folder` holds pairs of another identity, or two pairs have one id; nothing is touched.
    """
    folder = Path(folder)
    check_preferences(folder, identity)
    content = _as_arrow(pairs)
    told = (json.dumps(statistics, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    write_bytes(folder / PAIRS, content)
    write_bytes(folder / STATISTICS, told)
    manifest = {
        "schema": SCHEMA,
        "identity": identity,
        "pairs": {str(split): len(mine) for split, mine in pairs.items()},
        "file": {"name": PAIRS, "bytes": len(content), "sha256": sha256(content).hexdigest()},
        "statistics_sha256": sha256(told).hexdigest(),
        "note": NOTE,
    }
    write_manifest(folder / MANIFEST, manifest)


def read_preferences(folder: str | Path) -> PreferenceSet:
    """The pairs in `folder`.

    Raises:
        ValueError: there are none, writing them did not finish, or their bytes are not those that were written.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    content = _undamaged(folder / PAIRS, manifest["file"]["sha256"])
    statistics = json.loads(_undamaged(folder / STATISTICS, manifest["statistics_sha256"]))
    rows = pa.ipc.open_file(pa.BufferReader(content)).read_all().to_pylist()
    of_split: dict[Split, list[Preference]] = {Split(name): [] for name in manifest["pairs"]}
    for row in rows:
        of_split[Split(row["split"])].append(_pair(row))
    return PreferenceSet(folder, of_split, manifest["identity"], statistics)


def is_there(folder: str | Path) -> bool:
    """Whether `folder` holds a finished set of pairs."""
    return (Path(folder) / MANIFEST).is_file()


def check_preferences(folder: str | Path, identity: Mapping[str, Any]) -> None:
    """ValueError that names what differs, if `folder` holds pairs that depend on something else than `identity` says.

    Names that `identity` lacks are not compared. A folder without finished pairs is accepted.
    """
    folder = Path(folder)
    if not is_there(folder):
        return
    made, mine = dict(_leaves(_manifest(folder)["identity"])), dict(_leaves(json.loads(json.dumps(identity))))
    compared = {name.split(".")[0] for name in mine}
    made = {name: value for name, value in made.items() if name.split(".")[0] in compared}
    wrong = [name for name in sorted({*made, *mine}) if made.get(name) != mine.get(name)]
    if wrong:
        told = "; ".join(f"{name} is {_short(made.get(name))} there, {_short(mine.get(name))} here" for name in wrong)
        raise ValueError(f"{folder} holds preference pairs of something else: {told}. {OTHER_FOLDER}. Nothing was changed.")


def pair_id(query_id: str, kind: PairKind, knowledge: Knowledge | None, sides: Sequence[tuple[Condition, str]]) -> str:
    """What a pair is named after: equal for equal pairs, in this run, in every other and whatever rules made them.

    Args:
        query_id: of its query.
        kind: what it teaches.
        knowledge: the evidence it is about.
        sides: what is shown, and the answer: chosen, then rejected.
    """
    shown = [[list(c.evidence_ids), str(c.image), c.image_of, c.corruption, answer] for c, answer in sides]
    return fingerprint([query_id, str(kind), str(knowledge), shown])[:24]


def _undamaged(path: Path, named: str) -> bytes:
    """What lies there, read once, so that what is checked is what is given."""
    content = path.read_bytes() if path.is_file() else b""
    if sha256(content).hexdigest() != named:
        raise ValueError(f"{path} is damaged: not what {MANIFEST} names; delete {path.parent} and build the pairs again")
    return content


def _manifest(folder: Path) -> dict[str, Any]:
    if not is_there(folder):
        begun = "are not finished" if folder.is_dir() and any(folder.iterdir()) else "do not exist"
        raise ValueError(f"the preference pairs {folder} {begun}: build them with: {COMMAND.format(folder=folder)}")
    manifest = read_manifest(folder / MANIFEST, f"delete {folder} and build the pairs again")
    if manifest.get("schema") != SCHEMA:
        raise ValueError(f"{folder / MANIFEST}: schema {manifest.get('schema')!r}, this version reads {SCHEMA}. {OTHER_FOLDER}")
    return manifest


def _as_arrow(pairs: Mapping[Split, Sequence[Preference]]) -> bytes:
    rows = [_row(split, pair) for split, mine in pairs.items() for pair in mine]
    names = [row["id"] for row in rows]
    if len(set(names)) != len(names):
        raise ValueError(f"two preference pairs have one id: {len(names)} pairs, {len(set(names))} ids")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, ROWS) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema=ROWS))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _row(split: Split, pair: Preference) -> dict[str, Any]:
    row: dict[str, Any] = {"id": pair.id, "query_id": pair.query_id, "split": str(split), "kind": str(pair.kind)}
    row |= {"knowledge": None if pair.knowledge is None else str(pair.knowledge), "weight": pair.weight}
    for name, side in zip(SIDES, (pair.chosen, pair.rejected), strict=True):
        told = {key: getattr(side.condition, key) for key in ("evidence_ids", "image_of", "corruption")}
        told |= {"image": str(side.condition.image)}
        told |= {key: getattr(side, key) for key in ("answer", "reference_nats", "tokens")}
        row |= {f"{name}_{key}": value for key, value in told.items()}
    return row


def _pair(row: Mapping[str, Any]) -> Preference:
    sides = []
    for name in SIDES:
        told = {key: row[f"{name}_{key}"] for key in _SIDE}
        shown = Condition(tuple(told["evidence_ids"]), ImageShown(told["image"]), told["image_of"], told["corruption"])
        sides.append(PreferenceSide(shown, told["answer"], told["reference_nats"], told["tokens"]))
    knowledge = None if row["knowledge"] is None else Knowledge(row["knowledge"])
    return Preference(row["id"], row["query_id"], PairKind(row["kind"]), knowledge, sides[0], sides[1], row["weight"])


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting below `value` by its dotted name."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
