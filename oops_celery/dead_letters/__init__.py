"""Messages that could not be processed: parked, read, replayed and removed."""
