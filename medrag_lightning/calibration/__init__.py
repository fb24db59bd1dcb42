"""Choices that are known to keep a risk: how many candidates to read, when to answer without any, and when to abstain."""

from medrag_lightning.calibration.artifact import Calibration
from medrag_lightning.calibration.choosing import Calibrated, CalibrationSettings, Tested, calibrate
from medrag_lightning.calibration.outcomes import Outcomes, Policy
from medrag_lightning.calibration.p_values import hoeffding_bentkus, required_n

__all__ = [
    "Calibrated",
    "Calibration",
    "CalibrationSettings",
    "Outcomes",
    "Policy",
    "Tested",
    "calibrate",
    "hoeffding_bentkus",
    "required_n",
]
