"""A run on disk: its folder, lock, status and leaderboard."""
