"""Reads ROS bags of a drive: the frames of its cameras, each with the telemetry of the car."""
