"""Where reports are kept, and how they are read and grouped."""
