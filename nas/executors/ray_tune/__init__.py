"""Ray executor: runs trials with Ray Tune on the cores of this machine or on a cluster."""
