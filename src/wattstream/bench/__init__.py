"""The benchmark: how fast this machine ingests, as ratios against references of the same run."""
