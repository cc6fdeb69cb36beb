"""PRES, DreamBooth's prior preservation (arXiv 2208.12242, section 4.3): does every dog now look like this dog?"""

from __future__ import annotations

from .base import Metric, OfFeatures
from .likeness import all_pairs

METRIC = Metric(
    "PRES",
    "lower",
    "likeness of other members of the class to the subject (DreamBooth's prior preservation)",
    (OfFeatures(pairing="prior", role="prior", formula=all_pairs),),
)
