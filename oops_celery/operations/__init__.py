"""What operators look at: the doctor's checks, queue depths and metrics."""
