"""A made-up A-share market in vendor tables: planted signal, none, or named faults. Read by tests and the simulated vendor."""
