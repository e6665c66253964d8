"""Losses on trees: smoothness along edges, and distributions over dependency and constituency trees."""

from lossfns.trees.arcs import arc_cross_entropy as arc_cross_entropy
from lossfns.trees.arcs import dependency_tree_crf as dependency_tree_crf
from lossfns.trees.smoothness import tree_smoothness as tree_smoothness
from lossfns.trees.spans import span_tree_crf as span_tree_crf
