"""Measurements behind `ms-detr benchmark`."""
