"""A module that is nobody's business."""
