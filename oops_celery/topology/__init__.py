"""The topology file as a value: its schema and checks, declaring, comparing, graphs."""
