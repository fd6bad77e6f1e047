"""ROS bags of a drive: frames of its cameras, and what the car did at each."""
