"""Runs on disk: folder, lock, status and leaderboard."""
