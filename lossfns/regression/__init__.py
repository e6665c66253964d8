"""Losses of real-valued predictions, one value for each entry."""

from lossfns.regression.asymmetric import expectile as expectile
from lossfns.regression.asymmetric import quantile as quantile
from lossfns.regression.errors import absolute_error as absolute_error
from lossfns.regression.errors import charbonnier as charbonnier
from lossfns.regression.errors import huber as huber
from lossfns.regression.errors import log_cosh as log_cosh
from lossfns.regression.errors import smooth_l1 as smooth_l1
from lossfns.regression.errors import squared_error as squared_error
from lossfns.regression.errors import tukey_biweight as tukey_biweight
from lossfns.regression.likelihood import gaussian_nll as gaussian_nll
from lossfns.regression.likelihood import poisson_nll as poisson_nll
from lossfns.regression.relative import cosine_distance as cosine_distance
from lossfns.regression.relative import log_squared_error as log_squared_error
from lossfns.regression.robust import adaptive_barron as adaptive_barron
from lossfns.regression.robust import barron as barron
