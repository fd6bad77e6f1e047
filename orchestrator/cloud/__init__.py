"""The cloud: its protocol, AWS behind it, and how prices are asked for."""
