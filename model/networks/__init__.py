"""The paper's networks, each as a reference and as a fast implementation, and the likelihood of images under them."""
