"""The measurements that are found in what a program writes."""
