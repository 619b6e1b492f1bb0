"""The robustness profile of one network: measuring it, its record, its summary line."""
