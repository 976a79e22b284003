"""Section `normalize` of params.yaml, and what it comes to for one source."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from medcot.params import Params
from medcot.pii import Mode, PiiParams, effective_mode
from medcot.quality import QualityParams


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules that one run applies: quality, and what becomes of personal data, no longer `auto`."""

    quality: QualityParams
    pii: Mode


class NormalizeParams(Params):
    """Section `normalize` of params.yaml."""

    max_bad_ratio: float = Field(ge=0.0, le=1.0)
    """Share of unreadable rows, 0 to 1, above which the file itself is refused; rows refused for other reasons do not count."""
    quality: QualityParams = QualityParams()
    """The quality rules, each with its action and threshold."""
    pii: PiiParams = PiiParams()
    """What becomes of personal data."""

    def policy(self, public: bool) -> Policy:
        """The rules for a source that is public, or is not."""
        return Policy(self.quality, effective_mode(self.pii, "hub" if public else "file"))
