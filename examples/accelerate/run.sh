# What each machine runs. `exec`: a shell in between would end at SIGTERM, and its program would be killed before it has saved.
exec torchrun --nnodes "$PIXEL_ORCH_NODES" --node-rank "$PIXEL_ORCH_NODE_RANK" \
    --nproc-per-node "$PIXEL_ORCH_GPUS_PER_NODE" --max-restarts 0 \
    --master-addr "$PIXEL_ORCH_MASTER_ADDR" --master-port "$PIXEL_ORCH_MASTER_PORT" train.py "$@"
