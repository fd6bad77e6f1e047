"""From published files to shards and a manifest: `pixel-orch data prepare`, `preview` and `verify`."""
