"""What a program on an instance may import as `orchestrator`: `log` and `callbacks`. Standard library only.

Each file stands alone: it is sent to the machine under another name (`layout.py`), where `infra` is not on the path.
"""
