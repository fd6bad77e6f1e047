"""From what was asked for to what will be sent, decided before anything is billed."""
