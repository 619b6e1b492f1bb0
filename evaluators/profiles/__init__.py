"""The robustness profile of one network: its measurement, its record and its summary line."""
