"""Is a class of your own a head, a belief or a policy that the package can run?

``check_head``, ``check_belief`` and ``check_policy`` do for the contract of ``worldrl/types.py`` what Gymnasium's
checker does for environments: they build the class on tiny inputs, use it as the agent does, and raise a ``UserError``
that names the first rule it breaks. They do not check equations, except a policy's density.
"""

from worldrl.testing.beliefs import check_belief
from worldrl.testing.heads import check_head
from worldrl.testing.inputs import random_batch, random_extra
from worldrl.testing.policies import check_policy

__all__ = ["check_belief", "check_head", "check_policy", "random_batch", "random_extra"]
