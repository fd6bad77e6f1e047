"""Imported once, before ranks are forked: what torch imports only at its first optimizer takes a second."""

import sklearn.datasets  # noqa: F401
import torch

import model.cli.main
import model.training.loop  # noqa: F401

torch.set_num_threads(1)
torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
