"""The published files of a data set: found or fetched, proved against their checksums, with room on the disk."""
