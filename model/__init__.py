"""The bundled PixelRNN trainer. Runs on the GPU machine; imports neither boto3, fabric nor the orchestrator."""
