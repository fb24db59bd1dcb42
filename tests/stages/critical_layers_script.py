"""Calibrates the planted reader on 2 processes into FOLDER. Run by test_critical_layers.py."""

import sys
from pathlib import Path

import torch
from test_critical_layers import calibrate

if __name__ == "__main__":
    torch.set_num_threads(1)
    calibrate(Path(sys.argv[1]), devices=2, strategy="ddp_fork")
