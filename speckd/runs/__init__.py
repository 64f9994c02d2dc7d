"""Whole runs: settings in, a folder with student, log, recording and report out."""
