"""The seam: the only code that touches a running model."""

from probe.seam.call import Activation, AttentionCall, Batch, Place
from probe.seam.observer import Observer, PointObserver
from probe.seam.places import places
from probe.seam.session import Session
from probe.seam.verify import Verification, verify

__all__ = [
    "Activation", "AttentionCall", "Batch", "Observer", "Place", "PointObserver", "Session", "Verification",
    "places", "verify",
]  # fmt: skip
