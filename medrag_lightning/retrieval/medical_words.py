"""Pages with medical content, told by their words (MIRA: a language model answers ``<None>`` for the others)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medrag_lightning.artifacts import fingerprint
from medrag_lightning.interfaces import WebPage

_LIST = """
abdom abscess acute adeno allerg anatom anemi anaemi aneurysm angio antibiot anticoag aorta aortic arter arthr asthma atroph
autopsy bacteri benign biops bladder bone bowel brain breast bronch cancer carcin cardia cardio cataract cerebr chemotherap
cholester chronic cirrho clinic coloni colon congenit contrast coronar cyst dement derma diabet diagnos dialys disease
disorder doctor dose drug edema oedema effusion embol emphysem endosc epilep esophag etiolog fever fibros fractur gastr gene
genetic gland glucose gout gynec haem hemo hepat hernia histolog hormon hospital hypertens hypotens immun incidence infarct
infect inflam injur insulin intestin ischem ischaem jaundice joint keratos kidney lesion leukem leukaem liver lung lymph
malign mamm medic melan mening metasta mortality mri muscl mutation myocard naev necro neoplas nephr nerve neur nodule obes
oncolog opacit ophthalm osteo ovar pancrea patholog patient pediatr paediatr penicill pharmac physician placenta plasma
pleur pneumo prognos prostat protein psoria psychiatr pulmon radiograph radiolog radiother renal respirat retina retino
rheumat scan sclero seizure sepsis skin spinal spine spleen steno stroke surger surgic symptom syndrom therap thorac thorax
thrombo thyroid tissue toxic transplant trauma treatment tuberc tumor tumour ulcer ultraso urin uter vaccin valv vascul vein
venous ventric vertebr virus vitamin x-ray xray
"""
BEGINNINGS = tuple(_LIST.split())
"""Of English words that are medical more often than not."""
_WORD = re.compile(r"[a-z][a-z-]+")


class MedicalWords:
    """Keeps a page whose title and text have enough different medical words; `interfaces.PageFilter`.

    A rule: it knows some two hundred beginnings of English words. It lets a page about a drug's share price pass and drops a
    page in another language. Better filters are classes of their own.

    Args:
        least: different medical words that a page needs.
        beginnings: of words, in place of the list; null for the list.
    """

    def __init__(self, least: int = 3, beginnings: list[str] | None = None) -> None:
        if least < 1:
            raise ValueError(f"least must be at least 1, got {least}; AnyPage keeps every page")
        if beginnings is not None and not all(word.strip() for word in beginnings or [""]):
            raise ValueError("beginnings must name at least one word, and no empty one; leave it out for the list")
        self.least = least
        self.beginnings = tuple(word.strip().casefold() for word in (BEGINNINGS if beginnings is None else beginnings))

    def keeps(self, pages: Sequence[WebPage]) -> list[bool]:
        """Whether each page has enough."""
        return [len(self._medical(f"{page.title} {page.text}")) >= self.least for page in pages]

    def fingerprint(self) -> str:
        """Of the number and the words."""
        return fingerprint("medical words", self.least, list(self.beginnings))

    def _medical(self, text: str) -> set[str]:
        """The beginnings that occur; several words of one beginning count once."""
        words = set(_WORD.findall(text.casefold()))
        return {next(b for b in self.beginnings if word.startswith(b)) for word in words if word.startswith(self.beginnings)}


class AnyPage:
    """Keeps every page; `interfaces.PageFilter`."""

    def keeps(self, pages: Sequence[WebPage]) -> list[bool]:
        """True for each."""
        return [True] * len(pages)

    def fingerprint(self) -> str:
        """Always the same."""
        return fingerprint("any page")
