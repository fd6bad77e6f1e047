"""AWS's formats and data: requests, answers, errors, prices, quotas, images. Only this folder imports moto."""
