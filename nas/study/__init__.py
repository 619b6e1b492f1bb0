"""The Optuna study: trials, storage, ranking, finalists."""
