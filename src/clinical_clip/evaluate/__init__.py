"""Measuring retrieval: metrics over ranks, floors, intervals, protocols and reports."""
