"""The watched worker with the fault planted that ``SAEWATCH_MUTANT`` names: each rank's process imports it anew."""

from __future__ import annotations

import os

from benchmarks import mutants
from saewatch.engine.vllm import TapWorker

mutants.plant(os.environ["SAEWATCH_MUTANT"])

PlantedWorker = TapWorker
