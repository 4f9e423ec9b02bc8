"""Tests of what users do: README, examples, pages of docs/, installs, Flower."""
