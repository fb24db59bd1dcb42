"""Which planted copies `image_copies` finds for removal, and what it would remove wrongly.

    python scripts/bench/copies.py                            # the mini-hospital: look-alikes that differ in noise alone
    python scripts/bench/copies.py --sets cxr,roco,vqa_rad,ham10000,ham10000_28,breastmnist

Of each set first its own images are compared (`own`: copies that it has, to be looked at with ``leaks.py --look``), then one
changed copy of some images is added at a time: `found` is the share whose original is recognised, `wrong` counts pairs of the
set's own images that were none before.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from leaks import CHANGES, Picture, _load, _thumbnails, jpeg, scaled  # type: ignore[import-not-found]
from PIL import ImageEnhance

from medrag_lightning.data.audit.image_copies import DISTANCE, image_copies
from medrag_lightning.data.audit.perceptual_hash import Thumbnails


def brighter(factor: float) -> Callable[[Picture], Picture]:
    """Multiplies grey levels; what is too bright burns out."""
    return lambda image: ImageEnhance.Brightness(image).enhance(factor)


PLANTED: dict[str, Callable[[Picture], Picture]] = {
    "half": scaled(0.5),
    "three quarters": scaled(0.75),
    "double": scaled(2.0),
    "brighter 10%": brighter(1.1),
    "brighter 30%": brighter(1.3),
    "darker 30%": brighter(0.7),
    "contrast +15%": CHANGES["contrast +15%"],
    "jpeg 90": jpeg(90),
    "jpeg 50": jpeg(50),
    "half, brighter 30%, jpeg 90": lambda image: jpeg(90)(brighter(1.3)(scaled(0.5)(image))),
}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints a table and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="minihospital", help="names of leaks.py, with commas")
    parser.add_argument("--images", type=int, default=1200, help="of a set, at most")
    parser.add_argument("--planted", type=int, default=100, help="copies a change")
    parser.add_argument("--distance", type=float, default=DISTANCE)
    parser.add_argument("--patients", type=int, default=576, help="of the mini-hospital")
    parser.add_argument("--folder", default="runs/minihospital", help="of the mini-hospital's images")
    asked = parser.parse_args(argv)
    told = {name: _measure(_load(name, asked), asked.planted, asked.distance) for name in asked.sets.split(",")}
    for name, figures in told.items():
        print(f"{name}: {figures['images']} images, {figures['own']} own copies, {figures['wrong']} wrong")
        print("   found: " + ", ".join(f"{change} {share:.2f}" for change, share in figures["found"].items()))
    print(json.dumps(told))


def _measure(images: list[Picture], planted: int, distance: float) -> dict[str, Any]:
    pool, count = _thumbnails(images), len(images)
    own = {(twin.row, twin.pool_row) for twin in image_copies(pool, distance)}
    rows = np.random.default_rng(0).permutation(count)[:planted]
    found, wrong = {}, 0
    for change, make in PLANTED.items():
        copies = _thumbnails([make(images[row]) for row in rows])
        greys, sides = zip(*((one.grey_NHW, one.side_px_N) for one in (pool, copies)), strict=True)
        twins = image_copies(Thumbnails(np.concatenate(greys), np.concatenate(sides)), distance)
        right = {twin.row for twin in twins if twin.row >= count and twin.pool_row == rows[twin.row - count]}
        found[change] = round(len(right) / len(rows), 3)
        wrong += len({(twin.row, twin.pool_row) for twin in twins if twin.row < count} - own)
    return {"images": count, "own": len(own), "wrong": wrong, "found": found}


if __name__ == "__main__":
    main()
