"""Hostile and damaged inputs for all that reads files: a program (scripts/fuzz.py) and a corpus that the tests read.

A kind of reader is one file in readers/ and one line in readers/__init__.py.
"""
