"""EagleEye: random networks within a budget, scored once their batch norm statistics are adapted."""

from prunekit.algorithms.eagle_eye._settings import EagleEyeSettings
from prunekit.algorithms.eagle_eye.eagle_eye import EagleEye

__all__ = ["EagleEye", "EagleEyeSettings"]
