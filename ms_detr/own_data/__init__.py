"""A folder of data of any form, and everything that a training of it needs: a config."""

from .preparing import Prepared, prepare
from .request import Request, request_of
from .training import train_on

__all__ = ["Prepared", "Request", "prepare", "request_of", "train_on"]
