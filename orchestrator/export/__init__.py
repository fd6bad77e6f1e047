"""Writes a run into the tracker that a team uses: MLflow, Weights & Biases, TensorBoard. Each is optional."""
