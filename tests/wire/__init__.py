"""Tests of reports as bytes."""
