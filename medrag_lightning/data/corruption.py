"""Images changed on purpose, to ask a reader how much it relies on them. The same name always makes the same picture."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image, ImageFilter

from medrag_lightning.artifacts import counter_rng

DEFAULTS = {"blank": None, "replace": None, "noise": 0.5, "blur": 0.05}
_FORM = re.compile(r"(?P<name>[a-z]+)(?::(?P<amount>[0-9.]+))?")


def corruption_name(text: str) -> str:
    """A corruption with its amount spelt out, as `Condition.corruption` keeps it: ``noise`` becomes ``noise:0.5``.

    ``blank``: mid grey. ``replace``: pure noise, N(0, 1) clipped to the range 0 (black) to 1 (white), as in MMed-RAG's code;
    nothing of the image is left but its size. ``noise:A``: Gaussian noise of standard deviation A, in shares of the full range.
    ``blur:A``: Gaussian blur of standard deviation A, in shares of the longer side.

    Raises:
        ValueError: for an unknown name, or an amount that is missing its meaning.
    """
    match = _FORM.fullmatch(text)
    name = match["name"] if match else text
    if match is None or name not in DEFAULTS:
        raise ValueError(f"corruption {text!r} is not known; give blank, replace, noise:AMOUNT or blur:AMOUNT")
    default, amount = DEFAULTS[name], match["amount"]
    if default is None:
        if amount is not None:
            raise ValueError(f"corruption {text!r}: {name} takes no amount")
        return name
    try:
        value = default if amount is None else float(amount)
    except ValueError as error:
        raise ValueError(f"corruption {text!r}: {amount!r} is not a number") from error
    if value <= 0:
        raise ValueError(f"corruption {text!r}: the amount must be positive")
    return f"{name}:{value:g}"


def corrupted(image: Image.Image, corruption: str, query_id: str) -> Image.Image:
    """`image` changed as `corruption` (a `corruption_name`) says; its noise depends on the query and the name alone."""
    name, _, amount = corruption.partition(":")
    if name == "blank":
        return Image.new("RGB", image.size, (128, 128, 128))
    if name == "blur":
        return image.filter(ImageFilter.GaussianBlur(float(amount) * max(image.size)))
    pixels = np.asarray(image.convert("RGB"), np.float32)
    noise = counter_rng(0, "corruption", corruption, query_id).standard_normal(pixels.shape, np.float32)
    if name == "replace":
        return Image.fromarray(np.rint(255 * np.clip(noise, 0, 1)).astype(np.uint8))
    return Image.fromarray(np.clip(np.rint(pixels + 255 * float(amount) * noise), 0, 255).astype(np.uint8))
