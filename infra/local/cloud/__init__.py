"""The state of the embedded cloud: its instances, and the faults that apply to instances and prices."""
