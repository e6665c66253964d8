"""What the oracles of several losses share."""


def of_class(labels, i):
    """The positives and the negatives of anchor i."""
    others = [j for j in range(len(labels)) if j != i]
    return [j for j in others if labels[j] == labels[i]], [j for j in others if labels[j] != labels[i]]
