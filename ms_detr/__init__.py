"""MS-DETR and its relatives on Detectron2: one decoder, one set of queries, mixed supervision."""

__version__ = "0.1.0"
