"""Penalties on parameters, on predicted distributions and on functions, and mixtures of examples."""

from lossfns.regularizers.functions import fisher_diagonal as fisher_diagonal
from lossfns.regularizers.functions import gradient_penalty as gradient_penalty
from lossfns.regularizers.functions import vat as vat
from lossfns.regularizers.mixing import Mixed as Mixed
from lossfns.regularizers.mixing import cutmix as cutmix
from lossfns.regularizers.mixing import mixup as mixup
from lossfns.regularizers.parameters import elastic_net as elastic_net
from lossfns.regularizers.parameters import ewc as ewc
from lossfns.regularizers.parameters import l1 as l1
from lossfns.regularizers.parameters import l2 as l2
from lossfns.regularizers.parameters import l2_sp as l2_sp
from lossfns.regularizers.parameters import orthogonality as orthogonality
from lossfns.regularizers.parameters import proximal as proximal
from lossfns.regularizers.predictions import confidence_penalty as confidence_penalty
from lossfns.regularizers.predictions import entropy_minimization as entropy_minimization
from lossfns.regularizers.predictions import moe_load_balance as moe_load_balance
from lossfns.regularizers.predictions import r_drop as r_drop
from lossfns.regularizers.predictions import router_z as router_z
