"""The formats that data sets are published in, one file a format, each read strictly."""
