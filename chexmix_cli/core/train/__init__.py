"""Training: objectives, data order, loop, checkpoints. `pretrain/` and `finetune/` put them together."""
