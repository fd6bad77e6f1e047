"""Finds or downloads the published files of a data set, verifies their checksums and checks the disk space."""
