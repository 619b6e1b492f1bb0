"""The Ray executor: trials under Ray Tune, on this machine's cores or on a cluster."""
