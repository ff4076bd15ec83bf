"""The claims, one file each; `probe.replay.table` lists them."""
