"""How well copies of an image are told from look-alikes: recall of planted copies, false alarms, time.

    python scripts/bench/leaks.py                   # the mini-hospital alone
    python scripts/bench/leaks.py --sets all        # with the public sets under MEDRAG_DATA
    python scripts/bench/leaks.py --scale 10000     # seconds for so many held-out images against ten times as many

Each image of a set is compared with all others of the set: what is flagged is a false alarm, or a copy that the set really has.
Pairs of the same bytes, patient or lesion aside, ``--look FOLDER`` writes them side by side, to be looked at; public sets have
true copies, and ``KNOWN`` says how many images of each were seen to have one. Then copies are planted, one change each.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from medrag_lightning.data.audit.image_pass import THUMBNAIL_PX, facts_of
from medrag_lightning.data.audit.perceptual_hash import Thumbnails, is_flat, twins
from medrag_lightning.data.minihospital import MiniHospital
from medrag_lightning.records import ImageRef

Picture = Image.Image
SETS = {
    "cxr": "cxr_pairs/images",
    "roco": "roco_pairs/images",
    "vqa_rad": "vqa_rad/images",
    "ham10000": "ham10000/images",
    "figures": "textbook_figures/images",
    "ham10000_28": "ham10000/ham10000_28.npz",
    "retinamnist": "retinamnist/retinamnist.npz",
    "breastmnist": "breastmnist/breastmnist.npz",
}
KNOWN = {"cxr": 8, "breastmnist": 328, "figures": 2, "retinamnist": 62}
"""Images with a true copy in their set, counted by eye among what is flagged; a doubtful one counts as false."""


def jpeg(quality: int) -> Callable[[Picture], Picture]:
    """Encodes anew."""

    def change(image: Picture) -> Picture:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return change


def scaled(factor: float) -> Callable[[Picture], Picture]:
    """Resizes."""

    def change(image: Picture) -> Picture:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, Image.Resampling.BICUBIC)

    return change


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "jpeg 90": jpeg(90),
    "jpeg 50": jpeg(50),
    "jpeg 30": jpeg(30),
    "half": scaled(0.5),
    "double": scaled(2.0),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "brighter 10%": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker 10%": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "contrast +15%": lambda image: ImageEnhance.Contrast(image).enhance(1.15),
    "contrast -15%": lambda image: ImageEnhance.Contrast(image).enhance(0.85),
    "half, jpeg 50, mirrored": lambda image: ImageOps.mirror(jpeg(50)(scaled(0.5)(image))),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="minihospital", help="names, or all")
    parser.add_argument("--images", type=int, default=2600, help="of a set, at most")
    parser.add_argument("--planted", type=int, default=200, help="copies a change")
    parser.add_argument("--patients", type=int, default=1152, help="of the mini-hospital")
    parser.add_argument("--folder", default="runs/minihospital", help="of the mini-hospital's images")
    parser.add_argument("--look", help="folder for pictures of what is flagged")
    parser.add_argument("--scale", type=int, default=0, help="held-out images of the timing; 0 for none")
    asked = parser.parse_args(argv)
    names = ["minihospital", *SETS] if asked.sets == "all" else asked.sets.split(",")
    told: dict[str, object] = {}
    for name in names:
        images = _load(name, asked)
        told[name] = _measure(name, images, asked.planted, asked.look)
    if asked.scale:
        told["scale"] = _scale(asked.scale, 10 * asked.scale)
    print(json.dumps(told))


def _measure(name: str, images: list[Picture], planted: int, look: str | None) -> dict[str, object]:
    pool = _thumbnails(images)
    began = time.perf_counter()
    best: dict[int, tuple[int, int, float]] = {}
    for twin in _within(pool):
        best.setdefault(twin[0], twin)
    seconds = time.perf_counter() - began
    if look:
        _draw(Path(look) / f"{name}.png", images, list(best.values()))
    false = max(len(best) - KNOWN.get(name, 0), 0)
    recall = {}
    rows = np.random.default_rng(0).permutation(len(images))[:planted]
    for change, make in CHANGES.items():
        found = twins(_thumbnails([make(images[row]) for row in rows]), pool)
        recall[change] = round(len({twin.row for twin in found if twin.pool_row == rows[twin.row]}) / len(rows), 3)
    rate = false / len(images)
    print(f"{name}: {len(images)} images, {len(best)} flagged, of which {false} false ({rate:.2%}), {seconds:.1f} s")
    print("   recall: " + ", ".join(f"{change} {share:.3f}" for change, share in recall.items()))
    return {"images": len(images), "flagged": len(best), "false": false, "false_rate": round(rate, 4), "recall": recall}


def _within(pool: Thumbnails) -> list[tuple[int, int, float]]:
    """Twins inside one set: each half of it against the other, dealt in several ways so that every pair meets."""
    found: dict[tuple[int, int], float] = {}
    rows = np.arange(len(pool))
    for bit in range(max(len(pool) - 1, 1).bit_length()):
        side = (rows >> bit & 1).astype(bool)
        for mine, others in ((rows[side], rows[~side]), (rows[~side], rows[side])):
            for twin in twins(pool.take(mine), pool.take(others)):
                found[int(mine[twin.row]), int(others[twin.pool_row])] = twin.similarity
    return [(a, b, similarity) for (a, b), similarity in sorted(found.items(), key=lambda one: -one[1])]


def _scale(images: int, pool: int) -> dict[str, float]:
    """Seconds to find twins among random thumbnails; one in a hundred is planted."""
    rng = np.random.default_rng(0)
    theirs = Thumbnails(rng.integers(0, 255, (pool, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8), np.full(pool, 256))
    grey = rng.integers(0, 255, (images, THUMBNAIL_PX, THUMBNAIL_PX), np.uint8)
    planted = np.arange(0, images, 100)
    grey[planted] = theirs.grey_NHW[planted, :, ::-1]
    began = time.perf_counter()
    found = twins(Thumbnails(grey, np.full(images, 256)), theirs)
    seconds = time.perf_counter() - began
    print(f"scale: {images:,} images against {pool:,}: {seconds:.1f} s, {len(found)} of {len(planted)} planted copies found")
    return {"images": images, "pool": pool, "seconds": round(seconds, 1), "found": len(found), "planted": len(planted)}


def _load(name: str, asked: argparse.Namespace) -> list[Picture]:
    if name == "minihospital":
        hospital = MiniHospital(seed=1, size=asked.patients, folder=asked.folder)
        hospital.roots()
        file = hospital.image_file
    else:
        file = Path(os.environ.get("MEDRAG_DATA", "../shared/data")) / SETS[name]
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as arrays:
            keys = [key for key in arrays.files if key.endswith("images")]
            images = [Image.fromarray(item).convert("RGB") for key in keys for item in arrays[key]]
    else:
        images = [Image.open(one).convert("RGB") for one in sorted(file.iterdir())]
    keep = sorted(np.random.default_rng(0).permutation(len(images))[: asked.images])
    return [image for image in (images[n] for n in keep) if not is_flat(_thumbnails([image]).grey_NHW[0])]


def _thumbnails(images: Sequence[Picture]) -> Thumbnails:
    greys = [facts_of(ImageRef("", "images", n), image).thumbnail_HW for n, image in enumerate(images)]
    return Thumbnails(np.stack([grey for grey in greys if grey is not None]), np.array([min(one.size) for one in images]))


def _draw(file: Path, images: Sequence[Picture], pairs: Sequence[tuple[int, int, float]]) -> None:
    """Pairs side by side, the least alike first, eight a row."""
    side, across = 96, 8
    sheet = Image.new("RGB", (across * (2 * side + 8), max(-(-len(pairs) // across), 1) * (side + 8)), "white")
    for place, (a, b, _) in enumerate(sorted(pairs, key=lambda pair: pair[2])):
        left, top = place % across * (2 * side + 8), place // across * (side + 8)
        for step, row in enumerate((a, b)):
            sheet.paste(images[row].resize((side, side)), (left + step * side, top))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)


if __name__ == "__main__":
    main()
