"""Everything of a run that is neither model, data nor optimiser."""

train = dict(
    output_dir="output",
    # ImageNet weights of torchvision; a URL, a file, or "" for none.
    init_checkpoint="https://download.pytorch.org/models/resnet50-0676ba61.pth",
    epochs=12.0,
    max_iter=None,  # instead of epochs
    seed=42,
    device="auto",  # CUDA if there is one
    threads=None,  # CPU threads a process; None leaves it to torch
    # On several GPUs, BatchNorm over the images of all, where it is trained. Otherwise each process
    # has statistics of its own, whose averages are evaluated and saved.
    sync_batchnorm=False,
    clip_grad_norm=0.1,
    log_period=20,  # iterations
    eval_epochs=1.0,  # 0: only at the end
    checkpoint_epochs=1.0,
    checkpoints_to_keep=2,
)
