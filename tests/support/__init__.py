"""What several tests share: data, networks and stand-ins to test against."""
