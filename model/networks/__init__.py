"""The networks of the paper, in the form of its text and in a fast one, and how probable images are to them."""
