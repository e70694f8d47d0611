"""The boot doctor: what was seen of each machine that boots, where it stopped, and the likely cause in a sentence."""

from __future__ import annotations

from metald.boot.doctor.attempt import Attempt, Loaded, Question, gather
from metald.boot.doctor.diagnosis import Diagnosis, Finding, diagnose
from metald.boot.doctor.doctor import Doctor, Report

__all__ = ["Attempt", "Diagnosis", "Doctor", "Finding", "Loaded", "Question", "Report", "diagnose", "gather"]
