"""Scores of predictions: overlap, surface distances, statistics over patients. No torch here."""
