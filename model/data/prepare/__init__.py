"""The commands `pixel-orch data prepare`, `preview` and `verify`."""
