"""The words and figures of AWS: requests, answers, errors, prices, quotas, images; moto is used in this folder only."""
