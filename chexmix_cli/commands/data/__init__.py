"""``chexmix data``: published data sets to manifests, checks, shard sets."""
