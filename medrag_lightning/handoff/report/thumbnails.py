"""Small copies of images, each of them once in the page, however often it is shown."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from medrag_lightning.data.images import ImageStore
from medrag_lightning.handoff.report.markup import Html, tag
from medrag_lightning.records import ImageRef

MAX_SIDE_PX, MIN_SIDE_PX = 160, 48
TRIES = 6
SAMPLE = 24  # images that tell how large the others will be
QUALITY = 60
MISSING = "missing"
Encoded = tuple[bytes, int, int]
Progress = Callable[[int, int], None]


class Thumbnails:
    """Numbers images as they are asked for; `sprite` makes the small copies that those numbers stand for.

    Args:
        images: opens them; None where there are none to open.
    """

    def __init__(self, images: ImageStore | None) -> None:
        self.images = images
        self.number: dict[ImageRef, int] = {}
        self.left_out = self.broken = 0

    def show(self, ref: ImageRef | None, words: str) -> Html:
        """The place where an image stands in the page; `words` are read out to who cannot see it."""
        if ref is None or self.images is None:
            return tag("span", "no image", class_="thumb none")
        number = self.number.setdefault(ref, len(self.number))
        shown = tag("use", href=f"#i{number}", width="100%", height="100%")
        return tag("svg", shown, class_="thumb", role="img", aria_label=words)

    def sprite(self, budget_bytes: int, progress: Progress | None = None) -> Html:
        """All that were asked for, as many as fit: smaller ones where there are many, none where the budget is spent."""
        refs = list(self.number)
        side_px = self._side(refs, budget_bytes)
        symbols, spent = [], 0
        with ThreadPoolExecutor() as pool:
            for done, (ref, made) in enumerate(zip(refs, pool.map(lambda ref: self._encode(ref, side_px), refs), strict=True)):
                if made is not None and spent + _in_page(made) > budget_bytes:
                    made, self.left_out = None, self.left_out + 1
                spent += 0 if made is None else _in_page(made)
                symbols.append(_symbol(self.number[ref], made))
                if progress is not None:
                    progress(done + 1, len(refs))
        blank = tag("symbol", tag("rect", width=10, height=10, class_="blank"), id=MISSING, viewBox="0 0 10 10")
        return tag("svg", blank, *symbols, class_="sprite", aria_hidden="true")

    def _side(self, refs: Sequence[ImageRef], budget_bytes: int) -> int:
        """The side at which all images will about fit, as a sample tells."""
        sample, side_px = refs[:: max(1, len(refs) // SAMPLE)], MAX_SIDE_PX
        for _ in range(TRIES):
            made = [one for ref in sample if (one := self._encode(ref, side_px, count=False)) is not None]
            share = 0.92 * budget_bytes * max(1, len(made)) / max(1, len(refs) * sum(map(_in_page, made)))
            if share >= 1 or side_px == MIN_SIDE_PX:
                break
            side_px = max(MIN_SIDE_PX, min(side_px - 4, int(side_px * math.sqrt(share))))
        return side_px

    def _encode(self, ref: ImageRef, side_px: int, count: bool = True) -> Encoded | None:
        """The image as WebP without metadata, neither side longer than `side_px`; None where it cannot be opened."""
        assert self.images is not None
        try:
            image = self.images(ref, least_side_px=side_px)
        except (ValueError, OSError):
            self.broken += count
            return None
        small = Image.frombytes(image.mode, image.size, image.tobytes())  # pixels alone: no EXIF, no profile, no comment
        small.thumbnail((side_px, side_px), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        small.save(buffer, "WEBP", quality=QUALITY, method=1)
        return buffer.getvalue(), *small.size


def _in_page(made: Encoded) -> int:
    return 4 * ((len(made[0]) + 2) // 3) + 120


def _symbol(number: int, made: Encoded | None) -> Html:
    if made is None:
        return tag("symbol", tag("use", href=f"#{MISSING}", width=10, height=10), id=f"i{number}", viewBox="0 0 10 10")
    data, width, height = made
    source = f"data:image/webp;base64,{base64.b64encode(data).decode()}"
    picture = tag("image", href=source, width=width, height=height)
    return tag("symbol", picture, id=f"i{number}", viewBox=f"0 0 {width} {height}")
