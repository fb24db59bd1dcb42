"""A first pass over all vectors in bfloat16: which rows can be among a query's best, by proof or by estimate.

A product of bfloat16 matrices takes a third of the time of a float32 one, on processors that have the instructions; the
maximum of every block of rows then stands for the block, so that most scores are looked at once only. More than half of the
time of a search of 30,000 rows of width 256 is that product, of width 768 two thirds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from medrag_lightning.retrieval.rescoring import Floats, Integers, Vectors

BLOCK = 16  # rows that share a maximum
MOST_SCORES, MOST_QUERIES, FEWEST_QUERIES = 1 << 25, 512, 16  # of one product: 64 MB, and what a processor is fastest with
FEWEST_SCORES = 1 << 15  # from so many products on this pass is the faster one
HALF_STEP = 2.0**-9  # what rounding to bfloat16 changes at most in a number below 1


def has_instructions() -> bool:
    """Whether this processor multiplies bfloat16 faster than float32."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in names)


class HalfPass:
    """A bfloat16 copy of the vectors: (N, D) in half of float32's memory.

    Args:
        vectors: (N, D), of any length; read once.
    """

    def __init__(self, vectors: Vectors) -> None:
        self.count, dim = vectors.shape
        self._half_ND = torch.zeros(-(-self.count // BLOCK) * BLOCK, dim, dtype=torch.bfloat16)
        self._row_norm = self._row_error = 0.0
        for start in range(0, self.count, 16384):
            part = torch.from_numpy(np.array(vectors[start : start + 16384], np.float32))
            half = self._half_ND[start : start + len(part)]
            half.copy_(part)
            self._row_norm = max(self._row_norm, float(part.norm(dim=1).max()))
            self._row_error = max(self._row_error, float((part - half.float()).norm(dim=1).max()))

    @staticmethod
    def pays(count: int, queries: int, k: int) -> bool:
        """Whether this pass over `count` rows takes less time than float32: enough work, many more blocks than hits."""
        return queries > 1 and queries * count >= FEWEST_SCORES and count // BLOCK >= 4 * k

    def shortlists(self, query_BD: Floats, k: int, certain: bool) -> Iterator[tuple[slice, Integers, Integers]]:
        """Some queries at a time: which, and pairs of a query among them and a row, (P,) each, ascending.

        A query has at least min(k, N) pairs, and its best min(k, N) rows are among them.

        Args:
            query_BD: float32, of any length.
            k: at least 1.
            certain: whether "are among them" is proved, by a bound on the error of every product (Cauchy-Schwarz on what
                rounding took off); else it holds unless an error is four times as large as errors typically are.
        """
        step = min(MOST_QUERIES, max(FEWEST_QUERIES, MOST_SCORES // len(self._half_ND)))
        rough_BN = torch.empty(min(step, len(query_BD)), len(self._half_ND), dtype=torch.bfloat16)  # once: new pages are dear
        for start in range(0, len(query_BD), step):
            part = slice(start, start + step)
            who_P, row_P = self._shortlist(query_BD[part], k, certain, rough_BN)
            yield part, who_P, row_P

    def _shortlist(self, query_BD: Floats, k: int, certain: bool, rough_BN: Tensor) -> tuple[Integers, Integers]:
        blocks = len(self._half_ND) // BLOCK
        if blocks < k:
            everywhere = np.indices((len(query_BD), self.count)).reshape(2, -1)
            return everywhere[0], everywhere[1]
        query = torch.from_numpy(query_BD)
        half = query.bfloat16()
        rough_BN = torch.mm(half, self._half_ND.T, out=rough_BN[: len(query)])
        rough_BN[:, self.count :] = -torch.inf
        for view in (torch.int16, torch.bfloat16):
            # The bits of numbers above 0 are in their order, and integers are compared in a third of the time.
            # Block m is rows m, m + M, m + 2 M, ...: maxima over rows that lie far apart are the fast ones.
            peak_BM = rough_BN.view(view).view(len(query), BLOCK, blocks).amax(1).view(torch.bfloat16)
            # At least k rows score as high as the k-th of the maxima. NumPy partitions many times as fast as torch.topk.
            kth_B = np.partition(peak_BM.float().numpy(), blocks - k, axis=1)[:, blocks - k]
            floor_B = _rounded_down(torch.from_numpy(kth_B) - self._margin(query, half, certain))
            if floor_B.amin() > 0:
                break
        open_F = np.flatnonzero((peak_BM >= floor_B[:, None]).numpy())
        who_F = open_F // blocks
        place_FB = (open_F + who_F * (rough_BN.shape[1] - blocks))[:, None] + blocks * np.arange(BLOCK)
        # Bits of scores, since NumPy has no bfloat16 and torch's gathering is the slower one.
        bits_FB = rough_BN.view(torch.int16).numpy().reshape(-1).take(place_FB, mode="clip")
        high_FB = torch.from_numpy(bits_FB).view(torch.bfloat16) >= floor_B[torch.from_numpy(who_F), None]
        place_P = np.sort(place_FB[high_FB.numpy()])
        return np.divmod(place_P, rough_BN.shape[1])

    def _margin(self, query_BD: Tensor, half_BD: Tensor, certain: bool) -> Tensor:
        """(B,) how far below the k-th rough score the rough score of one of the best k may lie: twice the largest error."""
        norm_B, error_B = query_BD.norm(dim=1), (query_BD - half_BD.float()).norm(dim=1)
        of_inputs_B = norm_B * self._row_error + error_B * (self._row_norm + self._row_error)
        largest_B = norm_B * self._row_norm
        # Half a step of bfloat16 at the largest score; 1 and a little rounds to 1.
        of_result_B = HALF_STEP * torch.exp2(torch.ceil(torch.log2((largest_B / (1 + HALF_STEP)).clamp_min(1e-30))))
        dim = query_BD.shape[1]
        if not certain:
            of_inputs_B = of_inputs_B * min(1.0, 4 / math.sqrt(dim))
        margin_B: Tensor = 2 * (of_inputs_B + of_result_B + dim * 2.0**-23 * largest_B)
        return margin_B


def _rounded_down(value_B: Tensor) -> Tensor:
    """To bfloat16, never up."""
    near_B = value_B.bfloat16()
    below_B: Tensor = torch.where(near_B.float() > value_B, (value_B - value_B.abs() * 2.0**-7).bfloat16(), near_B)
    return below_B
