"""What the cases of several losses share."""

CONSTANT_TEACHER = {"differentiable": (0,), "non_negative": True}
