"""How far a site misses its ceiling, or the ramp down to it, and what of that is worth a word."""

from __future__ import annotations

from dataclasses import dataclass

SHORT_KW, SHORT_SHARE = 1.0, 0.002
"""What is missed of a ceiling, or of a ramp, is told of from this on, or from this share of the ceiling; less is
rounding of caps."""


def beyond_rounding(kw: float, ceiling_kw: float) -> bool:
    """Whether so much, missed of a ceiling or of a ramp down to it, is worth a word."""
    return kw > min(SHORT_KW, SHORT_SHARE * max(0.0, ceiling_kw))


def kw_text(kw: float) -> str:
    """As much as it takes to tell two ceilings apart."""
    return f"{kw:.0f} kW" if kw >= 100.0 else f"{kw:.4g} kW"


@dataclass(slots=True)
class Fall:
    """How far a site's ceiling is below the line by which its ramp would have come down, and whether that was told."""

    beyond_kw: float = 0.0
    told: bool = False

    def see(self, fallen_kw: float, allowed_kw: float, ceiling_kw: float) -> bool:
        """Take in one tick: by how much the ceiling made the site fall, and what the ramp allows in that time. True
        once for each fall that goes beyond it by more than rounding."""
        self.beyond_kw = max(0.0, self.beyond_kw + max(0.0, fallen_kw) - allowed_kw)
        tells = not self.told and beyond_rounding(self.beyond_kw, ceiling_kw)
        self.told = self.beyond_kw > 0.0 and (self.told or tells)
        return tells
