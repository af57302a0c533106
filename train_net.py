"""Train, resume or evaluate a detector: `ms-detr train` by Detectron2's name for it.

python train_net.py --config-file configs/demo/ms_detr.py train.max_iter=100
python train_net.py --config-file configs/... --num-gpus 8 [--resume | --eval-only] key=value ...
"""

import sys

from ms_detr.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
