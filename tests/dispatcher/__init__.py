"""Tests of amqp-dispatcher's consumers."""
