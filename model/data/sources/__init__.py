"""The formats that data sets come in, each read strictly: damage is one line with the file and the byte."""
