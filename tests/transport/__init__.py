"""Tests of the connection to RabbitMQ."""
