"""A training as Detectron2 makes one of a LazyConfig: by its public interface, and nothing of ours.

    python lazyconfig_tool.py --config-file CONFIG [--resume] [--eval-only] [key=value ...]

Where Detectron2's own script is there, the test runs that one.
"""

import sys

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import (
    AMPTrainer,
    SimpleTrainer,
    create_ddp_model,
    default_argument_parser,
    default_setup,
    default_writers,
    hooks,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format


def evaluated(cfg, model):
    loader, evaluator = (instantiate(cfg.dataloader[name]) for name in ("test", "evaluator"))
    results = inference_on_dataset(model, loader, evaluator)
    print_csv_format(results)
    return results


def train(cfg, resume):
    settings = cfg.train
    bare = instantiate(cfg.model).to(settings.device)
    cfg.optimizer.params.model = bare
    optimizer = instantiate(cfg.optimizer)
    loader = instantiate(cfg.dataloader.train)
    model = create_ddp_model(bare, **settings.ddp)
    kind = AMPTrainer if settings.amp.enabled else SimpleTrainer
    trainer = kind(model, loader, optimizer)
    checkpointer = DetectionCheckpointer(
        model, settings.output_dir, optimizer=optimizer, trainer=trainer
    )
    writers = default_writers(settings.output_dir, settings.max_iter)
    trainer.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            hooks.PeriodicCheckpointer(checkpointer, **settings.checkpointer),
            hooks.EvalHook(settings.eval_period, lambda: evaluated(cfg, model)),
            hooks.PeriodicWriter(writers, period=settings.log_period),
        ]
    )
    checkpointer.resume_or_load(settings.init_checkpoint, resume=resume)
    goes_on = resume and checkpointer.has_checkpoint()
    trainer.train(trainer.iter + 1 if goes_on else 0, settings.max_iter)


def main(words):
    args = default_argument_parser().parse_args(words)
    cfg = LazyConfig.apply_overrides(LazyConfig.load(args.config_file), args.opts)
    default_setup(cfg, args)
    if args.eval_only:
        model = instantiate(cfg.model).to(cfg.train.device)
        DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
        print(evaluated(cfg, model))
    else:
        train(cfg, args.resume)


if __name__ == "__main__":
    main(sys.argv[1:])
